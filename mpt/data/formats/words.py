"""Words of running text: splitting with character offsets, and character spans as tags.

A word is a run of letters and digits, an ideograph, or one other character that is not white space; combining marks
and joiners stay with the character before them, so that a decomposed accent or an emoji sequence does not fall apart.
Words are slices of the text, in order, with nothing but white space between them: offsets can be found again.
"""

import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from mpt.data.formats.source import Problems, RawSentence, quoted
from mpt.data.tags import Span, bio_from_spans, spans

_JOINERS = "\u200c\u200d"  # zero width non-joiner (Persian, Indic) and joiner (emoji sequences)
_SKIN_TONES = ("\U0001f3fb", "\U0001f3ff")
_IDEOGRAPHS = (("\u3400", "\u9fff"), ("\uf900", "\ufaff"), ("\U00020000", "\U0003ffff"))


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class CharSpan:
    """One entity in running text: the characters `start` (included) to `end` (excluded)."""

    start: int
    end: int
    type: str


def split_words(text: str, borders: Iterable[int] = ()) -> list[tuple[int, int]]:
    """Start and end (excluded) of each word of a text, in characters; words are cut at `borders` as well."""
    cuts = set(borders)
    words: list[tuple[int, int]] = []
    for index, char in enumerate(text):
        if char.isspace():
            continue
        if words and words[-1][1] == index and index not in cuts and _continues(text, index, words[-1][0]):
            words[-1] = (words[-1][0], index + 1)
        else:
            words.append((index, index + 1))
    return words


def find_words(text: str, words: Sequence[str]) -> list[tuple[int, int]] | None:
    """Find the offsets of words that `split_words` cut, or None where they are not the words of this text."""
    found: list[tuple[int, int]] = []
    end = 0
    for word in words:
        start = len(text) - len(text[end:].lstrip())
        end = start + len(word)
        if text[start:end] != word:
            return None
        found.append((start, end))
    return None if text[end:].strip() else found


def word_offsets(text: str, words: Sequence[str]) -> list[tuple[int, int]]:
    """The offsets of words that are known to be those of a text."""
    offsets = find_words(text, words)
    assert offsets is not None, "the words were checked against the text"
    return offsets


def tag_words(text: str, entities: Sequence[CharSpan] | None, line: int, problems: Problems) -> RawSentence | None:
    """Split text into words and write its entities as BIO2 tags.

    A word is cut where an entity begins or ends inside it, so that no gold is lost; the result counts such words. It is
    rare (3 words in snips, none in hwu64), yet there the words differ from those of the same text without entities.
    White space at either end of an entity is no part of it.

    Args:
        text: Running text.
        entities: Its entities in any order; None when it carries none to be read.
        line: Line of the text in its file.
        problems: Takes entities outside the text, without a word, or overlapping; then there is no sentence.
    """
    plain = split_words(text)
    found = [] if plain else ["the text is empty"]
    found += [problem for entity in entities or () if (problem := _misplaced(text, entity))]
    found += _overlaps(entities or ())
    for problem in found:
        problems.add(line, problem)
    if found:
        return None
    borders = {border for entity in entities or () for border in (entity.start, entity.end)}
    words = split_words(text, borders) if borders else plain
    return RawSentence(
        words=tuple(text[start:end] for start, end in words),
        tags=None if entities is None else _bio(text, words, entities),
        lines=(line,) * len(words),
        text=text,
        cuts=sum(any(start < border < end for border in borders) for start, end in plain),
    )


def char_spans(text: str, words: Sequence[tuple[int, int]], tags: Sequence[str]) -> list[dict[str, int | str]]:
    """The entities of BIO2 tags as character spans with their text, ready for JSON."""
    found = [(words[span.start][0], words[span.end - 1][1], span.type) for span in spans(tags)]
    return [{"start": start, "end": end, "type": kind, "text": text[start:end]} for start, end, kind in found]


def _continues(text: str, index: int, start: int) -> bool:
    """Whether the character at `index` belongs to the word that began at `start` and reaches up to it."""
    char, before = text[index], text[index - 1]
    if char.isascii() and before.isascii():
        return char.isalnum() and before.isalnum()
    if char in _JOINERS or before in _JOINERS or unicodedata.category(char)[0] == "M":
        return True
    if _SKIN_TONES[0] <= char <= _SKIN_TONES[1]:
        return True
    if not _joins(char):
        return False
    while index - 1 > start and unicodedata.category(text[index - 1])[0] == "M":
        index -= 1
    return _joins(text[index - 1])


def _joins(char: str) -> bool:
    return char.isalnum() and not any(low <= char <= high for low, high in _IDEOGRAPHS)


def _bio(text: str, words: Sequence[tuple[int, int]], entities: Sequence[CharSpan]) -> tuple[str, ...]:
    starts = {start: index for index, (start, _) in enumerate(words)}
    ends = {end: index + 1 for index, (_, end) in enumerate(words)}
    trimmed = [(*_trimmed(text, entity), entity.type) for entity in entities]
    return bio_from_spans([Span(start=starts[a], end=ends[b], type=kind) for a, b, kind in trimmed], len(words))


def _trimmed(text: str, entity: CharSpan) -> tuple[int, int]:
    slice_ = text[entity.start : entity.end]
    return entity.end - len(slice_.lstrip()), entity.start + len(slice_.rstrip())


def _misplaced(text: str, entity: CharSpan) -> str | None:
    place = f'span {entity.start}:{entity.end} "{entity.type}"'
    if not 0 <= entity.start < entity.end <= len(text):
        return f"{place} is not inside the text of {len(text)} characters: start is counted from 0, end excluded"
    if not text[entity.start : entity.end].strip():
        return f"{place} holds no word, only {quoted(text[entity.start : entity.end])}"
    return None


def _overlaps(entities: Sequence[CharSpan]) -> list[str]:
    return [
        f'span {b.start}:{b.end} "{b.type}" overlaps span {a.start}:{a.end} "{a.type}"; entities may not overlap'
        for a, b in pairwise(sorted(entities))
        if b.start < a.end
    ]
