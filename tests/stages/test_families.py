"""Every family from manifest to predictions, on data whose labels follow from the words."""

import csv
import json
from io import StringIO
from random import Random

import pytest
from common.runs import manifest as tags_manifest
from common.runs import quiet, run_pretrain, write_bert

from mpt.data.manifest import load_manifest
from mpt.data.tasks import load_tasks
from mpt.evaluation.evaluator import evaluate_task
from mpt.serving.predictor import Predictor
from mpt.serving.saved import open_saved
from mpt.stages.assembly import encode_tasks
from mpt.stages.transfer import transfer

PLACES, PEOPLE = ("Kiev", "Lund", "Mons"), ("Ada", "Bob", "Cyd")


def write_texts(path, seed, count=80):
    """Texts about a place or a person."""
    rng = Random(seed)
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["body", "about"])
        for _ in range(count):
            place = rng.random() < 0.5
            name = rng.choice(PLACES if place else PEOPLE)
            writer.writerow([f"{rng.choice(['to', 'of'])} {name}", "place" if place else "person"])


def write_choices(path, seed, count=80):
    """Questions whose right choice is the person."""
    rng = Random(seed)
    lines = []
    for _ in range(count):
        choices = [rng.choice(PEOPLE), *rng.sample(PLACES, rng.choice([1, 2]))]
        right = choices[0]
        rng.shuffle(choices)
        lines.append(json.dumps({"text": "who", "choices": choices, "label": choices.index(right)}))
    path.write_text("\n".join(lines) + "\n")


SPECS = {
    "texts": {
        "family": "classification",
        "format": "csv",
        "fields": {"text": "body", "label": "about"},
        "score": "macro_f1",
    },
    "choices": {"family": "choice", "format": "jsonl"},
}


@pytest.fixture(scope="module")
def mixed(world, tmp_path_factory):
    """A run over a tagging task, a text task and a choice task."""
    import shutil
    from dataclasses import replace

    folder = tmp_path_factory.mktemp("families")
    shutil.copytree(world.data, folder / "data")
    declared = json.loads(tags_manifest("mixed", ["people"]))
    for name, spec in SPECS.items():
        files = {}
        for split in ("train", "dev", "test"):
            files[split] = f"{name}.{split}"
            (write_texts if name == "texts" else write_choices)(folder / "data" / files[split], f"{name} {split}")
        declared["tasks"][name] = {**spec, "files": files}
    (folder / "data" / "mixture.yaml").write_text(json.dumps(declared))
    # Larger weights than BERT's: [CLS] of a random model must see more than itself.
    backbone = write_bert(folder / "backbone", initializer_range=0.3)
    own = replace(world, data=folder / "data", run=folder / "run", backbone=backbone)
    scores = run_pretrain(
        own, own.run, training__steps=60, training__micro_batches=3, evaluation__every_steps=30, prompt__dropout=0.0
    )
    return own, scores


def test_a_mixture_of_families_learns_all_of_them(mixed):
    _, scores = mixed
    assert {name: score.metric for name, score in scores.items()} == {
        "people": "span_f1",
        "texts": "macro_f1",
        "choices": "accuracy",
    }
    assert scores["texts"].primary > 0.9
    assert scores["choices"].primary > 0.9


def test_predictions_of_texts_come_back_as_csv(mixed, tmp_path):
    world, _ = mixed
    predictor = Predictor(open_saved(world.run), "texts")
    text = world.data / "texts.test"
    count, _ = predictor.predict_file(text, predictor.source, tmp_path / "out.csv")
    gold, found = (list(csv.DictReader(StringIO(path.read_text()))) for path in (text, tmp_path / "out.csv"))
    assert count == len(gold) == len(found)
    assert [row["body"] for row in found] == [row["body"] for row in gold]
    right = sum(a["about"] == b["about"] for a, b in zip(gold, found, strict=True)) / count
    assert right > 0.9
    (tmp_path / "unlabelled.csv").write_text('body\n"to Kiev"\n"of, Ada"\n')
    predictor.predict_file(tmp_path / "unlabelled.csv", predictor.source, tmp_path / "labelled.csv")
    assert (tmp_path / "labelled.csv").read_text() == 'body,about\nto Kiev,place\n"of, Ada",person\n'


def test_predictions_of_choices_come_back_as_numbers(mixed, tmp_path):
    world, _ = mixed
    saved = open_saved(world.run)
    predictor = Predictor(saved, "choices")
    predictor.predict_file(world.data / "choices.test", predictor.source, tmp_path / "out.jsonl")
    gold, found = (
        [json.loads(line)["label"] for line in path.read_text().splitlines()]
        for path in (world.data / "choices.test", tmp_path / "out.jsonl")
    )
    (task,), _ = load_tasks(load_manifest(world.data / "mixture.yaml"), names=["choices"], splits=("test",))
    (encoded,), _ = encode_tasks([task], saved.tagger.backbone)
    score = evaluate_task(saved.tagger, encoded, "test")
    assert all(isinstance(label, int) for label in found)
    assert sum(a == b for a, b in zip(gold, found, strict=True)) / len(gold) == score.primary > 0.9


def test_a_prompt_is_transferred_to_texts(mixed, tmp_path):
    from common.runs import transfer_settings

    world, _ = mixed
    results = transfer(
        transfer_settings(seeds=(0,)),
        world.run,
        world.data / "mixture.yaml",
        tmp_path / "out",
        tasks=["texts"],
        shots=(40,),
        resume="never",
        backbone=None,
        console=quiet(),
    )
    assert {result.method for result in results} == {"scratch", "transfer"}
    assert {result.metric for result in results} == {"macro_f1"}
    assert next(result for result in results if result.method == "transfer").score > 0.8
