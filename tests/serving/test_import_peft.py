"""Adapters of PEFT as checkpoints: round trips, and what PEFT itself has made where it is installed."""

import json
from dataclasses import replace

import pytest
import torch
from common.backbones import prefix_tuning
from common.prompts import random_batch
from common.runs import quiet, run_pretrain, run_transfer, write_bert
from safetensors.torch import load_file, save_file

from mpt.base.errors import BackboneError, CheckpointError, ConfigError
from mpt.experiments.evaluate import evaluate
from mpt.serving.import_peft import import_peft
from mpt.serving.peft_adapter import export_peft
from mpt.serving.saved import open_saved

LABELS = ("O", "B-LOC", "I-LOC", "B-PER", "I-PER")


@pytest.fixture(scope="module")
def run(world, tmp_path_factory):
    """A pretraining run with shifted positions, which PEFT can express."""
    folder = tmp_path_factory.mktemp("shifted") / "run"
    run_pretrain(world, folder, backbone__positions="shifted")
    return folder


@pytest.fixture
def adapter(run, tmp_path):
    export_peft(open_saved(run), "places", tmp_path / "adapter")
    return tmp_path / "adapter"


def imported(world, adapter, out, *, task="places", labels=(), reference=None, revision=None):
    return import_peft(
        adapter,
        out,
        manifest_path=world.data / "mixture.yaml",
        task=task,
        labels=labels,
        reference=reference,
        revision=revision,
        dtype="float32",
        console=quiet(),
    )


def scores_of(saved, batch, task="places"):
    with torch.no_grad():
        return torch.cat(saved.scorer(replace(batch, rows=(replace(batch.rows[0], tasks=(task,)),))))


def reordered(adapter, order):
    """Put the head's rows in another order, with their names."""
    path = adapter / "adapter_model.safetensors"
    tensors = load_file(path)
    for name in ("base_model.classifier.weight", "base_model.classifier.bias"):
        tensors[name] = tensors[name][order].clone()
    save_file(tensors, path)
    config = json.loads((adapter / "config.json").read_text())
    names = config["id2label"]
    config["id2label"] = {str(row): names[str(old)] for row, old in enumerate(order)}
    (adapter / "config.json").write_text(json.dumps(config))


def test_a_round_trip_gives_the_same_scores_to_the_bit(world, run, adapter, tmp_path):
    before, after = open_saved(run), open_saved(imported(world, adapter, tmp_path / "back"))
    assert list(after.tasks) == ["places"] and after.tasks["places"] == before.tasks["places"]
    batch = random_batch(before.scorer.backbone, 6, 9)
    assert torch.equal(scores_of(after, batch), scores_of(before, batch))
    ours, theirs = after.checkpoint.identity["backbone"], before.checkpoint.identity["backbone"]
    assert ours == theirs, "digests, type and positions"
    assert set(after.checkpoint.identity["peft"]) == {"adapter_config.json", "adapter_model.safetensors"}


def test_what_was_imported_is_evaluated_and_transferred(world, run, adapter, tmp_path):
    imported(world, adapter, tmp_path / "back")
    data = {"tasks": ["places"], "split": "test", "out": None, "backbone": None, "console": quiet()}
    reports = [evaluate(folder, world.data / "mixture.yaml", **data) for folder in (tmp_path / "back", run)]
    ours, theirs = (report.tasks[0].score.primary for report in reports)
    assert ours == theirs
    results = run_transfer(world, tmp_path / "results", init_from=tmp_path / "back", seeds=(0,))
    assert {result.method for result in results} == {"scratch", "transfer"}
    identity = open_saved(tmp_path / "results" / "firms-20" / "transfer" / "seed-0").checkpoint.identity
    assert identity["init_from"] == {"stage": "import", "tasks": ["places"], "step": 0}


def test_rows_are_brought_into_the_order_of_the_tasks_labels(world, run, adapter, tmp_path):
    reordered(adapter, [4, 0, 2, 1, 3])
    saved = open_saved(imported(world, adapter, tmp_path / "back"))
    assert saved.scorer.head("places").labels == open_saved(run).scorer.head("places").labels
    assert torch.equal(saved.scorer.head("places").weight, open_saved(run).scorer.head("places").weight)


def test_labels_on_the_command_line_go_before_those_in_the_folder(world, run, adapter, tmp_path):
    labels = list(open_saved(run).scorer.head("places").labels)
    saved = open_saved(imported(world, adapter, tmp_path / "back", labels=[*labels[1:], labels[0]]))
    weight = load_file(adapter / "adapter_model.safetensors")["base_model.classifier.weight"]
    assert torch.equal(saved.scorer.head("places").weight[0], weight[-1])


def test_rows_without_names_are_refused(world, adapter, tmp_path):
    (adapter / "config.json").unlink()
    with pytest.raises(CheckpointError) as caught:
        imported(world, adapter, tmp_path / "back")
    assert "the names of the head's 5 rows are not in it" in str(caught.value)
    assert "--labels, for example O,B-" in str(caught.value)


def test_other_labels_than_the_tasks_are_refused(world, adapter, tmp_path):
    with pytest.raises(CheckpointError, match=r'does not fit task "people": it has 5 rows, named O, .* has O, B-PER'):
        imported(world, adapter, tmp_path / "back", task="people")


def test_a_task_must_be_named_when_there_are_several(world, adapter, tmp_path):
    with pytest.raises(ConfigError, match=r"has several tasks \(people, places, words\)\. Name the head's with --task"):
        imported(world, adapter, tmp_path / "back", task=None)


def test_a_backbone_of_other_sizes_is_refused_with_all_of_them(world, adapter, tmp_path):
    other = write_bert(tmp_path / "other", num_hidden_layers=3, hidden_size=64, num_attention_heads=4)
    with pytest.raises(CheckpointError) as caught:
        imported(world, adapter, tmp_path / "back", reference=str(other))
    told = str(caught.value)
    for part in (
        "num_layers: the adapter has 2, backbone",
        "num_attention_heads: the adapter has 2",
        "values of a virtual token: the adapter has 128",
        "columns of the head: the adapter has 32",
        "--backbone",
    ):
        assert part in told
    assert not (tmp_path / "back").exists()


def test_a_backbone_that_peft_prompts_in_another_way_is_refused(world, adapter, tiny_folder, tmp_path):
    with pytest.raises(CheckpointError, match="is a DistilBertModel, which does not take past_key_values"):
        imported(world, adapter, tmp_path / "back", reference=str(tiny_folder("distilbert")))


def test_an_adapter_that_names_no_model_needs_one(world, adapter, tmp_path):
    path = adapter / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "base_model_name_or_path": None}))
    with pytest.raises(ConfigError, match=r"base_model_name_or_path is empty\. Give the model with --backbone"):
        imported(world, adapter, tmp_path / "back")
    imported(world, adapter, tmp_path / "back", reference=str(world.backbone))


def test_a_backbone_of_the_hub_needs_the_adapters_commit_or_a_given_one(world, adapter, tmp_path, monkeypatch):
    asked = []

    def load(reference, *, revision, **options):
        asked.append((reference, revision))
        raise BackboneError("not found")

    monkeypatch.setattr("mpt.serving.import_peft.load_backbone", load)
    path = adapter / "adapter_config.json"
    named = {"base_model_name_or_path": "owner/name", "revision": "a" * 40}
    path.write_text(json.dumps({**json.loads(path.read_text()), **named}))
    for given in ({}, {"revision": "b" * 40}, {"reference": "other/name", "revision": "c" * 40}, {"reference": "here"}):
        with pytest.raises(BackboneError):
            imported(world, adapter, tmp_path / "back", **given)
    commits = ["a" * 40, "b" * 40, "c" * 40, None]
    assert asked == list(zip(["owner/name", "owner/name", "other/name", "here"], commits, strict=True))


def test_a_task_that_scores_no_words_is_refused(world, adapter, own_world, tmp_path):
    path = own_world.data / "mixture.yaml"
    content = json.loads(path.read_text())
    content["tasks"]["places"] = {"family": "choice", "format": "jsonl", "files": {"train": "a", "dev": "b"}}
    path.write_text(json.dumps(content))
    with pytest.raises(ConfigError, match=r'task "places" \(family choice\) scores choices, expected words'):
        imported(own_world, adapter, tmp_path / "back")


def test_an_existing_folder_is_left_alone(world, adapter, tmp_path):
    (tmp_path / "back").mkdir()
    with pytest.raises(ConfigError, match="back: exists already, and nothing is overwritten"):
        imported(world, adapter, tmp_path / "back")


@pytest.fixture
def saved_by_peft(world, tmp_path):
    """`saved_by_peft(class of a configuration, fields)` is a model of PEFT's, saved to `adapter`."""
    peft = pytest.importorskip("peft", reason="PEFT is not installed: pip install -e '.[dev]' has it")
    from transformers import AutoModelForTokenClassification
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()

    def made(kind, **fields):
        base = AutoModelForTokenClassification.from_pretrained(world.backbone, num_labels=5)
        model = peft.get_peft_model(base, getattr(peft, kind)(task_type="TOKEN_CLS", **fields)).eval()
        model.save_pretrained(tmp_path / "adapter")
        return model

    return made


def require_same_scores(saved, model):
    batch = random_batch(saved.scorer.backbone, 6, 9)
    with torch.no_grad():
        logits = model(input_ids=batch.input_ids_BS, attention_mask=batch.attention_mask_BS.long()).logits
    theirs = logits.flatten(0, 1)[batch.words_M]
    order = [LABELS.index(label) for label in saved.scorer.head("places").labels]
    torch.testing.assert_close(scores_of(saved, batch), theirs[:, order], atol=1e-5, rtol=1e-4)


@prefix_tuning
@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")
@pytest.mark.parametrize("projection", [False, True])
def test_the_scores_are_those_of_what_peft_saved(world, saved_by_peft, tmp_path, projection):
    fields = {"num_virtual_tokens": 4, "prefix_projection": projection, "encoder_hidden_size": 8}
    model = saved_by_peft("PrefixTuningConfig", **fields)
    saved = open_saved(imported(world, tmp_path / "adapter", tmp_path / "run", labels=LABELS))
    assert saved.scorer.backbone.shifted
    require_same_scores(saved, model)


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")
def test_lora_of_peft_gives_its_scores_and_is_transferred(world, saved_by_peft, tmp_path):
    model = saved_by_peft("LoraConfig", r=4, lora_alpha=6, init_lora_weights=False, layers_to_transform=[1])
    saved = open_saved(imported(world, tmp_path / "adapter", tmp_path / "run", labels=LABELS))
    part = saved.state.parts["low_rank"]
    names = [f"encoder.layer.1.attention.self.{name}" for name in ("query", "value")]
    assert part.spec == {"rank": 4, "alpha": 6, "layers": names}
    assert not saved.scorer.backbone.shifted, "PEFT leaves the text's positions alone where there is no prompt"
    require_same_scores(saved, model)
    run_transfer(world, tmp_path / "results", init_from=tmp_path / "run", seeds=(0,))
    trained = open_saved(tmp_path / "results" / "firms-20" / "transfer" / "seed-0").state
    assert trained.specs == saved.state.specs
    assert not torch.equal(trained.parts["low_rank"].downs[0], part.downs[0])


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")
def test_lora_of_a_backbone_of_other_sizes_is_refused(world, saved_by_peft, tmp_path):
    saved_by_peft("LoraConfig", r=4)
    other = write_bert(tmp_path / "other", hidden_size=64)
    with pytest.raises(CheckpointError) as caught:
        imported(world, tmp_path / "adapter", tmp_path / "back", labels=LABELS, reference=str(other))
    first, second = caught.value.problems
    assert "linear layer encoder.layer.0.attention.self.query: the adapter has 32 to 32, backbone" in first
    assert "64 to 64. Give the model" in first
    assert "columns of the head: the adapter has 32" in second
