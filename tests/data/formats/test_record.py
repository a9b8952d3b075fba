import json
from pathlib import Path

import pytest
from common.record import line, query, write

from mpt.base.errors import DataError, ManifestError
from mpt.data.families.answers import qa_score
from mpt.data.formats.questions import QaSource
from mpt.data.formats.squad import read_questions, write_questions
from mpt.data.manifest.reading import load_manifest
from mpt.data.tasks import load_task

REPO = Path(__file__).parents[3]
TEXT = "Ada is in Z\u00fcrich.\n@highlight\nAda, in Lund"  # Ada at 0 and 29, Z\u00fcrich at 10, Lund at 37
ADA = (("Ada", 0), ("Ada", 29))
SOURCE = QaSource(format="record")


def problems(path, source=SOURCE):
    with pytest.raises(DataError) as caught:
        read_questions(path, source)
    return [problem.removeprefix(str(path)) for problem in caught.value.problems]


def test_questions_of_a_passage_are_read_with_all_their_answers(tmp_path):
    queries = query(0, "@placeholder sings", *ADA), query(1, "it rains in @placeholder", ("Z\u00fcrich", 10))
    path = write(tmp_path / "r.jsonl", [line(0, TEXT, *queries), line(1, "Bob", query(2, "@placeholder", ("Bob", 0)))])
    found, notices = read_questions(path, SOURCE)
    assert [(it.id, it.question, it.document, it.lines) for it in found] == [
        ("0", "@placeholder sings", 1, (1,)),
        ("1", "it rains in @placeholder", 1, (1,)),
        ("2", "@placeholder", 2, (2,)),
    ]
    assert [(it.text, it.start, it.end) for it in found[0].answers] == [("Ada", 0, 3), ("Ada", 29, 32)]
    assert found[1].tags == ("Z\u00fcrich",) and found[1].passage == TEXT and notices == []


def test_an_answer_that_stands_there_twice_counts_as_once():
    once, twice = (qa_score([answers], [["ada sings"]]).total for answers in (["Ada"], ["Ada", "Ada"]))
    assert once == twice and once.f1 == pytest.approx(2 / 3)


@pytest.mark.parametrize(
    ("entry", "told"),
    [
        (
            query(0, "q", ("Lund", 36)),
            'qas[0] (idx 0): answers[0]: expected "Lund" at 36, found " Lun". The text stands at',
        ),
        (query(0, "q", ("Lund", 38)), 'qas[0] (idx 0): answers[0]: "Lund" at 38 to 42 lies outside of the context'),
        (
            {"query": "q", "idx": 0, "answers": [{"text": "Lund", "start": 37, "end": 41}]},
            'qas[0] (idx 0): answers[0]: end must be 40, where the last character of "Lund" stands, got 41. Correct it',
        ),
        (
            {"query": "q", "idx": 0, "answers": [{"text": "Lund", "start": 37}]},
            'qas[0] (idx 0): answers[0]: no field "end"',
        ),
        (query("0", "q", *ADA), 'qas[0] (idx "0"): idx must be a whole number'),
        (query(True, "q", *ADA), "qas[0] (idx true): idx must be a whole number"),
        (query(0, " ", *ADA), "qas[0] (idx 0): query is empty"),
        (query(0, "q"), "qas[0] (idx 0): it has no answer. Give one, or remove it"),
        ("q", 'qas[0]: expected an object, got "\\"q\\""'),
    ],
)
def test_what_is_wrong_is_told_with_line_and_place(tmp_path, entry, told):
    good = line(0, "Bob", query(7, "q", ("Bob", 0)))
    (problem,) = problems(write(tmp_path / "r.jsonl", [good, {**line(1, TEXT), "qas": [entry]}]))
    assert problem.startswith(f":2: {told}"), problem


def test_lines_of_another_form_are_told_all_at_once(tmp_path):
    path = tmp_path / "r.jsonl"
    path.write_text('{"passage": "p", "qas": []}\n{"passage": {"text": "p"}}\n{"qas": []}\n[\n')
    found = problems(path)
    assert [problem.split(" ")[0] for problem in found] == [":1:", ":2:", ":3:", ":4:2:"]
    assert 'expected an object, got "\\"p\\""' in found[0] and 'no field "qas"' in found[1]


def test_an_idx_names_one_question_of_the_file(tmp_path):
    path = write(tmp_path / "r.jsonl", [line(n, TEXT, query(0, "q", *ADA)) for n in range(2)])
    (problem,) = problems(path)
    assert problem.startswith(":2: qas[0] (idx 0): the idx is that of qas[0] in line 1, too.")


def test_bad_answers_are_dropped_where_that_is_said(tmp_path):
    path = write(
        tmp_path / "r.jsonl", [line(0, TEXT, query(0, "q", ("Ada", 1), ("Ada", 0)), query(1, "q", ("Ada", 1)))]
    )
    found, notices = read_questions(path, QaSource(format="record", on_bad_answer="drop"))
    assert [(it.id, [one.start for one in it.answers]) for it in found] == [("0", [0])]
    assert "answers dropped because they are not at their offset: 2" in notices[0]


def test_predictions_are_the_lines_that_superglue_takes(tmp_path):
    queries = [{"query": "@placeholder sings", "idx": number} for number in (4, 5)]
    path = write(tmp_path / "r.jsonl", [line(0, TEXT, *queries)])
    source = QaSource(format="record", labelled=False)
    found, _ = read_questions(path, source)
    assert [it.answers for it in found] == [None, None]
    write_questions(path, source, found, ["Z\u00fcrich", "Lund"], tmp_path / "out.jsonl")
    assert (tmp_path / "out.jsonl").read_text() == '{"idx": 4, "label": "Z\u00fcrich"}\n{"idx": 5, "label": "Lund"}\n'
    with pytest.raises(DataError, match="is the input file"):
        write_questions(path, source, found, ["", ""], path)


def test_the_paper_manifest_reads_lines_of_the_published_layout(tmp_path, monkeypatch):
    lines = [
        line(n, f"{TEXT} {n}", query(2 * n, "@placeholder?", *ADA), query(2 * n + 1, "v", *ADA)) for n in range(10)
    ]
    (tmp_path / "superglue/ReCoRD").mkdir(parents=True)
    for name in ("train", "val"):
        write(tmp_path / f"superglue/ReCoRD/{name}.jsonl", lines)
    monkeypatch.setenv("MPT_DATA", str(tmp_path))
    manifest = load_manifest(REPO / "data_manifests" / "paper_superglue.yaml")
    task, _ = load_task(manifest, "record", splits=("train", "dev", "test"))
    train, dev = ({it.document for it in task.splits[split]} for split in ("train", "dev"))
    assert dev and not train & dev and len(train | dev) == 10 and task.spec.metric == "qa_f1"
    assert len(task.splits["test"]) == 20 and task.splits["test"][0].tags == ("Ada", "Ada")


@pytest.mark.parametrize(("field", "value"), [("no_answer", True), ("no_answer_above", 1.0)])
def test_every_question_has_an_answer(tmp_path, field, value):
    task = {"family": "qa", "format": "record", "files": {"train": "t", "dev": "d"}, field: value}
    (tmp_path / "m.yaml").write_text(json.dumps({"version": 1, "name": "m", "tasks": {"t": task}}))
    with pytest.raises(ManifestError, match=f"tasks.t.{field}: has no meaning in format record"):
        load_manifest(tmp_path / "m.yaml")
