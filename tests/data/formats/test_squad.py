import json
import os
from pathlib import Path

import pytest
from common.squad import asked, document, write

from mpt.base.errors import DataError, ManifestError
from mpt.data.formats.questions import QaSource
from mpt.data.formats.squad import read_questions, write_questions
from mpt.data.manifest.reading import load_manifest
from mpt.data.tasks import load_task

DATA = os.environ.get("MPT_DATA")
CONTEXT = " caf\u00e9 \U0001f600 in Lund, Lund.\n"


def one(tmp_path, *entries, context=CONTEXT, **how):
    return write(tmp_path / "s.json", document([(context, entries)]), **how)


def problems(path, **source):
    with pytest.raises(DataError) as error:
        read_questions(path, QaSource(**source))
    return str(error.value)


def test_a_question_is_read_with_its_passage_untouched(tmp_path):
    path = one(tmp_path, asked("q1", " where? ", ("Lund", 11), ("Lund, Lund", 11)))
    (question,), notices = read_questions(path, QaSource())
    assert question.passage == CONTEXT and question.question == " where? " and notices == []
    assert [(it.text, it.start, it.end) for it in question.answers] == [("Lund", 11, 15), ("Lund, Lund", 11, 21)]
    assert question.tags == ("Lund", "Lund, Lund")
    assert question.lines == (next(n for n, line in enumerate(path.read_text().split("\n"), 1) if '"q1"' in line) - 1,)


def test_documents_are_articles(tmp_path):
    made = document(*([(f"c{i}", [asked(f"q{i}", "what?", (f"c{i}", 0))])] for i in range(3)))
    found, _ = read_questions(write(tmp_path / "s.json", made), QaSource())
    assert [it.document for it in found] == [0, 1, 2]


@pytest.mark.parametrize(
    ("entry", "told"),
    [
        (asked("q", "w?", ("Lund", 13)), ('expected "Lund" at 13, found "nd, "', "stands at 11, 17")),
        (asked("q", "w?", ("Lund", 15)), ("counts bytes of UTF-8",)),
        (asked("q", "w?", ("Lund", 18)), ("counts units of UTF-16",)),
        (asked("q", "w?", ("Lund", 21)), ("lies outside of the context, which has 23 characters",)),
        (asked("q", "w?", ("Lund", -1)), ("lies outside",)),
        (asked("q", "w?", ("Malm\u00f6", 1)), ("context does not hold this text", "on_bad_answer: drop")),
        (asked("q", "w?", ("", 1)), ("text is empty",)),
        (asked("q", "w?", ("Lund", "11")), ("answer_start must be a whole number",)),
        (asked("q", "  ", ("Lund", 11)), ("question is empty",)),
        (asked("q", "w?"), ("has no answer", "is_impossible")),
        (asked("q", "w?", is_impossible=True), ("Set no_answer: true",)),
        ({"question": "w?", "answers": []}, ("id",)),
        (asked("q", "\ud800", ("Lund", 11)), ("half of a surrogate pair",)),
        ("q", ("expected an object",)),
    ],
)
def test_what_is_wrong_is_told_with_its_place(tmp_path, entry, told):
    message = problems(one(tmp_path, entry))
    assert "data[0].paragraphs[0].qas[0]" in message
    for part in told:
        assert part in message


def test_all_problems_are_told_at_once(tmp_path):
    message = problems(one(tmp_path, asked("q", "w?", ("Lund", 3)), asked("q2", "", ("Lund", 11))))
    assert "qas[0]" in message and "qas[1]" in message


def test_an_id_names_one_question(tmp_path):
    message = problems(one(tmp_path, asked("q", "w?", ("Lund", 11)), asked("q", "v?", ("Lund", 11))))
    assert "the id is that of data[0].paragraphs[0].qas[0]" in message


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('{"data": 1}', 'expected a list "data"'),
        ("[]", "expected a JSON object"),
        ('{"data": [', "not JSON"),
        ('{"data": []}', "no question"),
        ('{"data": [{"paragraphs": [{"context": "", "qas": [{}]}]}]}', "data[0].paragraphs[0]: context is empty"),
        ('{"data": [{"paragraphs": [{"qas": [{}]}]}]}', "data[0].paragraphs[0]"),
        ('{"data": [3]}', "data[0]: expected an object"),
        ('{"data": [{"paragraphs": [], "paragraphs": []}]}', "paragraphs"),
    ],
)
def test_other_documents_are_refused(tmp_path, text, told):
    (tmp_path / "s.json").write_text(text)
    assert told in problems(tmp_path / "s.json")


def test_questions_without_an_answer(tmp_path):
    plausible = {"plausible_answers": [{"text": "Lund", "answer_start": 11}]}
    path = one(tmp_path, asked("q", "w?", is_impossible=True, **plausible), asked("p", "w?", ("Lund", 11)))
    found, _ = read_questions(path, QaSource(no_answer=True))
    assert [it.tags for it in found] == [(), ("Lund",)]
    path = one(tmp_path, asked("q", "w?", ("Lund", 11), is_impossible=True))
    assert "yet it has 1 answers" in problems(path, no_answer=True)


def test_bad_answers_are_dropped_with_a_notice(tmp_path):
    path = one(tmp_path, asked("q", "w?", ("Lund", 3), ("Lund", 11)), asked("r", "w?", ("Lund", 3)))
    found, notices = read_questions(path, QaSource(on_bad_answer="drop"))
    assert [(it.id, it.tags) for it in found] == [("q", ("Lund",))]
    assert len(notices) == 1 and "not at their offset: 2" in notices[0] and 'id "q"' in notices[0]


def test_prediction_reads_no_answers_and_writes_them_by_id(tmp_path):
    path = one(tmp_path, {"id": "q", "question": "w?"}, {"id": "r", "question": "v?"})
    found, _ = read_questions(path, QaSource(labelled=False))
    assert [it.answers for it in found] == [None, None]
    write_questions(path, QaSource(), found, ["Lund", ""], tmp_path / "out.json")
    assert json.loads((tmp_path / "out.json").read_text()) == {"q": "Lund", "r": ""}
    with pytest.raises(DataError, match="is the input file"):
        write_questions(path, QaSource(), found, ["Lund", ""], path)


def spec(tmp_path, **more):
    fields = {"family": "qa", "format": "squad", "files": {"train": "s.json"}}
    fields |= {"dev_fraction": 0.3, "dev_by": "document"}
    made = {"version": 1, "name": "m", "root": ".", "tasks": {"t": {**fields, **more}}}
    (tmp_path / "m.yaml").write_text(json.dumps(made))
    return tmp_path / "m.yaml"


def test_dev_is_whole_articles(tmp_path):
    articles = [[(f"word{i} c", [asked(f"{i}-{j}", f"w{j}?", (f"word{i}", 0)) for j in range(4)])] for i in range(6)]
    write(tmp_path / "s.json", document(*articles))
    task, _ = load_task(load_manifest(spec(tmp_path)), "t")
    train, dev = ({it.document for it in task.splits[split]} for split in ("train", "dev"))
    assert train and dev and not train & dev and task.labels == ("start", "end") and task.spec.metric == "qa_f1"


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ({"format": "jsonl"}, "family qa is read from squad, record, not from jsonl"),
        ({"labels": ["a"]}, "labels: has no meaning in family qa"),
        ({"long": "cut"}, "cut has no meaning in family qa"),
        ({"score": "accuracy"}, "is scored by qa_f1"),
        ({"stride": 0}, "stride"),
        ({"no_answer_above": 1.0}, "no_answer_above: needs no_answer: true"),
    ],
)
def test_a_declaration_that_has_no_meaning(tmp_path, more, told):
    with pytest.raises(ManifestError) as error:
        load_manifest(spec(tmp_path, **more))
    assert told in str(error.value)


@pytest.mark.skipif(DATA is None, reason="MPT_DATA names no folder with real data")
def test_real_documents():
    manifest = load_manifest(Path(__file__).parents[3] / "data_manifests" / "open_qa.yaml")
    task, notices = load_task(manifest, "squadshifts_newwiki", splits=("train", "dev", "test"))
    every = [*task.splits["train"], *task.splits["dev"]]
    assert len(every) == 7938 and len(task.splits["test"]) == 1190
    assert len({it.document for it in every}) == 48 and len({it.passage for it in every}) == 1581
    assert sum(it.passage != it.passage.strip() for it in every) > 0
    assert len(notices) == 1
