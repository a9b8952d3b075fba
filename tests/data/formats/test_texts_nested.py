import pytest

from mpt.base.errors import DataError
from mpt.data.formats.text_files import parts_of

LINE = {
    "idx": 3,
    "passage": {
        "text": "p",
        "questions": [
            {"question": "q0", "answers": [{"text": "a", "label": 0}, {"text": "b", "label": 1}]},
            {"question": "q1", "answers": [{"text": "c", "label": 1}]},
        ],
    },
}
PATH = "passage.questions.answers"


def problems(record, path=PATH):
    with pytest.raises(DataError) as caught:
        parts_of(record, path)
    return list(caught.value.problems)


def test_every_item_is_a_part_with_all_that_is_around_it():
    found = parts_of(LINE, PATH)
    assert [part.own["text"] for part in found] == ["a", "b", "c"]
    assert [part.place for part in found] == [
        "passage.questions[0].answers[0]",
        "passage.questions[0].answers[1]",
        "passage.questions[1].answers[0]",
    ]
    assert found[2].view == {
        "idx": 3,
        "passage": {"text": "p", "questions": {"question": "q1", "answers": {"text": "c", "label": 1}}},
    }
    assert found[1].own is LINE["passage"]["questions"][0]["answers"][1], "what is written to it, is in the line"


def test_a_field_of_that_very_name_comes_first():
    (part,) = parts_of({"a.b": [{"x": 1}], "a": {"b": [{"x": 2}, {"x": 3}]}}, "a.b")
    assert (part.own, part.place) == ({"x": 1}, "a.b[0]")


@pytest.mark.parametrize(
    ("questions", "told"),
    [
        (None, "passage.questions must be an object, got"),
        ([], "passage.questions is an empty list, which gives no example. Fill it"),
        ([{"answers": []}], "passage.questions[0].answers is an empty list"),
        (
            [{"answers": {"text": "a"}}],
            "passage.questions[0].answers must be a list, every item of which is an example",
        ),
        ([{"answer": []}], 'passage.questions[0]: no field "answers" among answer. Did you mean "answer"?'),
        ([{"answers": ["a"]}], 'passage.questions[0].answers[0] must be an object, got "\\"a\\""'),
        ([7], 'passage.questions[0] must be an object, got "7"'),
    ],
)
def test_what_is_wrong_is_told_with_its_place(questions, told):
    (problem,) = problems({"passage": {"questions": questions}})
    assert problem.startswith(told), problem


def test_everything_that_is_wrong_in_a_line_is_told():
    found = problems({"passage": {"questions": [{"answers": []}, {"answers": ["a", {}, 3]}]}})
    assert [problem.split(" ")[0] for problem in found] == [
        "passage.questions[0].answers",
        "passage.questions[1].answers[0]",
        "passage.questions[1].answers[2]",
    ]
    assert problems({"idx": 1}) == ['no field "passage" among idx.']
