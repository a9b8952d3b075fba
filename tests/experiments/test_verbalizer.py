"""Tasks with verbalizers from manifest to predictions: only the prompt is trained."""

import csv
import json
from dataclasses import replace
from io import StringIO
from random import Random

import numpy as np
import pytest
import torch
from common.backbones import tiny_backbone
from common.runs import quiet, run_pretrain, transfer_settings
from rich.console import Console
from safetensors.torch import load_file

from mpt.base.errors import CheckpointError, ConfigError, DataError
from mpt.data.cache import read_tasks, text_cache
from mpt.data.encoded import EncodedTask
from mpt.data.manifest.reading import load_manifest
from mpt.data.tasks import load_tasks
from mpt.evaluation.evaluator import evaluate_task, word_scores
from mpt.experiments.compare import compare
from mpt.experiments.evaluate import evaluate
from mpt.experiments.execution import encode_tasks
from mpt.experiments.settings import load_compare_settings
from mpt.experiments.start import build_head
from mpt.experiments.transfer import transfer
from mpt.model.heads import TokenHead, VerbalizerHead
from mpt.model.scorer import Scorer
from mpt.serving.predictor import Predictor
from mpt.serving.saved import open_saved
from mpt.training.checkpoint import Checkpoint, latest

PLAIN = {"family": "classification", "format": "csv", "fields": {"text": "body", "label": "about"}}
FILLED = PLAIN | {"verbalizer": {"place": "river", "person": "new"}, "template": "is {text} a {mask}"}


def write_texts(path, seed, count=80):
    """Texts about a place or a person."""
    rng = Random(seed)
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["body", "about"])
        for _ in range(count):
            name, about = rng.choice([("river", "place"), ("doctor", "person")])
            writer.writerow([f"{rng.choice(['saw', 'not'])} {name}", about])


def write_manifest(folder, **tasks):
    files = {"files": {split: f"{split}.csv" for split in ("train", "dev", "test")}}
    declared = {"version": 1, "name": "m", "tasks": {name: spec | files for name, spec in tasks.items()}}
    (folder / "mixture.yaml").write_text(json.dumps(declared))


@pytest.fixture(scope="module")
def filled(world, tmp_path_factory):
    """A run over one set of texts in two tasks, with a verbalizer and without."""
    folder = tmp_path_factory.mktemp("verbalizer")
    for split in ("train", "dev", "test"):
        write_texts(folder / f"{split}.csv", split)
    write_manifest(folder, filled=FILLED, plain=PLAIN)
    backbone = tiny_backbone(folder / "backbone", "bert", masked=True)
    own = replace(world, data=folder, backbone=backbone, run=folder / "run")
    changes = {"training__micro_batches": 2, "evaluation__every_steps": 30, "prompt__dropout": 0.0}
    return own, run_pretrain(own, own.run, training__steps=60, **changes)


@pytest.fixture
def own(filled, tmp_path):
    """The same data and backbone with a manifest to change."""
    world, _ = filled
    for split in ("train", "dev", "test"):
        (tmp_path / f"{split}.csv").write_bytes((world.data / f"{split}.csv").read_bytes())
    return replace(world, data=tmp_path)


def loaded(world, name, split):
    (task,), _ = load_tasks(load_manifest(world.data / "mixture.yaml"), names=[name], splits=("train", split))
    return task


def scores_of(scorer, encoded: EncodedTask, split):
    examples = np.arange(len(encoded.splits[split].places))
    return np.concatenate(word_scores(scorer, encoded.task.name, encoded.splits[split], examples))


def test_a_prompt_learns_to_fill_in_words_beside_a_trained_head(filled):
    _, scores = filled
    assert scores["filled"].primary > 0.9
    assert scores["plain"].primary > 0.9


def test_a_checkpoint_names_the_head_and_holds_nothing_of_it(filled):
    world, _ = filled
    saved = open_saved(world.run)
    assert set(load_file(saved.folder / "heads.safetensors")) == {"plain.weight", "plain.bias"}
    assert list(saved.tasks) == ["filled", "plain"]
    assert saved.task_spec("filled").cloze == "is {text} a {mask}"
    assert isinstance(saved.scorer.head("filled"), VerbalizerHead)
    assert saved.scorer.head("filled").labels == ("place", "person")
    optimizer = load_file(saved.folder / "optimizer.safetensors")
    assert not any("filled" in name for name in optimizer) and any("plain" in name for name in optimizer)


@pytest.mark.parametrize("layers", ["all", 1])
def test_scores_after_loading_are_those_before_saving(filled, own, monkeypatch, layers):
    """Also where nothing but the prompt is saved, and where the layers below it are kept."""
    write_manifest(own.data, filled=FILLED)
    scorers, scored = [], []
    build, collect = Scorer.__init__, Checkpoint.__init__

    def noted(self, *args, **kwargs):
        collect(self, *args, **kwargs)
        scored.append((self.step, scores_of(scorers[-1], encoded(scorers[-1]), "dev")))

    def encoded(scorer):
        return encode_tasks([loaded(own, "filled", "dev")], scorer.backbone)[0][0]

    with monkeypatch.context() as patch:
        patch.setattr(
            Scorer, "__init__", lambda self, *args, **more: build(self, *args, **more) or scorers.append(self)
        )
        patch.setattr(Checkpoint, "__init__", noted)
        run_pretrain(own, own.data / "out", training__steps=2, prompt__layers=layers)
    saved = open_saved(latest(own.data / "out"))
    assert scored[-1][0] == saved.checkpoint.step == 2
    assert np.array_equal(scores_of(saved.scorer, encoded(saved.scorer), "dev"), scored[-1][1])
    assert load_file(saved.folder / "heads.safetensors") == {}
    run_pretrain(own, own.data / "out", training__steps=2, prompt__layers=layers, resume="must")
    with pytest.raises(CheckpointError, match=r"tasks\.filled\.spec\.template"):
        write_manifest(own.data, filled=FILLED | {"template": "{text} {mask}"})
        (own.data / "out" / "manifest.json").unlink()
        run_pretrain(own, own.data / "out", training__steps=2, prompt__layers=layers, resume="must")


def test_predictions_and_evaluation_agree(filled, tmp_path):
    world, _ = filled
    saved = open_saved(world.run)
    predictor = Predictor(saved, "filled")
    predictor.predict_file(world.data / "test.csv", predictor.source, tmp_path / "out.csv")
    gold, found = (
        [row["about"] for row in csv.DictReader(StringIO(path.read_text()))]
        for path in (world.data / "test.csv", tmp_path / "out.csv")
    )
    report = evaluate(
        world.run,
        world.data / "mixture.yaml",
        tasks=(),
        split="test",
        out=None,
        backbone=None,
        console=quiet(),
    )
    right = sum(a == b for a, b in zip(gold, found, strict=True)) / len(gold)
    assert right == report.tasks[0].score.primary > 0.9
    task = loaded(world, "filled", "test")
    (encoded,), _ = encode_tasks([task], saved.scorer.backbone)
    assert evaluate_task(saved.scorer, encoded, "test").primary == right


def test_word_pieces_on_disk_are_scored_at_the_mask(filled, tmp_path):
    world, _ = filled
    manifest, word_pieces = (
        load_manifest(world.data / "mixture.yaml"),
        open_saved(world.run).scorer.backbone.word_pieces,
    )
    kept = text_cache(tmp_path, 2**30)
    first, again = (read_tasks(manifest, word_pieces, kept=kept)[0] for _ in range(2))
    for tasks in (first, again):
        split = tasks[0].splits["dev"]
        assert (split.pieces[split.piece_starts[:-1] + split.positions] == word_pieces.mask).all()
        assert (tasks[1].splits["dev"].positions == 0).all()


def test_transfer_to_a_verbalizer(filled, tmp_path):
    world, _ = filled
    arguments = {"tasks": ["filled"], "shots": (40,), "resume": "never", "backbone": None, "console": quiet()}
    manifest = world.data / "mixture.yaml"
    results = transfer(transfer_settings(seeds=(0,)), world.run, manifest, tmp_path / "out", **arguments)
    assert {result.method for result in results} == {"scratch", "transfer"}
    assert next(result for result in results if result.method == "transfer").score > 0.8
    with pytest.raises(ConfigError, match="method head trains the head alone, and that of filled is the back"):
        transfer(transfer_settings(baselines=("head",)), world.run, manifest, tmp_path / "no", **arguments)


def test_rows_of_a_verbalizer_are_never_copied(filled):
    world, _ = filled
    saved = open_saved(world.run)
    plain, filled_ = loaded(world, "plain", "dev"), loaded(world, "filled", "dev")
    copied = build_head(saved, plain, mode="by-label", seed=0, dropout=0.0)
    assert isinstance(copied, TokenHead)
    source = saved.scorer.head("plain")
    for label in plain.labels:
        assert torch.equal(copied.weight[copied.labels.index(label)], source.weight[source.labels.index(label)])
    with pytest.raises(CheckpointError, match="filled has a verbalizer, whose head is the backbone's"):
        build_head(saved, plain, mode="from:filled", seed=0, dropout=0.0)
    assert isinstance(build_head(saved, filled_, mode="from:plain", seed=0, dropout=0.0), VerbalizerHead)


def test_a_comparison_of_one_data_set_with_and_without(filled, tmp_path):
    world, _ = filled
    settings = {
        "title": "Verbalizer against linear head",
        "manifest": str(world.data / "mixture.yaml"),
        "seeds": [0],
        "shots": [20],
        "backbone": {"reference": str(world.backbone), "dtype": "float32"},
        "prompt": {"length": 4},
        "training": {"steps": 2, "tokens_per_micro_batch": 256, "micro_batches": 1},
        "optimizer": {"warmup_steps": 1},
        "evaluation": {"every_steps": 2},
        "tuning": {"prompt_learning_rates": [], "head_learning_rates": []},
        "rows": {"P-Tuning v2": {"method": "scratch"}},
    }

    def rows(**changes):
        (tmp_path / "compare.yaml").write_text(json.dumps(settings | changes))
        return load_compare_settings(tmp_path / "compare.yaml")

    runs = compare(rows(), tmp_path / "out", resume="never", console=quiet())
    trained = {run.experiment: run.trained for run in runs}
    assert trained == {"filled-20": 4 * 3 * 2 * 32, "plain-20": 4 * 3 * 2 * 32 + 2 * 32 + 2}
    with pytest.raises(ConfigError, match="method head trains the head alone, and that of filled is the back"):
        compare(rows(rows={"probe": {"method": "head"}}), tmp_path / "no", resume="never", console=quiet())


def test_a_backbone_without_a_language_model_head_is_told(own, tiny_folder):
    write_manifest(own.data, filled=FILLED)
    said = StringIO()
    bare = replace(own, backbone=tiny_folder("bert"))
    run_pretrain(bare, own.data / "out", training__steps=1, console=Console(file=said, width=400))
    assert "note: verbalizer of filled: the backbone's files hold no language-model head" in said.getvalue()


def test_labels_without_a_word_are_named_with_their_place(own):
    write_manifest(own.data, filled=FILLED | {"verbalizer": {"place": "river"}})
    with pytest.raises(DataError) as caught:
        loaded(own, "filled", "dev")
    assert 'label "person"' in str(caught.value) and "is not among the 1 that the manifest lists" in str(caught.value)
    assert "tasks.filled.verbalizer: to keep them give each a word; or use label_map" in caught.value.problems[-1]


def test_all_words_that_are_wrong_are_told_before_anything_is_trained(own):
    words = {"place": "riverest", "person": "doctors"}
    write_manifest(own.data, filled=FILLED | {"verbalizer": words}, other=FILLED | {"verbalizer": words})
    with pytest.raises(DataError) as caught:
        run_pretrain(own, own.data / "out")
    assert len(caught.value.problems) == 4 and not (own.data / "out").exists()
