"""Every family from manifest to predictions, on data whose labels follow from the words."""

import csv
import json
from io import StringIO
from random import Random

import pytest
from common.runs import manifest as tags_manifest
from common.runs import quiet, run_pretrain, write_bert

from mpt.base.errors import ConfigError
from mpt.data.families.metrics import score
from mpt.data.formats.props import read_props
from mpt.data.formats.source import Problems
from mpt.data.manifest.reading import load_manifest
from mpt.data.tasks import load_tasks
from mpt.evaluation.bootstrap import paired_bootstrap
from mpt.evaluation.evaluator import evaluate_task
from mpt.experiments.evaluate import evaluate
from mpt.experiments.execution import encode_tasks
from mpt.experiments.transfer import transfer
from mpt.serving.layout import input_layout
from mpt.serving.predictor import Predictor
from mpt.serving.saved import open_saved

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


def write_roles(path, seed, count=60):
    """Sentences of two verbs, one of them marked or both: places and people have their roles, whatever the verb."""
    rng = Random(seed)
    text = ""
    for _ in range(count):
        marked = rng.choice([(1,), (4,), (1, 4), ()])
        words = [rng.choice(PEOPLE), "goes", rng.choice(PLACES), "and", "runs", rng.choice(PLACES)]
        for index, word in enumerate(words):
            role = "(ARG0*)" if index == 0 else "(ARGM-LOC*)" if word in PLACES else "*"
            cells = ["(V*)" if index == predicate else role for predicate in marked]
            text += "\t".join([word, "do" if index in marked else "-", *cells]) + "\n"
        text += "\n"
    path.write_text(text)


@pytest.fixture(scope="module")
def roles(world, tmp_path_factory):
    """A run over a task of predicates and their arguments."""
    from dataclasses import replace

    folder = tmp_path_factory.mktemp("roles")
    files = {split: f"{split}.props" for split in ("train", "dev", "test")}
    for name in files.values():
        write_roles(folder / name, name)
    columns = {"word": 0, "predicate": 1, "arguments": 2}
    spec = {"family": "srl", "format": "props", "delimiter": "tab", "columns": columns, "files": files}
    declared = {"version": 1, "name": "roles", "root": ".", "tasks": {"roles": spec}}
    (folder / "mixture.yaml").write_text(json.dumps(declared))
    own = replace(world, data=folder, run=folder / "run")
    scores = run_pretrain(own, own.run, training__steps=40, evaluation__every_steps=20, prompt__dropout=0.0)
    return own, scores


def test_roles_are_learnt_and_written_back_in_brackets(roles, tmp_path):
    world, scores = roles
    assert scores["roles"].metric == "srl_f1" and scores["roles"].primary > 0.9
    saved = open_saved(world.run)
    predictor = Predictor(saved, "roles")
    text = world.data / "test.props"
    bare = "".join("\t".join(line.split("\t")[:2]) + "\n" for line in text.read_text().splitlines())
    (tmp_path / "bare.props").write_text(bare)
    predictor.predict_file(tmp_path / "bare.props", predictor.source, tmp_path / "out.props")
    assert [line.split("\t")[:2] for line in (tmp_path / "out.props").read_text().splitlines()] == [
        line.split("\t")[:2] for line in text.read_text().splitlines()
    ]
    (task,), notices = load_tasks(load_manifest(world.data / "mixture.yaml"), splits=("test",))
    assert any("sentences without a predicate, which give no example" in notice for notice in notices)
    (encoded,), _ = encode_tasks([task], saved.scorer.backbone)
    tags, _ = predictor.predict(task.splits["test"])
    assert score("srl_f1", encoded.gold("test", range(len(tags))), tags, task.labels) == evaluate_task(
        saved.scorer, encoded, "test"
    )
    found, lacking = Problems(tmp_path / "out.props"), ("O",) * 6
    written = [one.tags for one in read_props((tmp_path / "out.props").read_text(), predictor.source, found)]
    assert [one for one in written if one != lacking] == list(map(tuple, tags)) and not found


def test_predictions_for_json_lines_name_the_predicate(roles, tmp_path):
    world, _ = roles
    predictor = Predictor(open_saved(world.run), "roles")
    words = ["Ada", "goes", "Kiev"]
    lines = [{"tokens": words, "predicate": 1}, {"tokens": words, "predicate": None}]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    predictor.predict_file(tmp_path / "in.jsonl", input_layout(predictor, "jsonl"), tmp_path / "out.jsonl")
    first, second = (json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines())
    assert first["tags"][0] == "B-ARG0" and first["tags"][2] == "B-ARGM-LOC"
    assert second["tags"] == ["O", "O", "O"]


@pytest.mark.parametrize("name", ["conll", "text", "csv"])
def test_a_layout_without_predicates_is_refused(roles, name):
    world, _ = roles
    predictor = Predictor(open_saved(world.run), "roles")
    assert input_layout(predictor, None) == input_layout(predictor, "props") == predictor.source
    with pytest.raises(ConfigError, match="which are read from props or jsonl"):
        input_layout(predictor, name)


def test_a_report_says_what_srl_f1_counts_and_what_tags_would(roles, tmp_path):
    world, _ = roles
    evaluate(
        world.run,
        world.data / "mixture.yaml",
        tasks=[],
        split="test",
        out=tmp_path,
        backbone=None,
        against=world.run,
        console=quiet(),
    )
    text = (tmp_path / "evaluation-test.md").read_text()
    assert (
        "as srl-eval.pl counts them" in text and "roles counted by tags, V and every C- as spans of their own" in text
    )
    (task,) = json.loads((tmp_path / "evaluation-test.json").read_text())["tasks"]
    assert task["metric"] == "srl_f1" and task["with_predicates"]["support"] > task["support"]
    assert "V" not in task["types"]


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


def write_answers(path, seed, count=30):
    """Passages with questions, whose answers are right where they are places."""
    rng = Random(seed)
    lines = []
    for number in range(count):
        asked = [[{"text": (name := rng.choice(PLACES + PEOPLE)), "label": int(name in PLACES)} for _ in range(2)]] * 2
        questions = [{"question": "where", "answers": answers} for answers in asked]
        lines.append(json.dumps({"idx": number, "passage": {"text": "of", "questions": questions}}))
    path.write_text("\n".join(lines) + "\n")


def answers_of(path):
    """Texts and labels of all answers of a file, in order."""
    passages = [json.loads(line)["passage"] for line in path.read_text().splitlines()]
    return [(it["text"], it["label"]) for one in passages for asked in one["questions"] for it in asked["answers"]]


def test_answers_inside_of_lines_are_learnt_scored_by_f1_and_written_back(world, tmp_path, monkeypatch):
    from dataclasses import replace

    files = {split: f"{split}.jsonl" for split in ("train", "test")}
    for name in files.values():
        write_answers(tmp_path / name, name)
    each = "passage.questions.answers"
    fields = {
        "text": "passage.text",
        "pair": f"{{passage.questions.question}} {{{each}.text}}",
        "label": f"{each}.label",
    }
    spec = {"family": "classification", "format": "jsonl", "files": files, "each": each, "fields": fields}
    spec |= {"score": "f1", "positive": "1", "dev_fraction": 0.2, "dev_by": "document"}
    declared = {"version": 1, "name": "multirc", "root": ".", "tasks": {"multirc": spec}}
    (tmp_path / "mixture.yaml").write_text(json.dumps(declared))
    backbone = write_bert(tmp_path / "backbone", initializer_range=0.3)
    own = replace(world, data=tmp_path, run=tmp_path / "run", backbone=backbone)
    scores = run_pretrain(own, own.run, training__steps=40, evaluation__every_steps=20, prompt__dropout=0.0)
    assert scores["multirc"].metric == "f1" and scores["multirc"].primary > 0.9
    compared = []

    def spied(*counts, **how):
        compared.append((counts[0].sum(axis=0).tolist(), how))
        return paired_bootstrap(*counts, **how)

    monkeypatch.setattr("mpt.experiments.evaluate.paired_bootstrap", spied)
    evaluate(
        own.run,
        tmp_path / "mixture.yaml",
        tasks=[],
        split="test",
        out=tmp_path / "report",
        backbone=None,
        against=own.run,
        console=quiet(),
    )
    (report,) = json.loads((tmp_path / "report" / "evaluation-test.json").read_text())["tasks"]
    assert (report["metric"], report["positive"], report["words"]) == ("f1", "1", 120)
    predictor = Predictor(open_saved(own.run), "multirc")
    count, _ = predictor.predict_file(tmp_path / "test.jsonl", predictor.source, tmp_path / "out.jsonl")
    gold, found = (answers_of(tmp_path / name) for name in ("test.jsonl", "out.jsonl"))
    assert count == len(gold) == 120 and [text for text, _ in gold] == [text for text, _ in found]
    pairs = [(a, b) for (_, a), (_, b) in zip(gold, found, strict=True)]
    tp, fp, fn = (pairs.count(pair) for pair in ((1, 1), (0, 1), (1, 0)))
    assert compared == [([tp, fp, fn], {"nothing": 0.0})]
    assert report["primary"] == pytest.approx(2 * tp / (2 * tp + fp + fn)) and report["primary"] > 0.9


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
    (encoded,), _ = encode_tasks([task], saved.scorer.backbone)
    score = evaluate_task(saved.scorer, encoded, "test")
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
