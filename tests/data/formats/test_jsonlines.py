import json
from pathlib import Path

import pytest

from mpt.data.formats.jsonlines import read_jsonl, read_jsonl_spans
from mpt.data.formats.source import Problems, SourceFormat


def read(reader, text: str, **layout):
    problems = Problems(Path("f.jsonl"))
    name = "jsonl" if reader is read_jsonl else "jsonl_spans"
    found = list(reader(text, SourceFormat(format=name, **layout), problems))
    return found, str(problems.error()).splitlines() if problems else []


def test_words_and_tags():
    text = '{"tokens": ["EU", "#x"], "tags": ["B-ORG", "O"], "id": 1}\r\n\n{"tokens": ["a"], "tags": ["O"]}'
    found, problems = read(read_jsonl, text)
    assert problems == []
    assert [(s.words, s.tags, s.lines) for s in found] == [
        (("EU", "#x"), ("B-ORG", "O"), (1, 1)),
        (("a",), ("O",), (3,)),
    ]


def test_fields_have_names_of_their_own():
    found, _ = read(read_jsonl, '{"words": ["a"], "ner": ["O"]}', words_field="words", tags_field="ner")
    assert found[0].tags == ("O",)
    found, _ = read(read_jsonl, '{"tokens": ["a"]}', tags_field=None)
    assert found[0].tags is None


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ('{"tokens": ["a", "b"], "tags": ["O"]}', "f.jsonl:1: tokens has 2 items, tags has 1"),
        ('{"token": ["a"], "tags": ["O"]}', 'f.jsonl:1: no field "tokens" among token, tags. Did you mean "token"?'),
        ('{"tokens": "a b", "tags": ["O"]}', 'f.jsonl:1: tokens must be a list of strings, got "\\"a b\\""'),
        ('{"tokens": ["a"], "tags": [3]}', 'f.jsonl:1: tags[0] must be a string, got "3". Write the names of the tags'),
        ('{"tokens": [null], "tags": ["O"]}', 'f.jsonl:1: tokens[0] must be a string, got "null".'),
        ('{"tokens": ["a", " "], "tags": ["O", "O"]}', "f.jsonl:1: tokens[1] is an empty word"),
        ('{"tokens": [], "tags": []}', "f.jsonl:1: tokens is empty"),
        ('["a"]', 'f.jsonl:1: expected an object, one a line, got "[\\"a\\"]"'),
        ('{"tokens": ["a"], "tokens": ["b"], "tags": ["O"]}', 'f.jsonl:1: key "tokens" occurs twice in one object'),
        ('{"tokens": ["a"] "tags"}', "f.jsonl:1:18: not JSON: Expecting ',' delimiter. Line: "),
        pytest.param("[" * 100_000, "f.jsonl:1: the JSON is nested too deeply", id="deep"),
    ],
)  # fmt: skip
def test_wrong_lines_are_named(line, problem):
    found, problems = read(read_jsonl, line)
    assert found == []
    assert problems[0].startswith(problem)


def test_all_wrong_lines_are_named_and_the_others_are_read():
    found, problems = read(read_jsonl, '{\n{"tokens": ["a"], "tags": ["O"]}\n{"tokens": ["a"], "tags": []}\n')
    assert len(found) == 1
    assert [problem.split(": ")[0] for problem in problems] == ["f.jsonl:1:2", "f.jsonl:3"]


@pytest.mark.parametrize(
    "entity",
    [
        {"start": 8, "end": 14, "type": "LOC"},
        {"start": 8, "end": 14, "label": "LOC", "text": "Berlin"},
        {"start": 8, "end": 14, "type": "LOC", "value": "Berlin", "id": 3},
        [8, 14, "LOC"],
    ],
)
def test_character_spans(entity):
    found, problems = read(read_jsonl_spans, json.dumps({"text": "flights Berlin!", "spans": [entity]}))
    assert problems == []
    assert found[0].words == ("flights", "Berlin", "!")
    assert found[0].tags == ("O", "B-LOC", "O")


@pytest.mark.parametrize(
    ("spans", "problem"),
    [
        ([{"start": 0, "end": 2, "type": "X", "text": "ad"}], 'f.jsonl:1: spans[0] says "ad", but 0:2 is "ab"'),
        ([{"start": 0, "end": 9, "type": "X"}], 'f.jsonl:1: span 0:9 "X" is not inside the text of 5 characters'),
        ([[0, 2, "X"], [1, 4, "Y"]], 'f.jsonl:1: span 1:4 "Y" overlaps span 0:2 "X"'),
        ([{"start": 0, "end": 2}], "f.jsonl:1: spans[0] must give start, end and type, got "),
        ([{"start": True, "end": 2, "type": "X"}], "f.jsonl:1: spans[0] must give start, end and type, got "),
        ([[0, 2]], "f.jsonl:1: spans[0] must give start, end and type, got "),
        ([[0, 2, ""]], "f.jsonl:1: spans[0] must give start, end and type, got "),
        (["X"], "f.jsonl:1: spans[0] must give start, end and type, got "),
        ({}, 'f.jsonl:1: spans must be a list, got "{}"'),
    ],
)
def test_wrong_spans_are_named(spans, problem):
    found, problems = read(read_jsonl_spans, json.dumps({"text": "ab cd", "spans": spans}))
    assert found == []
    assert problems[0].startswith(problem)


def test_spans_may_be_left_unread():
    found, problems = read(read_jsonl_spans, '{"text": "ab cd", "spans": [[0, 1, "X"]]}', spans_field=None)
    assert problems == []
    assert found[0].words == ("ab", "cd")
    assert found[0].tags is None


@pytest.mark.parametrize(
    "line", ['{"text": " ", "spans": []}', '{"text": "", "spans": []}', '{"text": 3, "spans": []}', '{"spans": []}']
)
def test_there_has_to_be_a_text(line):
    found, problems = read(read_jsonl_spans, line)
    assert found == []
    assert len(problems) == 1
