"""Adapters as PEFT writes and reads them; the files alone, and beside PEFT where it is installed."""

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from common.backbones import prefix_tuning
from common.prompts import LABELS, random_batch, random_low_rank, random_prompt, scorer_of, scores_of
from safetensors.torch import load_file, save_file

from mpt.base.errors import CheckpointError
from mpt.model.state.bank import TaskState
from mpt.model.state.input_prompt import InputPrompt
from mpt.model.state.weights import Weights
from mpt.serving.peft_adapter import export_peft, read_adapter
from mpt.serving.saved import SavedModel

KINDS = ("bert", "roberta", "xlm-roberta", "electra", "llama", "qwen2")
LORA_KINDS = (*KINDS, "albert", "distilbert", "deberta", "deberta-v2", "deberta-v3", "glm", "mistral", "qwen3", "gpt2")
LENGTH, RANK = 5, 3

peft_warns = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")


def saved_of(backbone, *parts, family="ner"):
    """A model as if it had been opened from a checkpoint."""
    checkpoint = SimpleNamespace(identity={"tasks": {"t": {"family": family}}})
    scorer = scorer_of(backbone, TaskState(parts)).requires_grad_(False)
    return SavedModel(folder=Path("run"), checkpoint=checkpoint, scorer=scorer)


def prompted(load, kind="bert", layers=None, **options):
    """A model with a prompt."""
    backbone = load(kind, **({"shifted": True, "prompt_length": LENGTH} | options))
    return saved_of(backbone, random_prompt(backbone, LENGTH, layers))


def updated(load, kind="bert", *, alpha=7.5, **options):
    """A model with low-rank updates."""
    backbone = load(kind)
    return saved_of(backbone, random_low_rank(backbone, RANK, alpha=alpha, **options))


@pytest.fixture
def saved(load):
    return prompted(load)


@pytest.fixture
def lora(load, tmp_path):
    """A folder with LoRA to break."""
    export_peft(updated(load), "t", tmp_path / "lora")
    return tmp_path / "lora"


@pytest.fixture
def adapter(saved, tmp_path):
    """A folder to break."""
    export_peft(saved, "t", tmp_path / "adapter")
    return tmp_path / "adapter"


def rewrite(path, **changes):
    """Change fields of a JSON file; None removes one."""
    content = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({key: value for key, value in content.items() if value is not None}))


# The files


def test_the_layout_is_pefts(saved, adapter):
    assert {path.name for path in adapter.iterdir()} == {
        "adapter_config.json",
        "adapter_model.safetensors",
        "config.json",
    }
    config = json.loads((adapter / "adapter_config.json").read_text())
    assert (config["peft_type"], config["task_type"], config["num_transformer_submodules"]) == (
        "PREFIX_TUNING",
        "TOKEN_CLS",
        1,
    )
    sizes = [config[name] for name in ("num_virtual_tokens", "num_layers", "num_attention_heads", "token_dim")]
    assert sizes == [LENGTH, 3, 4, 32]
    tensors = load_file(adapter / "adapter_model.safetensors")
    assert {name: tuple(tensor.shape) for name, tensor in tensors.items()} == {
        "prompt_embeddings": (LENGTH, 3 * 2 * 32),
        "base_model.classifier.weight": (5, 32),
        "base_model.classifier.bias": (5,),
    }
    # Virtual token 2, layer 1, value, head 3.
    values = tensors["prompt_embeddings"].view(LENGTH, 6, 4, 8)
    assert torch.equal(values[2, 3, 3], saved.state.parts["prompt"].flat[1, 1, 3, 2])
    described = json.loads((adapter / "config.json").read_text())
    assert [described["id2label"][str(row)] for row in range(5)] == list(LABELS)
    assert described["label2id"]["B-Y"] == 3 and described["num_hidden_layers"] == 3


def test_the_layout_of_low_rank_updates_is_pefts(load, lora):
    config = json.loads((lora / "adapter_config.json").read_text())
    assert {key: config[key] for key in ("peft_type", "task_type", "r", "lora_alpha", "bias", "fan_in_fan_out")} == {
        "peft_type": "LORA",
        "task_type": "TOKEN_CLS",
        "r": RANK,
        "lora_alpha": 7.5,
        "bias": "none",
        "fan_in_fan_out": False,
    }
    assert len(config["target_modules"]) == 3 * 6 and config["modules_to_save"] == ["classifier"]
    assert "bert.encoder.layer.1.attention.self.value" in config["target_modules"]
    tensors = load_file(lora / "adapter_model.safetensors")
    assert len(tensors) == 2 * 3 * 6 + 2
    name = "base_model.model.bert.encoder.layer.1.intermediate.dense"
    assert tuple(tensors[f"{name}.lora_A.weight"].shape) == (RANK, 32)
    assert tuple(tensors[f"{name}.lora_B.weight"].shape) == (64, RANK)
    assert tuple(tensors["base_model.model.classifier.weight"].shape) == (5, 32)


@pytest.mark.parametrize(
    ("kind", "made"),
    [*(pytest.param(kind, prompted, marks=prefix_tuning) for kind in KINDS), *((kind, updated) for kind in LORA_KINDS)],
)
def test_what_was_written_is_read_back_to_the_bit(load, tmp_path, kind, made):
    saved = made(load, kind)
    export_peft(saved, "t", tmp_path / "adapter")
    adapter, backbone = read_adapter(tmp_path / "adapter"), saved.scorer.backbone
    state = TaskState([adapter.form.read(adapter.config, adapter.tensors, backbone)])
    assert state.specs == saved.state.specs
    values, expected = state.values(), saved.state.values()
    assert list(values) == list(expected) and all(torch.equal(values[name], expected[name]) for name in expected)
    head = saved.scorer.head("t")
    assert torch.equal(adapter.weight, head.weight) and torch.equal(adapter.bias, head.bias)
    assert adapter.labels == LABELS
    assert all(
        ours == theirs for ours, theirs in adapter.form.sizes(adapter.config, adapter.tensors, backbone).values()
    )
    assert (adapter.base, adapter.revision) == (backbone.identity.reference, None)


def test_a_backbone_of_the_hub_is_named_by_its_commit(load, tiny_folder, tmp_path, monkeypatch):
    backbone, commit = load("bert", shifted=True, prompt_length=LENGTH), "a" * 40
    backbone = replace(backbone, identity=replace(backbone.identity, reference="owner/name", revision=commit))
    monkeypatch.setattr("mpt.serving.peft_adapter.locate", lambda reference, revision: tiny_folder("bert"))
    export_peft(saved_of(backbone, random_prompt(backbone, LENGTH)), "t", tmp_path / "adapter")
    adapter = read_adapter(tmp_path / "adapter")
    assert (adapter.base, adapter.revision) == ("owner/name", commit)


# What PEFT cannot express


def test_everything_that_peft_cannot_express_is_told_at_once(load, tmp_path):
    with pytest.raises(CheckpointError) as caught:
        saved = prompted(load, "distilbert", (1, 2), shifted=False, word_state="mean")
        export_peft(saved, "t", tmp_path / "adapter")
    first, second, third, fourth = caught.value.problems
    assert "run: PEFT cannot express this prompt: backbone" in first
    assert "is a DistilBertModel, which does not take past_key_values" in first
    assert "its text keeps its positions (backbone.positions: unshifted)" in second
    assert "backbone.positions=shifted" in second
    assert "it prompts layers 1, 2 of 3, while PEFT prompts all" in third
    assert "its head scores the mean of a word's pieces (backbone.word_state: mean)" in fourth
    assert not (tmp_path / "adapter").exists()


@pytest.mark.parametrize("kind", ["distilbert", "modernbert"])
def test_a_backbone_that_ignores_past_keys_and_values_is_refused(load, tmp_path, kind):
    with pytest.raises(CheckpointError, match=r"expected one of BertModel, ElectraModel, .* Use mpt for this one"):
        export_peft(prompted(load, kind), "t", tmp_path / "adapter")


def test_a_backbone_whose_head_has_more_layers_is_refused(load, tmp_path):
    with pytest.raises(CheckpointError, match=r"low-rank update: .* is a ModernBertModel, which has more than a"):
        export_peft(updated(load, "modernbert"), "t", tmp_path / "adapter")


def test_a_head_that_scores_no_words_is_refused(load, tmp_path):
    backbone = load("bert", shifted=True, prompt_length=LENGTH)
    saved = saved_of(backbone, random_prompt(backbone, LENGTH), family="classification")
    with pytest.raises(CheckpointError, match=r'task "t" \(family classification\) scores text, expected words'):
        export_peft(saved, "t", tmp_path / "adapter")


def test_low_rank_updates_beside_a_mean_of_pieces_are_refused(load, tmp_path):
    backbone = load("bert", word_state="mean")
    with pytest.raises(CheckpointError, match=r"this low-rank update: its head scores the mean of a word's pieces"):
        export_peft(saved_of(backbone, random_low_rank(backbone, RANK)), "t", tmp_path / "adapter")


@pytest.mark.parametrize(
    ("parts", "told"),
    [
        ((), "it has a head on the bare backbone and neither a prompt nor low-rank updates"),
        (("prompt", "low_rank"), r"it has prompt and low_rank, expected prompt or low_rank, one of them.*Use mpt"),
        (("weights",), r"it has weights, expected prompt or low_rank.*--format backbone"),
        (("input",), r"it has input, expected prompt or low_rank.*Use mpt for this one"),
    ],
)
def test_a_state_that_is_not_one_part_of_pefts_is_refused(load, tmp_path, parts, told):
    backbone = load("bert", shifted=True)
    made = {
        "prompt": lambda: random_prompt(backbone, LENGTH),
        "low_rank": lambda: random_low_rank(backbone, RANK),
        "weights": lambda: Weights(backbone),
        "input": lambda: InputPrompt(torch.zeros(LENGTH, 32)),
    }
    with pytest.raises(CheckpointError, match=f"run: PEFT cannot express this task state: {told}"):
        export_peft(saved_of(backbone, *(made[part]() for part in parts)), "t", tmp_path / "adapter")
    assert not (tmp_path / "adapter").exists()


def test_an_existing_folder_is_left_alone(saved, adapter):
    before = (adapter / "adapter_model.safetensors").read_bytes()
    with pytest.raises(CheckpointError, match=r"adapter: cannot make this folder: it exists\. Give another"):
        export_peft(saved, "t", adapter)
    assert (adapter / "adapter_model.safetensors").read_bytes() == before


# What is no adapter of a prompt


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"peft_type": "IA3"}, ["peft_type: expected PREFIX_TUNING or LORA, got IA3"]),
        (
            {"task_type": "SEQ_CLS", "num_transformer_submodules": 2},
            ["task_type: expected TOKEN_CLS, got SEQ_CLS", "num_transformer_submodules: expected 1, got 2"],
        ),
        (
            {"num_layers": 0, "token_dim": None},
            [
                "num_layers: expected a whole number from 1, got 0",
                "token_dim: expected a whole number from 1, got None",
            ],
        ),
    ],
)
def test_a_configuration_of_something_else_is_told(adapter, changes, told):
    rewrite(adapter / "adapter_config.json", **changes)
    with pytest.raises(CheckpointError) as caught:
        read_adapter(adapter)
    assert len(caught.value.problems) == len(told)
    for problem, part in zip(caught.value.problems, told, strict=True):
        assert f"adapter_config.json: {part}" in problem


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"use_dora": True}, "use_dora: expected false, got True"),
        ({"bias": "lora_only"}, "bias: expected none, got lora_only"),
        ({"rank_pattern": {"query": 4}}, "rank_pattern: expected nothing, got {'query': 4}"),
        ({"alpha_pattern": {"query": 4}}, "alpha_pattern: expected nothing, got {'query': 4}"),
        ({"layer_replication": [[0, 2], [1, 3]]}, "layer_replication: expected nothing, got [[0, 2], [1, 3]]"),
        ({"trainable_token_indices": [3]}, "trainable_token_indices: expected nothing, got [3]"),
        ({"a_field_of_the_future": True}, "a_field_of_the_future: expected false, got True"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights: expected true, false, gaussian or eva, got pissa"),
        ({"r": 0}, "r: expected a whole number from 1, got 0"),
        ({"lora_alpha": None}, "lora_alpha: expected a number above 0, got None"),
    ],
)
def test_what_lora_has_and_mpt_has_not_is_told_with_both_values(lora, changes, told):
    rewrite(lora / "adapter_config.json", **changes)
    with pytest.raises(CheckpointError) as caught:
        read_adapter(lora)
    (problem,) = caught.value.problems
    assert f"adapter_config.json: {told}" in problem


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("base_model.model.bert.embeddings.word_embeddings.lora_embedding_A", (3, 99)),
        ("base_model.model.bert.pooler.dense.weight", (32, 32)),
    ],
)
def test_tensors_beside_updates_and_head_are_told(lora, name, shape):
    tensors = load_file(lora / "adapter_model.safetensors")
    save_file({**tensors, name: torch.zeros(shape)}, lora / "adapter_model.safetensors")
    with pytest.raises(CheckpointError, match=rf"expected low-rank updates .* and a linear head alone, got {name} "):
        read_adapter(lora)


def test_updates_of_another_rank_than_the_configurations_are_told(lora):
    rewrite(lora / "adapter_config.json", r=4)
    with pytest.raises(CheckpointError, match=r"have shapes \(3, 32\) and \(32, 3\), expected .* with r 4"):
        read_adapter(lora)


def test_half_an_update_is_told(lora):
    tensors = load_file(lora / "adapter_model.safetensors")
    del tensors["base_model.model.bert.encoder.layer.1.intermediate.dense.lora_A.weight"]
    save_file(tensors, lora / "adapter_model.safetensors")
    with pytest.raises(CheckpointError, match=r"intermediate\.dense: lora_A and lora_B have shapes \(\) and \(64, 3\)"):
        read_adapter(lora)


def test_a_folder_without_a_configuration_is_no_adapter(tmp_path):
    with pytest.raises(CheckpointError, match=r"no adapter_config\.json here, so this is no adapter"):
        read_adapter(tmp_path)


def test_pickled_weights_are_not_loaded(adapter):
    (adapter / "adapter_model.safetensors").rename(adapter / "adapter_model.bin")
    with pytest.raises(CheckpointError, match=r"Pickled weights are never loaded; .*safe_serialization=True"):
        read_adapter(adapter)


def test_damaged_weights_are_told(adapter):
    (adapter / "adapter_model.safetensors").write_bytes(b"\0" * 20)
    with pytest.raises(CheckpointError, match=r"adapter_model\.safetensors: cannot be read: .*Save the adapter again"):
        read_adapter(adapter)


def test_sizes_that_contradict_the_weights_are_told(adapter):
    rewrite(adapter / "adapter_config.json", num_layers=4)
    with pytest.raises(CheckpointError, match=r"has shape \(5, 192\), expected \(5, 256\) \[num_virtual_tokens, "):
        read_adapter(adapter)


def test_an_adapter_without_a_linear_head_is_told(adapter):
    tensors = load_file(adapter / "adapter_model.safetensors")
    del tensors["base_model.classifier.bias"]
    save_file(tensors, adapter / "adapter_model.safetensors")
    with pytest.raises(CheckpointError, match=r"no linear head, expected base_model\.classifier or base_model\.score"):
        read_adapter(adapter)


def test_labels_may_be_missing_but_not_be_too_few(adapter):
    rewrite(adapter / "config.json", id2label={"0": "O"})
    with pytest.raises(CheckpointError, match=r"id2label names 1 labels, expected 0 to 4, the rows of the head"):
        read_adapter(adapter)
    (adapter / "config.json").unlink()
    assert read_adapter(adapter).labels is None


# Beside PEFT


@pytest.fixture
def peft():
    return pytest.importorskip("peft", reason="PEFT is not installed: pip install -e '.[dev]' has it")


def base_model(folder, **options):
    """What transformers loads for token classification, without its report."""
    from transformers import AutoModelForTokenClassification
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    return AutoModelForTokenClassification.from_pretrained(folder, **options).eval()


def word_scores(model, batch):
    """Scores of the words of a batch, from PEFT's model."""
    mask = torch.ones_like(batch.input_ids_BS) if batch.attention_mask_BS is None else batch.attention_mask_BS.long()
    with torch.no_grad():
        logits = model(input_ids=batch.input_ids_BS, attention_mask=mask).logits
    return logits.flatten(0, 1)[batch.words_M]


@peft_warns
@pytest.mark.parametrize(
    ("kind", "made"),
    [*(pytest.param(kind, prompted, marks=prefix_tuning) for kind in KINDS), *((kind, updated) for kind in LORA_KINDS)],
)
def test_peft_gives_the_scores_of_what_was_exported(peft, load, tiny_folder, tmp_path, kind, made):
    from transformers import AutoConfig

    saved = made(load, kind)
    export_peft(saved, "t", tmp_path / "adapter")
    config = AutoConfig.from_pretrained(tmp_path / "adapter")
    base = base_model(tiny_folder(kind), config=config)
    batch = random_batch(saved.scorer.backbone, 7, 4)
    bare = word_scores(base, batch)
    model = peft.PeftModel.from_pretrained(base, tmp_path / "adapter")
    assert type(model).__name__ == "PeftModelForTokenClassification"
    assert [model.config.id2label[row] for row in range(5)] == list(LABELS)
    ours, theirs = scores_of(saved.scorer, batch), word_scores(model, batch)
    assert (theirs - bare).abs().max() > 0.01
    torch.testing.assert_close(theirs, ours, atol=1e-5, rtol=1e-4)


@peft_warns
@pytest.mark.parametrize("made", [pytest.param(prompted, marks=prefix_tuning), updated])
def test_peft_finds_the_backbone_by_itself(peft, load, tmp_path, made):
    saved = made(load)
    export_peft(saved, "t", tmp_path / "adapter")
    model = peft.AutoPeftModelForTokenClassification.from_pretrained(tmp_path / "adapter", num_labels=5).eval()
    batch = random_batch(saved.scorer.backbone, 7, 4)
    torch.testing.assert_close(word_scores(model, batch), scores_of(saved.scorer, batch), atol=1e-5, rtol=1e-4)


@peft_warns
def test_updates_of_some_layers_and_targets_are_those_in_peft(peft, load, tiny_folder, tmp_path):
    saved = updated(load, "bert", targets="attention", layers=[2])
    export_peft(saved, "t", tmp_path / "adapter")
    model = peft.PeftModel.from_pretrained(base_model(tiny_folder("bert"), num_labels=5), tmp_path / "adapter")
    found = sum(hasattr(module, "lora_A") for module in model.modules())
    assert found == 4 == len(saved.state.parts["low_rank"].names)
    batch = random_batch(saved.scorer.backbone, 7, 4)
    torch.testing.assert_close(word_scores(model, batch), scores_of(saved.scorer, batch), atol=1e-5, rtol=1e-4)


@peft_warns
@prefix_tuning
def test_peft_scores_differently_where_an_export_is_refused(peft, load, tiny_folder, tmp_path):
    """The twin: the same prompt with unshifted positions is another function."""
    export_peft(prompted(load), "t", tmp_path / "adapter")
    model = peft.PeftModel.from_pretrained(base_model(tiny_folder("bert"), num_labels=5), tmp_path / "adapter")
    unshifted = prompted(load, shifted=False)
    batch = random_batch(unshifted.scorer.backbone, 7, 4)
    assert (word_scores(model, batch) - scores_of(unshifted.scorer, batch)).abs().max() > 1e-3


@peft_warns
@pytest.mark.parametrize("kind", ["bert", "roberta", "distilbert", "albert", "llama", "gpt2"])
@pytest.mark.parametrize("stabilised", [False, True])
def test_what_peft_saved_gives_its_scores(peft, load, tiny_folder, tmp_path, kind, stabilised):
    """Random updates of PEFT's own default layers, or of all where it has none."""
    backbone = load(kind)
    targets = [linear.name for linear in backbone.linears] if kind in ("albert", "distilbert") else None
    config = peft.LoraConfig(
        task_type="TOKEN_CLS",
        r=4,
        lora_alpha=6,
        target_modules=targets,
        use_rslora=stabilised,
        init_lora_weights=False,
        fan_in_fan_out=kind == "gpt2",
    )
    model = peft.get_peft_model(base_model(tiny_folder(kind), num_labels=5), config).eval()
    model.save_pretrained(tmp_path / "adapter")
    adapter = read_adapter(tmp_path / "adapter")
    saved = saved_of(backbone, adapter.form.read(adapter.config, adapter.tensors, backbone))
    head = saved.scorer.head("t")
    head.weight.copy_(adapter.weight), head.bias.copy_(adapter.bias)
    batch = random_batch(backbone, 7, 4)
    theirs = word_scores(model, batch)
    with model.disable_adapter():
        assert (theirs - word_scores(model, batch)).abs().max() > 0.01
    torch.testing.assert_close(scores_of(saved.scorer, batch), theirs, atol=1e-5, rtol=1e-4)
