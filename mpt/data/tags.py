"""Tag schemes: what each one allows, conversion to and from BIO2, and entities as spans.

All schemes share one reading. A sequence of tags is cut into chunks as conlleval cuts it: a chunk begins where the type
changes, at B-, S- and U-, and after E-, L-, S- and U-. Writing a chunk in the declared scheme gives its canonical tags,
and a sequence is well-formed exactly when every chunk is canonical. So there is one cutter, one writer, and no list of
forbidden transitions that a scheme could be missing from.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from mpt.base.errors import DataError

Scheme = Literal["iob1", "iob2", "iobes", "bilou", "io", "raw"]
Repair = Literal["error", "begin", "drop"]

PREFIXES: dict[Scheme, str] = {"iob2": "BI", "iob1": "BI", "iobes": "BIES", "bilou": "BILU", "io": "I"}
"""Prefixes that a span scheme allows beside O, in the order in which schemes are suggested."""

_OPENING = frozenset("BSU")
_CLOSING = frozenset("ELSU")


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class Span:
    """One entity: the words `start` (included) to `end` (excluded) of a sentence."""

    start: int
    end: int
    type: str


@lru_cache(maxsize=1 << 16)
def split_tag(tag: str) -> tuple[str, str]:
    """Split a tag at its first hyphen: `B-creative-work` gives `("B", "creative-work")`, and `O` gives `("O", "")`."""
    prefix, _, kind = tag.partition("-")
    return prefix, kind


def check_tags(tags: Sequence[str], scheme: Scheme) -> list[tuple[int, str]]:
    """Index and problem of each tag of a sentence that a scheme does not allow, in order, at most one for a chunk."""
    if scheme == "raw":
        return [(index, "the tag is empty") for index, tag in enumerate(tags) if not tag]
    return undeclared_tags(tags, scheme) or [problem for problem, _ in _ill_formed(tags, scheme)]


def undeclared_tags(tags: Sequence[str], scheme: Scheme) -> list[tuple[int, str]]:
    """Find the tags that do not belong to a span scheme at all, which no repair can mend."""
    return [(index, problem) for index, tag in enumerate(tags) if (problem := _undeclared(tag, scheme))]


def to_bio(tags: Sequence[str], scheme: Scheme, repair: Repair = "error") -> tuple[str, ...]:
    """Convert the tags of one sentence to BIO2; raw tags are returned as they are.

    Under io, two entities of one type that touch are one. Of an ill-formed chunk, such as one that begins with I- under
    iob2, `error` raises, `begin` makes an entity, as conlleval counts it, and `drop` turns its words into O.

    Raises:
        DataError: A tag does not belong to the scheme, or is ill-formed and `repair` is `error`.
    """
    problems = check_tags(tags, scheme) if repair == "error" or scheme == "raw" else undeclared_tags(tags, scheme)
    if problems:
        raise DataError([f"word {index}: {problem}" for index, problem in problems])
    if scheme == "raw":
        return tuple(tags)
    dropped = {span for _, span in _ill_formed(tags, scheme)} if repair == "drop" else set()
    return bio_from_spans([span for span in spans(tags) if span not in dropped], len(tags))


def from_bio(tags: Sequence[str], scheme: Scheme) -> tuple[str, ...]:
    """Convert BIO2 tags to a scheme; raw tags are returned as they are.

    `from_bio(to_bio(tags, scheme), scheme)` gives well-formed `tags` back. io cannot hold two entities of one type that
    touch: they merge.
    """
    return tuple(tags) if scheme == "raw" else _write(spans(tags), len(tags), scheme)


def spans(tags: Sequence[str]) -> list[Span]:
    """Return the entities of a tag sequence, in order, cut as conlleval cuts them.

    Meant for BIO2. Well-formed tags of the other schemes give their entities too; an I- that continues nothing begins
    an entity.

    Source:
        Tjong Kim Sang and De Meulder 2003, conlleval (functions startOfChunk and endOfChunk).
    """
    return list(_cut(tags))


def bio_from_spans(spans: Iterable[Span], length: int) -> tuple[str, ...]:
    """Write entities that do not overlap, in any order, as BIO2 tags of a sentence of `length` words."""
    return _write(sorted(spans), length, "iob2")


def fitting_schemes(sentences: Iterable[Sequence[str]]) -> list[Scheme]:
    """Return the span schemes in which every sentence is well-formed, likeliest first."""
    fitting: list[Scheme] = list(PREFIXES)
    for tags in sentences:
        fitting = [scheme for scheme in fitting if not check_tags(tags, scheme)]
    return fitting


def _cut(tags: Sequence[str]) -> Iterator[Span]:
    start, previous, open_type = 0, "O", ""
    for index, tag in enumerate(tags):
        prefix, kind = split_tag(tag)
        if open_type and (kind != open_type or prefix in _OPENING or previous in _CLOSING):
            yield Span(start=start, end=index, type=open_type)
            open_type = ""
        if kind and not open_type:
            start, open_type = index, kind
        previous = prefix
    if open_type:
        yield Span(start=start, end=len(tags), type=open_type)


def _write(ordered: Sequence[Span], length: int, scheme: Scheme) -> tuple[str, ...]:
    tags = ["O"] * length
    before = None
    for span in ordered:
        touches = before is not None and before.end == span.start and before.type == span.type
        assert 0 <= span.start < span.end <= length, f"{span} lies outside a sentence of {length} words"
        assert before is None or before.end <= span.start, f"{span} overlaps {before}"
        tags[span.start : span.end] = _canonical(span, touches, scheme)
        before = span
    return tuple(tags)


def _canonical(span: Span, touches: bool, scheme: Scheme) -> list[str]:
    """Write one entity; `touches` says that one of the same type ends where it starts."""
    size = span.end - span.start
    if scheme in ("iobes", "bilou"):
        last, single = ("E", "S") if scheme == "iobes" else ("L", "U")
        prefixes = single if size == 1 else "B" + "I" * (size - 2) + last
    else:
        first = "B" if scheme == "iob2" or (scheme == "iob1" and touches) else "I"
        prefixes = first + "I" * (size - 1)
    return [f"{prefix}-{span.type}" for prefix in prefixes]


@lru_cache(maxsize=1 << 16)
def _undeclared(tag: str, scheme: Scheme) -> str | None:
    if tag == "O":
        return None
    prefix, kind = split_tag(tag)
    if len(prefix) == 1 and prefix in PREFIXES[scheme] and kind:
        return None
    allowed = ", ".join(f"{allowed}-TYPE" for allowed in PREFIXES[scheme])
    return f'tag "{tag}" is not one of {scheme}, which knows O, {allowed}'


def _ill_formed(tags: Sequence[str], scheme: Scheme) -> Iterator[tuple[tuple[int, str], Span]]:
    """Yield a problem (index, text) and its chunk for each chunk that is not canonical."""
    before = None
    for span in _cut(tags):
        touches = before is not None and before.end == span.start and before.type == span.type
        for index, expected in enumerate(_canonical(span, touches, scheme), span.start):
            if tags[index] != expected:
                yield (index, _describe(tags, index, span, expected, scheme)), span
                break
        before = span


def _describe(tags: Sequence[str], index: int, span: Span, expected: str, scheme: Scheme) -> str:
    if index == span.start:
        place = f'follows "{tags[index - 1]}"' if index else "starts the sentence"
    elif index == span.end - 1:
        place = f'is followed by "{tags[span.end]}"' if span.end < len(tags) else "ends the sentence"
    else:
        place = "stands inside an entity"
    return f'"{tags[index]}" {place}: {scheme} expects "{expected}"'
