import json

import pytest

from mpt.data.formats.text_files import TextSource, read_texts, write_answers
from mpt.data.manifest.source_spec import Fields

EACH = "passage.questions.answers"
NESTED = {"text": "passage.text", "pair": f"{{passage.questions.question}} {{{EACH}.text}}", "label": f"{EACH}.label"}


def line(number, *labels):
    """A passage with a question for each list of labels."""
    questions = [
        {"question": f"q{n}", "answers": [{"text": f"a{i}", "idx": i, **it} for i, it in enumerate(own)], "idx": n}
        for n, own in enumerate(labels)
    ]
    return {"idx": number, "version": 1.1, "passage": {"text": "caf\u00e9", "questions": questions}}


def labels_of(record):
    return [[answer.get("label") for answer in it["answers"]] for it in record["passage"]["questions"]]


@pytest.mark.parametrize(("gold", "wanted"), [({"label": 0}, [1, 0, 1]), ({}, ["1", "0", "1"])])
def test_labels_are_replaced_or_added_in_the_objects_that_are_examples(tmp_path, gold, wanted):
    lines = [line(0, [gold, gold], [gold]), line(1, [gold])]
    (tmp_path / "in.jsonl").write_text("\n\n".join(map(json.dumps, lines)))
    source = TextSource(
        format="jsonl", unit="text", fields=Fields.model_validate(NESTED), each=EACH, questions={}, labelled=False
    )
    examples = read_texts(tmp_path / "in.jsonl", source)
    write_answers(tmp_path / "in.jsonl", source, examples, ["1", "0", "1", "0"], tmp_path / "out.jsonl")
    first, second = map(json.loads, (tmp_path / "out.jsonl").read_text().splitlines())
    assert labels_of(first) == [wanted[:2], wanted[2:]]
    assert labels_of(second) == [[wanted[1]]]
    for before, after in zip(lines, (first, second), strict=True):
        for record in (before, after):
            for question in record["passage"]["questions"]:
                for answer in question["answers"]:
                    answer.pop("label", None)
        assert before == after, "nothing else changes"
