"""Answers to questions about passages, from a file to predictions."""

import json
from dataclasses import replace
from random import Random

import pytest
from common import record
from common.runs import quiet, run_pretrain
from common.squad import asked, document, write

from mpt.base.errors import ConfigError
from mpt.experiments.evaluate import evaluate
from mpt.serving.layout import input_layout
from mpt.serving.predictor import Predictor
from mpt.serving.saved import open_saved

NAMES = ["Ada", "Bob", "Cyd", "Dan"]


def entries(rng, number, *, without):
    """A passage in which a name stands somewhere, and a question for it; some have none."""
    words = [rng.choice(["in", "on", "to", "of"]) for _ in range(rng.randrange(3, 30))]
    place = rng.randrange(len(words))
    name = rng.choice(NAMES)
    if without and number % 4 == 0:
        return " ".join(words), [asked(f"q{number}", "who", is_impossible=True)]
    words[place] = name
    return " ".join(words), [asked(f"q{number}", "who", (name, len(" ".join(words[:place])) + bool(place)))]


def write_qa(folder, *, without=True):
    for split, count in (("train", 80), ("dev", 24), ("test", 24)):
        rng = Random(split)
        made = document([entries(rng, number, without=without) for number in range(count)])
        write(folder / f"{split}.json", made)
    files = {split: f"{split}.json" for split in ("train", "dev", "test")}
    task = {"family": "qa", "format": "squad", "files": files, "no_answer": without, "stride": 8}
    made = {"version": 1, "name": "qa", "root": ".", "tasks": {"who": task}}
    (folder / "mixture.yaml").write_text(json.dumps(made))
    return folder


def train(world, folder, backbone=None, **changes):
    own = replace(world, data=write_qa(folder / "data"), backbone=backbone or world.backbone)
    steps = {"training__steps": 40, "evaluation__every_steps": 20, "training__tokens_per_micro_batch": 512}
    run_pretrain(own, folder / "run", **(steps | changes))
    return own


@pytest.mark.parametrize("kind", ["bert", "llama"])
def test_passages_are_trained_on_scored_and_answered(world, tmp_path, kind, tiny_folder):
    own = train(world, tmp_path, tiny_folder(kind), training__steps=4)
    report = evaluate(
        tmp_path / "run",
        own.data / "mixture.yaml",
        tasks=[],
        split="test",
        out=tmp_path / "report",
        backbone=None,
        against=tmp_path / "run",
        console=quiet(),
    )
    found = json.loads((tmp_path / "report" / "evaluation-test.json").read_text())["tasks"][0]
    assert found["metric"] == "qa_f1" and found["has_answer"]["count"] == 18 and found["no_answer"]["count"] == 6
    page = report.to_markdown()
    assert "exact match" in page and "Best F1 of all limits for no answer: " in page
    best = found["best_f1"]
    assert best["value"] >= max(found["primary"], 6 / 24) and found["best_exact_match"]["value"] >= found["exact_match"]
    asked_only = json.loads((own.data / "test.json").read_text())
    for paragraph in asked_only["data"][0]["paragraphs"]:
        for entry in paragraph["qas"]:
            del entry["answers"]
    write(tmp_path / "new.json", asked_only)
    predictor = Predictor(open_saved(tmp_path / "run"))
    count, _ = predictor.predict_file(tmp_path / "new.json", input_layout(predictor, None), tmp_path / "out.json")
    answers = json.loads((tmp_path / "out.json").read_text())
    assert count == 24 and list(answers) == [f"q{number}" for number in range(24)]
    passages = [paragraph["context"] for paragraph in asked_only["data"][0]["paragraphs"]]
    assert all(answer in passage for answer, passage in zip(answers.values(), passages, strict=True))
    for limit, some in ((1e9, False), (-1e9, True)):
        always = Predictor(open_saved(tmp_path / "run"), no_answer_above=limit)
        always.predict_file(tmp_path / "new.json", input_layout(always, None), tmp_path / "out.json")
        assert {answer == "" for answer in json.loads((tmp_path / "out.json").read_text()).values()} == {some}


def test_names_of_a_passage_are_trained_on_scored_and_written_as_superglue_takes_them(world, tmp_path):
    rng = Random("record")
    for split, count in (("train", 40), ("test", 12)):
        lines = []
        for number in range(count):
            name, other = rng.sample(NAMES, 2)
            text = f"{name} in of\n@highlight\n{name} to on"
            answers = [(name, 0), (name, text.rindex(name))]
            queries = [record.query(2 * number + i, f"{other} saw @placeholder", *answers) for i in (0, 1)]
            lines.append(record.line(number, text, *queries))
        record.write(tmp_path / f"{split}.jsonl", lines)
    files = {split: f"{split}.jsonl" for split in ("train", "test")}
    task = {"family": "qa", "format": "record", "files": files, "dev_fraction": 0.2, "dev_by": "document", "stride": 8}
    declared = {"version": 1, "name": "record", "root": ".", "tasks": {"record": task}}
    (tmp_path / "mixture.yaml").write_text(json.dumps(declared))
    own = replace(world, data=tmp_path)
    run_pretrain(own, tmp_path / "run", training__steps=40, evaluation__every_steps=20)
    report = evaluate(
        tmp_path / "run", tmp_path / "mixture.yaml", tasks=[], split="test", out=None, backbone=None, console=quiet()
    )
    assert report.tasks[0].score.metric == "qa_f1" and report.tasks[0].score.sentences == 24
    predictor = Predictor(open_saved(tmp_path / "run"))
    assert input_layout(predictor, None).format == "record" and input_layout(predictor, "squad").format == "squad"
    asked_only = [json.loads(line) for line in (tmp_path / "test.jsonl").read_text().splitlines()]
    for made in asked_only:
        for entry in made["qas"]:
            del entry["answers"]
    record.write(tmp_path / "new.jsonl", asked_only)
    count, _ = predictor.predict_file(tmp_path / "new.jsonl", predictor.source, tmp_path / "out.jsonl")
    found = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    gold = [one["passage"]["text"].split()[0] for one in asked_only for _ in one["qas"]]
    assert count == 24 and [it["idx"] for it in found] == list(range(24))
    exact = sum(it["label"] == name for it, name in zip(found, gold, strict=True)) / count
    assert exact == report.tasks[0].score.total.exact_match and report.mean > 0.7, report.mean


def test_a_limit_for_no_answer_is_for_questions(world):
    with pytest.raises(ConfigError, match=r'no_answer_above: every input of task "people" has an answer'):
        Predictor(open_saved(world.run), "people", no_answer_above=0.0)


def test_training_learns_to_answer(world, tmp_path):
    own = train(world, tmp_path, training__steps=120, evaluation__every_steps=60)
    report = evaluate(
        tmp_path / "run", own.data / "mixture.yaml", tasks=[], split="test", out=None, backbone=None, console=quiet()
    )
    assert report.mean > 0.7, report.mean
