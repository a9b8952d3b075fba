from pathlib import Path

import pytest

from mpt.data.formats.slots import read_rasa, read_snips
from mpt.data.formats.source import Problems, SourceFormat

SNIPS = """\
{
  "Play": [
    {"data": [{"text": " play "}, {"text": "Yo Ho", "entity": "track"}, {"text": "now\\n", "entity": "time"}]},

    {"data": [
      {"text": "stop]}"}
    ]}
  ],
  "None": [ ],
  "Rate": [{"data": [{"text": "4", "entity": "rating"}, {"text": " stars"}]}]
}"""

RASA = """\
{"version": "1", "rasa_nlu_data": {
  "regex_features": [{"name": "x"}],
  "common_examples": [
    {"text": "dim the bedroom's light", "intent": "dim",
     "entities": [{"start": 8, "end": 15, "value": "bedroom", "entity": "place"}]},
    {"text": "hello"}
  ],
  "entity_examples": [{"text": "more", "entities": []}]
}}
"""


def read(reader, text: str, **layout):
    problems = Problems(Path("f.json"))
    name = "snips" if reader is read_snips else "rasa"
    found = list(reader(text, SourceFormat(format=name, **layout), problems))
    return found, str(problems.error()).splitlines() if problems else []


def test_snips_chunks_become_words_tags_and_lines():
    found, problems = read(read_snips, SNIPS)
    assert problems == []
    assert [(s.words, s.tags, s.lines[0]) for s in found] == [
        (("play", "Yo", "Ho", "now"), ("O", "B-track", "I-track", "B-time"), 3),
        (("stop", "]", "}"), ("O", "O", "O"), 5),
        (("4", "stars"), ("B-rating", "O"), 10),
    ]
    assert [s.cuts for s in found] == [1, 0, 0]
    assert found[0].text == " play Yo Honow\n"


def test_rasa_examples_become_words_tags_and_lines():
    found, problems = read(read_rasa, RASA)
    assert problems == []
    assert [(s.words, s.tags, s.lines[0]) for s in found] == [
        (("dim", "the", "bedroom", "'", "s", "light"), ("O", "O", "B-place", "O", "O", "O"), 4),
        (("hello",), ("O",), 6),
        (("more",), ("O",), 8),
    ]


@pytest.mark.parametrize(("reader", "text"), [(read_snips, SNIPS), (read_rasa, RASA)])
def test_entities_may_be_left_unread(reader, text):
    found, problems = read(reader, text, spans_field=None)
    assert problems == []
    assert all(sentence.tags is None and sentence.cuts == 0 for sentence in found)
    assert found[0].words in [("play", "Yo", "Honow"), ("dim", "the", "bedroom", "'", "s", "light")]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ('{"a":\n [}', "f.json:2:3: not JSON: "),
        ("[]", "f.json:1: expected a JSON object with something in it"),
        ("{}", "f.json:1: expected a JSON object with something in it"),
        pytest.param("[" * 100_000, "f.json: the JSON is nested too deeply", id="deep"),
        ('{"a":\n 3}', 'f.json:2: intent "a" must hold a list of utterances'),
        ('{"a": [3]}', 'f.json:1: an utterance must hold a list "data" of chunks, got "3"'),
        ('{"a": [\n{"dta": []}]}', 'f.json:2: no field "data" among dta. Did you mean "dta"?'),
        ('{"a": [{"data": [{"txt": "x"}]}]}', 'f.json:1: no field "text" among txt. Did you mean "txt"?'),
        ('{"a": [{"data": [{"text": 3}]}]}', "f.json:1: data[0] must hold strings, got "),
        ('{"a": [{"data": [{"text": "x", "entity": ""}]}]}', "f.json:1: data[0] must hold strings, got "),
        ('{"a": [{"data": [{"text": " ", "entity": "x"}]}]}', "f.json:1: the text is empty"),
        ('{"a": [{"data": [{"text": "x"}], "data": []}]}', 'f.json:1: key "data" occurs twice in one object'),
    ],
)
def test_wrong_snips_documents_are_named(text, problem):
    found, problems = read(read_snips, text)
    assert found == []
    assert problems[0].startswith(problem)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("{", "f.json:1:2: not JSON: "),
        ('{"rasa": {}}', "f.json:1: expected a list rasa_nlu_data.common_examples in this document"),
        ('{"rasa_nlu_data": {"common_examples": {}}}', "f.json:1: expected a list rasa_nlu_data.common_examples"),
        ('{"rasa_nlu_data": {"common_examples": [\n{"txt": ""}]}}', 'f.json:2: no field "text" among txt.'),
        ('{"rasa_nlu_data": {"common_examples": [7]}}', 'f.json:1: an example must hold a string "text", got "7"'),
        (RASA.replace('"bedroom"', '"kitchen"'), 'f.json:4: entities[0] says "kitchen", but 8:15 is "bedroom"'),
        (
            RASA.replace('"entity": "place"', '"label": "place"'),
            "f.json:4: entities[0] must give start, end and entity",
        ),
    ],
)
def test_wrong_rasa_documents_are_named(text, problem):
    _, problems = read(read_rasa, text)
    assert len(problems) == 1
    assert problems[0].startswith(problem)
