"""Adapters as PEFT writes and reads them; the files alone, and beside PEFT where it is installed."""

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from common.backbones import prefix_tuning
from common.prompts import LABELS, random_bank, random_batch, tagger_of
from safetensors.torch import load_file, save_file

from mpt.base.errors import CheckpointError
from mpt.model.state.network import by_layer
from mpt.serving.peft_adapter import export_peft, read_adapter
from mpt.serving.saved import SavedModel

KINDS = ("bert", "roberta", "xlm-roberta", "electra", "llama", "qwen2")
LENGTH = 5


def saved_of(backbone, *slots, family="ner"):
    """A model as if it had been opened from a checkpoint."""
    bank = random_bank(backbone, *slots) if slots else None
    checkpoint = SimpleNamespace(identity={"tasks": {"t": {"family": family}}})
    return SavedModel(folder=Path("run"), checkpoint=checkpoint, tagger=tagger_of(backbone, bank))


@pytest.fixture
def saved(load):
    return saved_of(load("bert", shifted=True, prompt_length=LENGTH), LENGTH)


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
    assert torch.equal(values[2, 3, 3], saved.tagger.bank.slots[0][1, 1, 3, 2])
    described = json.loads((adapter / "config.json").read_text())
    assert [described["id2label"][str(row)] for row in range(5)] == list(LABELS)
    assert described["label2id"]["B-Y"] == 3 and described["num_hidden_layers"] == 3


@pytest.mark.parametrize("kind", KINDS)
def test_what_was_written_is_read_back_to_the_bit(load, tmp_path, kind):
    saved = saved_of(load(kind, shifted=True, prompt_length=LENGTH), LENGTH)
    export_peft(saved, "t", tmp_path / "adapter")
    adapter, backbone = read_adapter(tmp_path / "adapter"), saved.tagger.backbone
    prompt = by_layer(adapter.values_PV, num_heads=backbone.num_key_value_heads, head_dim=backbone.head_dim)
    assert torch.equal(prompt, saved.tagger.bank.slots[0])
    head = saved.tagger.head("t")
    assert torch.equal(adapter.weight, head.weight) and torch.equal(adapter.bias, head.bias)
    assert adapter.labels == LABELS
    assert (adapter.num_layers, adapter.num_heads) == (3, backbone.num_key_value_heads)
    assert (adapter.base, adapter.revision) == (backbone.identity.reference, None)


def test_a_backbone_of_the_hub_is_named_by_its_commit(saved, tiny_folder, tmp_path, monkeypatch):
    backbone, commit = saved.tagger.backbone, "a" * 40
    backbone.identity = replace(backbone.identity, reference="owner/name", revision=commit)
    monkeypatch.setattr("mpt.serving.peft_adapter.locate", lambda reference, revision: tiny_folder("bert"))
    export_peft(saved, "t", tmp_path / "adapter")
    adapter = read_adapter(tmp_path / "adapter")
    assert (adapter.base, adapter.revision) == ("owner/name", commit)


# What PEFT cannot express


def test_everything_that_peft_cannot_express_is_told_at_once(load, tmp_path):
    with pytest.raises(CheckpointError) as caught:
        export_peft(saved_of(load("distilbert", word_state="mean"), (LENGTH, (1, 2))), "t", tmp_path / "adapter")
    first, second, third, fourth = caught.value.problems
    assert "run: PEFT cannot express this prompt: backbone" in first
    assert "is a DistilBertModel, which does not take past_key_values" in first
    assert "its text keeps its positions (backbone.positions: unshifted)" in second
    assert "backbone.positions=shifted" in second
    assert "its head scores the mean of a word's pieces (backbone.word_state: mean)" in third
    assert "it prompts layers 1, 2 of 3, while PEFT prompts all" in fourth
    assert not (tmp_path / "adapter").exists()


@pytest.mark.parametrize("kind", ["distilbert", "modernbert"])
def test_a_backbone_that_ignores_past_keys_and_values_is_refused(load, tmp_path, kind):
    with pytest.raises(CheckpointError, match=r"expected one of BertModel, ElectraModel, .* Use mpt for this one"):
        export_peft(saved_of(load(kind, shifted=True, prompt_length=LENGTH), LENGTH), "t", tmp_path / "adapter")


def test_a_head_that_scores_no_words_is_refused(load, tmp_path):
    backbone = load("bert", shifted=True, prompt_length=LENGTH)
    with pytest.raises(CheckpointError, match=r'task "t" \(family classification\) scores text, expected words'):
        export_peft(saved_of(backbone, LENGTH, family="classification"), "t", tmp_path / "adapter")


def test_a_head_without_a_prompt_is_no_adapter(load, tmp_path):
    with pytest.raises(CheckpointError, match="run: has a head on the bare backbone and no prompt"):
        export_peft(saved_of(load("bert", shifted=True)), "t", tmp_path / "adapter")


def test_an_existing_folder_is_left_alone(saved, adapter):
    before = (adapter / "adapter_model.safetensors").read_bytes()
    with pytest.raises(CheckpointError, match=r"adapter: cannot make this folder: it exists\. Give another"):
        export_peft(saved, "t", adapter)
    assert (adapter / "adapter_model.safetensors").read_bytes() == before


# What is no adapter of a prompt


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"peft_type": "LORA"}, ["peft_type: expected PREFIX_TUNING, got LORA"]),
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


@prefix_tuning
@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")
@pytest.mark.parametrize("kind", KINDS)
def test_peft_gives_the_scores_of_what_was_exported(peft, load, tiny_folder, tmp_path, kind):
    from transformers import AutoConfig

    saved = saved_of(load(kind, shifted=True, prompt_length=LENGTH), LENGTH)
    export_peft(saved, "t", tmp_path / "adapter")
    config = AutoConfig.from_pretrained(tmp_path / "adapter")
    model = peft.PeftModel.from_pretrained(base_model(tiny_folder(kind), config=config), tmp_path / "adapter")
    assert type(model).__name__ == "PeftModelForTokenClassification"
    assert [model.config.id2label[row] for row in range(5)] == list(LABELS)
    batch = random_batch(saved.tagger.backbone, 7, 4)
    with torch.no_grad():
        ours = saved.tagger("t", batch)
    assert ours.abs().max() > 0.01
    torch.testing.assert_close(word_scores(model, batch), ours, atol=1e-5, rtol=1e-4)


@prefix_tuning
@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")
def test_peft_scores_differently_where_an_export_is_refused(peft, load, tiny_folder, tmp_path):
    """The twin: the same prompt with unshifted positions is another function."""
    saved = saved_of(load("bert", shifted=True, prompt_length=LENGTH), LENGTH)
    export_peft(saved, "t", tmp_path / "adapter")
    model = peft.PeftModel.from_pretrained(base_model(tiny_folder("bert"), num_labels=5), tmp_path / "adapter")
    batch = random_batch(saved.tagger.backbone, 7, 4)
    with torch.no_grad():
        unshifted = saved_of(load("bert"), LENGTH).tagger("t", batch)
    assert (word_scores(model, batch) - unshifted).abs().max() > 1e-3
