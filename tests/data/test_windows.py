from dataclasses import fields, is_dataclass, replace

import numpy as np
import pytest

from mpt.data.example import Answer, Question, Sentence, TextExample
from mpt.data.families.of_task import family_of
from mpt.data.manifest.format_specs import task_spec
from mpt.data.windows import select

WORDS = ("The", "lowest", "river", "is", "not", "low", "42")
LONG = 60
"""Words of an example that needs several windows."""


def path(number):
    return ("b.txt", "a.txt")[number % 2]


def sentence(number):
    words = tuple(WORDS[(number + i) % 7] for i in range(LONG if number == 3 else 2 + number))
    tags, lines = tuple("OAB"[(number + i) % 3] for i in range(len(words))), tuple(range(number, number + len(words)))
    return Sentence(words=words, tags=tags, path=path(number), lines=lines, predicate=number % 2)


def text(number, *, pair=False, choices=1):
    inputs = tuple((WORDS[number % 7], *["is low"] * pair) for _ in range(choices))
    tags = ("1",) if choices > 1 else ("OAB"[number % 3],)
    return TextExample(inputs=inputs, tags=tags, path=path(number), lines=(number,))


def question(number):
    passage = " ".join(["the low river"] * (LONG if number == 3 else 1 + number % 2))
    answers = () if number == 4 else (Answer(text="low", start=4),)
    lines = (number,)
    return Question(id="q", question="is low", passage=passage, answers=answers, path=path(number), lines=lines)


LAYOUT = {"files": {"train": "x"}, "dev_fraction": 0.5}
COLUMNS = LAYOUT | {"columns": {"word": 0, "tag": 1}}
ROLES = LAYOUT | {"family": "srl", "format": "props", "columns": {"word": 0, "predicate": 1, "arguments": 2}}
TEXTS = LAYOUT | {"format": "csv", "fields": {"text": "t", "label": "l"}}
FAMILIES = {
    "words": ({"family": "pos", **COLUMNS}, [sentence(i) for i in range(6)]),
    "roles, by suffix": (ROLES, [sentence(i) for i in range(6)]),
    "roles, by segment": (ROLES | {"predicate": "segment"}, [sentence(i) for i in range(6)]),
    "texts": ({"family": "classification", **TEXTS}, [text(i) for i in range(6)]),
    "some in pairs": ({"family": "classification", **TEXTS}, [text(i, pair=i > 3) for i in range(6)]),
    "choices": ({"family": "choice", "format": "jsonl", **LAYOUT}, [text(i, choices=2 + i % 2) for i in range(6)]),
    "passages": ({"family": "qa", "format": "squad", **LAYOUT}, [question(i) for i in range(6)]),
}


def same(ours, theirs):
    """Equal in value and type, arrays to the bit."""
    if is_dataclass(theirs):
        return all(same(getattr(ours, field.name), getattr(theirs, field.name)) for field in fields(theirs))
    if isinstance(theirs, np.ndarray):
        return ours.dtype == theirs.dtype and np.array_equal(ours, theirs)
    return type(ours) is type(theirs) and ours == theirs


@pytest.mark.parametrize("chosen", [[1, 2], [0, 3, 5], [3], [4, 5], [5, 3, 0], list(range(6))])
@pytest.mark.parametrize("state", ["piece", "mean"])
@pytest.mark.parametrize("family", FAMILIES)
def test_some_examples_of_a_split_are_as_if_encoded_alone(load, family, state, chosen):
    declared, examples = FAMILIES[family]
    word_pieces, spec = replace(load("bert").word_pieces, mean=state == "mean"), task_spec(declared)
    whole, part = (
        family_of(spec).encode(some, word_pieces, ("O", "A", "B"))[0]
        for some in (examples, [examples[i] for i in chosen])
    )
    assert same(select(whole, np.array(chosen)), part)
    assert same(whole, part) == (len(chosen) == len(examples))
