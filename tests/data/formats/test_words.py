from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpt.data.formats.source import Problems
from mpt.data.formats.words import CharSpan, char_spans, find_words, split_words, tag_words
from mpt.data.tags import spans

ALPHABET = "ab1_.'-# \n\t\u00e9\u0301\u200d\ufe0f\u2764\u4e2d\u00a0\U0001f355"
TEXTS = st.text(alphabet=st.sampled_from(ALPHABET), max_size=15)


def words_of(text: str) -> list[str]:
    return [text[start:end] for start, end in split_words(text)]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Don't stop, B-52!", ["Don", "'", "t", "stop", ",", "B", "-", "52", "!"]),
        ("  a\n b\u00a0c\t", ["a", "b", "c"]),
        ("snake_case $5.50", ["snake", "_", "case", "$", "5", ".", "50"]),
        ("na\u00efve re\u0301sume\u0301", ["na\u00efve", "re\u0301sume\u0301"]),
        ("\u0928\u092e\u0938\u094d\u0924\u0947", ["\u0928\u092e\u0938\u094d\u0924\u0947"]),  # Devanagari vowel signs
        ("\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645", ["\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645"]),
        ("I \u2764\ufe0f NY", ["I", "\u2764\ufe0f", "NY"]),
        ("\U0001f468\u200d\U0001f469\u200d\U0001f467ok", ["\U0001f468\u200d\U0001f469\u200d\U0001f467", "ok"]),
        ("\U0001f44d\U0001f3fd\U0001f44d", ["\U0001f44d\U0001f3fd", "\U0001f44d"]),
        ("\u5317\u4eac2008", ["\u5317", "\u4eac", "2008"]),
        ("\ufe0f", ["\ufe0f"]),
        (" \n", []),
    ],
)
def test_words(text, words):
    assert words_of(text) == words


@given(TEXTS, st.sets(st.integers(0, 15)))
def test_words_are_slices_that_cover_all_but_white_space_and_are_found_again(text, borders):
    offsets = split_words(text, borders)
    covered = {index for start, end in offsets for index in range(start, end)}
    assert covered == {index for index, char in enumerate(text) if not char.isspace()}
    assert offsets == sorted(offsets)
    assert sum(end - start for start, end in offsets) == len(covered)
    assert not any(start < border < end for start, end in offsets for border in borders)
    assert find_words(text, [text[start:end] for start, end in offsets]) == offsets


def test_words_of_another_text_are_not_found():
    assert find_words("one two", ["one", "too"]) is None
    assert find_words("one two", ["one"]) is None
    assert find_words("one", ["one", "two"]) is None


def label(text: str, *entities: tuple[int, int, str]):
    problems = Problems(Path("f.json"))
    found = [CharSpan(start=start, end=end, type=kind) for start, end, kind in entities]
    return tag_words(text, found, 7, problems), problems


def test_entities_become_tags_and_outer_white_space_is_no_part_of_them():
    sentence, _ = label("play  Yo Ho now", (5, 11, "track"), (12, 15, "time"))
    assert sentence is not None
    assert sentence.words == ("play", "Yo", "Ho", "now")
    assert sentence.tags == ("O", "B-track", "I-track", "B-time")
    assert sentence.lines == (7, 7, 7, 7)
    assert sentence.cuts == 0


def test_a_border_inside_a_word_cuts_it():
    sentence, _ = label("at one pmnear me", (3, 9, "time"), (9, 13, "place"))
    assert sentence is not None
    assert sentence.words == ("at", "one", "pm", "near", "me")
    assert sentence.tags == ("O", "B-time", "I-time", "B-place", "O")
    assert sentence.cuts == 1


@given(TEXTS, st.lists(st.integers(0, 15), min_size=2, max_size=6, unique=True))
def test_no_entity_is_lost(text, borders):
    borders = sorted(border for border in borders if border <= len(text))
    pairs = list(zip(borders[::2], borders[1::2], strict=False))
    entities = [(start, end, "X") for start, end in pairs if text[start:end].strip()]
    sentence, problems = label(text, *entities)
    if not text.strip():
        assert sentence is None
        assert problems
        return
    assert sentence is not None
    assert sentence.tags is not None
    offsets = split_words(text, {border for start, end, _ in entities for border in (start, end)})
    shown = char_spans(text, offsets, sentence.tags)
    assert [span["text"] for span in shown] == [text[start:end].strip() for start, end, _ in entities]
    assert len(spans(sentence.tags)) == len(entities)


@pytest.mark.parametrize(
    ("entity", "message"),
    [
        ((2, 2, "X"), "not inside the text of 5 characters"),
        ((-1, 2, "X"), "not inside the text of 5 characters"),
        ((3, 6, "X"), 'span 3:6 "X" is not inside the text of 5 characters'),
        ((2, 3, "X"), 'span 2:3 "X" holds no word, only " "'),
        ((0, 4, "Y"), 'span 0:4 "Y" overlaps span 0:2 "X"; entities may not overlap'),
    ],
)
def test_misplaced_entities_are_refused(entity, message):
    sentence, problems = label("ab cd", (0, 2, "X"), entity)
    assert sentence is None
    assert message in str(problems.error())
    assert "f.json:7: " in str(problems.error())
