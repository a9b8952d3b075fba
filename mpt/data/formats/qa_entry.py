"""A question as a file has it, whatever the file's layout, and how its parts are called there."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mpt.base.errors import DataError, placed
from mpt.data.formats.jsonlines import member
from mpt.data.formats.source import quoted


@dataclass(frozen=True, slots=True, kw_only=True)
class Names:
    """What a layout calls the parts of a question.

    Attributes:
        id: A text that names the question in its file, or with `numbered` a whole number.
        question: What is asked.
        start: Offset of an answer's first character.
        end: Offset of its last character; None where only the text tells it.
        numbered: See `id`.
        impossible: Whether it has no answer; None where every question has one.
    """

    id: str
    question: str
    start: str
    end: str | None = None
    numbered: bool = False
    impossible: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """An item of `qas`, unchecked.

    Attributes:
        record: The item.
        names: How its parts are called.
        context: The passage it is about.
        article: Number of the document it belongs to.
        place: Path in the document, or in the line.
        line: The line that it begins in, counted from 1.
    """

    record: Mapping[str, Any]
    names: Names
    context: str
    article: int
    place: str
    line: int

    @property
    def name(self) -> str:
        """Path and id."""
        return f"{self.place} ({self.names.id} {json.dumps(self.record.get(self.names.id), ensure_ascii=False)})"


def text_of(record: Any, name: str, place: str = "") -> str:
    """A text that is not blank; of what stands at `place` in the document.

    Raises:
        DataError: There is none.
    """
    value = field_of(record, name, place)
    before = f"{place}: " if place else ""
    if not isinstance(value, str):
        raise DataError(f"{before}{name} must be a text, got {quoted(json.dumps(value))}")
    if not value.strip():
        raise DataError(f"{before}{name} is empty")
    if any("\ud800" <= char <= "\udfff" for char in value):
        raise DataError(f"{before}{name} holds half of a surrogate pair, which is no character: {quoted(value)}")
    return value


def list_of(record: Any, name: str, place: str = "") -> list[Any]:
    """A list; see `text_of`."""
    value = field_of(record, name, place)
    if not isinstance(value, list):
        raise DataError(f"{f'{place}: ' if place else ''}{name} must be a list, got {quoted(json.dumps(value))}")
    return value


def field_of(record: Any, name: str, place: str = "") -> Any:
    """A field of an object; see `text_of`."""
    before = f"{place}: " if place else ""
    if not isinstance(record, dict):
        raise DataError(f"{before}expected an object, got {quoted(json.dumps(record))}")
    try:
        return member(record, name)
    except DataError as error:
        raise placed(error, place) from None
