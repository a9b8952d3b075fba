import json

import pytest

from mpt.base.errors import DataError
from mpt.data.formats.text_files import TextSource, read_texts
from mpt.data.manifest.source_spec import Fields


def source(form="csv", *, unit="text", **changes):
    fields = Fields.model_validate(changes.pop("fields", {}))
    return TextSource(format=form, unit=unit, fields=fields, questions=changes.pop("questions", {}), **changes)


def read(tmp_path, content, layout):
    path = tmp_path / "data"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return read_texts(path, layout)


def problems(tmp_path, content, layout):
    with pytest.raises(DataError) as caught:
        read(tmp_path, content, layout)
    return [problem.removeprefix(str(tmp_path / "data")) for problem in caught.value.problems]


def texts(examples):
    return [(example.inputs, example.tags, example.lines[0]) for example in examples]


def test_quoted_fields_hold_line_ends_quotes_and_outer_space(tmp_path):
    content = 'text,label\r\n" a, b\nc ",x\r\n"say ""no""",y\r\n'
    found = texts(read(tmp_path, content, source()))
    assert found == [(((" a, b\nc ",),), ("x",), 2), ((('say "no"',),), ("y",), 4)]


def test_unquoted_columns_by_number_without_a_header(tmp_path):
    layout = source(delimiter="tab", quoted=False, fields={"text": 3, "label": 1})
    found = texts(read(tmp_path, 'gj04\t1\t\tShe "ran.\ngj04\t0\t*\tHim ran.\n', layout))
    assert found == [((('She "ran.',),), ("1",), 1), ((("Him ran.",),), ("0",), 2)]


def test_pairs_labels_and_documents_of_json_lines(tmp_path):
    layout = source("jsonl", fields={"text": "question", "pair": "passage", "label": "answer", "document": "passage"})
    lines = ['{"question": "q1", "passage": "p", "answer": true}', '{"question": "q2", "passage": "r", "answer": 3}']
    lines += ['{"question": "q3", "passage": "p", "answer": "no"}']
    found = read(tmp_path, "\n".join(lines), layout)
    assert [example.inputs for example in found] == [(("q1", "p"),), (("q2", "r"),), (("q3", "p"),)]
    assert [example.tags for example in found] == [("true",), ("3",), ("no",)]
    assert [example.document for example in found] == [0, 1, 0]


def test_plain_lines_have_the_label_of_their_file(tmp_path):
    found = texts(read(tmp_path, "good \n\n bad\n", source("text", label="positive")))
    assert found == [((("good ",),), ("positive",), 1), (((" bad",),), ("positive",), 3)]


def test_choices_are_pairs_of_context_and_choice(tmp_path):
    layout = source(
        "jsonl",
        unit="choices",
        fields={"text": "premise", "question": "asks", "choices": ["choice1", "choice2"]},
        questions={"cause": "What was the cause?"},
    )
    record = '{"premise": "It broke.", "asks": "%s", "choice1": "It fell.", "choice2": "It sang.", "label": 1}\n'
    (one, other) = read(tmp_path, record % "cause" + record % "Why?", layout)
    context = "It broke. What was the cause?"
    assert one.inputs == ((context, "It fell."), (context, "It sang."))
    assert other.inputs[0] == ("It broke. Why?", "It fell.")
    assert one.tags == ("1",)


def test_choices_in_one_list_may_differ_in_number(tmp_path):
    layout = source("jsonl", unit="choices")
    lines = '{"text": "t", "choices": ["a", "b", "c"], "label": 2}\n{"text": "t", "choices": ["a", "b"], "label": 0}\n'
    assert [len(example.inputs) for example in read(tmp_path, lines, layout)] == [3, 2]


def test_texts_are_put_together_from_fields_also_of_inner_objects(tmp_path):
    fields = {"text": "{target.span2_text}: {text}", "pair": "target.span1_text"}
    line = '{"text": "It {fell}.", "target": {"span1_text": "the cup", "span2_text": "It"}, "label": true}\n'
    (one,) = read(tmp_path, line, source("jsonl", fields=fields))
    assert (one.inputs, one.tags) == ((("It: It {fell}.", "the cup"),), ("true",))
    (choice,) = read(
        tmp_path,
        '{"a.b": "x", "a": {"b": "y"}, "choices": ["c", "d"], "label": 0}\n',
        source("jsonl", unit="choices", fields={"text": "<{a.b}>"}),
    )
    assert choice.inputs == (("<x>", "c"), ("<x>", "d")), "a field of that very name comes first"
    (row,) = read(tmp_path, "#1 String,x,label\na,b,c\n", source(fields={"text": "{#1 String} ({x})"}))
    assert row.inputs == (("a (b)",),)


EACH = "passage.questions.answers"
ANSWERS = {"text": "passage.text", "pair": f"{{passage.questions.question}} {{{EACH}.text}}", "label": f"{EACH}.label"}
PASSAGE = '{"idx": %d, "passage": {"text": "p%d", "questions": [%s]}}\n'
QUESTION = '{"question": "q1?", "answers": [{"text": "a", "label": 0}, {"text": "b", "label": 1}]}'


def test_items_of_inner_lists_are_examples_and_their_line_a_document(tmp_path):
    other = QUESTION.replace("q1", "q2").replace(', {"text": "b", "label": 1}', "")
    content = PASSAGE % (0, 0, f"{QUESTION}, {other}") + "\n" + PASSAGE % (1, 1, other)
    found = read(tmp_path, content, source("jsonl", fields=ANSWERS, each=EACH))
    assert [(it.inputs[0], it.tags, it.lines, it.document) for it in found] == [
        (("p0", "q1? a"), ("0",), (1,), 1),
        (("p0", "q1? b"), ("1",), (1,), 1),
        (("p0", "q2? a"), ("0",), (1,), 1),
        (("p1", "q2? a"), ("0",), (3,), 3),
    ]
    named = read(
        tmp_path, content, source("jsonl", fields=ANSWERS | {"document": "passage.questions.question"}, each=EACH)
    )
    assert [it.document for it in named] == [0, 0, 1, 1]


def test_choices_may_stand_in_inner_lists(tmp_path):
    fields = {"text": "{story} {asked.what}", "choices": "asked.options", "label": "asked.right"}
    asked = [{"what": "q", "options": ["a", "b"], "right": 1}, {"what": "r", "options": ["c", "d"], "right": 0}]
    line = json.dumps({"story": "s", "asked": asked})
    found = read(tmp_path, line, source("jsonl", unit="choices", fields=fields, each="asked"))
    assert [(it.inputs, it.tags) for it in found] == [
        ((("s q", "a"), ("s q", "b")), ("1",)),
        ((("s r", "c"), ("s r", "d")), ("0",)),
    ]


def test_what_is_wrong_in_inner_lists_is_told_with_line_and_path(tmp_path):
    wrong = '{"question": "q", "answers": [{"text": " ", "label": 0}, {"text": "b"}, {"text": "c", "label": 1.5}]}'
    content = PASSAGE % (0, 0, QUESTION) + PASSAGE % (1, 1, f"{QUESTION}, {wrong}") + PASSAGE % (2, 2, "")
    assert problems(tmp_path, content, source("jsonl", fields=ANSWERS, each=EACH)) == [
        f":2: passage.questions[1].answers[0]: {EACH}.text is empty",
        ':2: passage.questions[1].answers[1]: no field "label" among text.',
        ':2: passage.questions[1].answers[2]: label must be a label, got "1.5"',
        ":3: passage.questions is an empty list, which gives no example. Fill it, or remove what it belongs to",
    ]


@pytest.mark.parametrize(
    ("fields", "record", "expected"),
    [
        ({"text": "{word}: {s1}"}, '{"word": "w", "label": 1}', 'no field "s1" among word, label'),
        ({"text": "{word}: {s1}"}, '{"word": "w", "s1": " ", "label": 1}', "s1 is empty"),
        ({"text": "t.a"}, '{"t": {"b": "x"}, "label": 1}', 'no field "a" among b'),
        ({"text": "t.a"}, '{"t": "x", "label": 1}', 't must be an object with a field a, got "'),
        ({"text": "t.a"}, '{"u": "x", "label": 1}', 'no field "t.a" among u, label'),
    ],
)
def test_missing_parts_of_a_text_are_told(tmp_path, fields, record, expected):
    (problem,) = problems(tmp_path, record + "\n", source("jsonl", fields=fields))
    assert problem.startswith(f":1: {expected}"), problem


@pytest.mark.parametrize("name", ["{word", "word}", "{}", "{{a}}", "{a}: {b"])
def test_braces_come_in_pairs(name):
    with pytest.raises(ValueError, match="has a brace without its partner, or none between"):
        source(fields={"text": name})


def test_labels_are_left_unread_for_prediction(tmp_path):
    (one,) = read(tmp_path, "text\nhello\n", source(labelled=False))
    assert (one.inputs, one.tags) == ((("hello",),), None)


@pytest.mark.parametrize(
    ("content", "layout", "expected"),
    [
        ("text,label\na,b,c\nd,e\nf\n", {}, [":2: 3 columns, the header line has 2 (text, label)", ":4: 1 columns"]),
        ("text,lable\na,b\n", {}, [':2: no field "label" among text, lable. Did you mean "lable"?']),
        (
            'text,label\n"a,b\n',
            {},
            [":2: not CSV, behind the row of line 1: unexpected end of data. Set quoted"],
        ),
        ("text,label\n ,b\nc,\n", {}, [":2: text is empty", ":3: label must be a label, got"]),
        ("a\tb\n", {"fields": {"text": 0, "label": 2}, "delimiter": "tab"}, [":1: no column 2, the row has 2"]),
        ("text,label\n", {}, [": no text in this file"]),
    ],
)
def test_wrong_csv_is_told_with_its_lines(tmp_path, content, layout, expected):
    found = problems(tmp_path, content, source(**layout))
    assert len(found) == len(expected)
    for problem, start in zip(found, expected, strict=True):
        assert problem.startswith(start)


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        ('{"text": "t", "choices": ["a"], "label": 0}', "1 choice; a question needs at least two"),
        ('{"text": "t", "choices": ["a", " "], "label": 0}', "choices must be a list of texts"),
        ('{"text": "t", "choices": "ab", "label": 0}', "choices must be a list of texts"),
        ('{"text": "t", "choices": ["a", "b"], "label": 2}', 'label must be the number of a choice, 0 to 1, got "2"'),
        ('{"text": "t", "choices": ["a", "b"], "label": true}', "label must be the number of a choice"),
        ('{"text": "t", "choices": ["a", "b"]}', 'no field "label" among text, choices'),
        ('{"text": 3, "choices": ["a", "b"], "label": 0}', 'text must be a text, got "3"'),
        ('{"text": "\\ud800", "choices": ["a", "b"], "label": 0}', "text holds half of a surrogate pair"),
    ],
)
def test_wrong_choices_are_told_with_their_line(tmp_path, record, expected):
    good = '{"text": "t", "choices": ["a", "b"], "label": 0}\n'
    (problem,) = problems(tmp_path, good + record + "\n", source("jsonl", unit="choices"))
    assert problem.startswith(f":2: {expected}")
