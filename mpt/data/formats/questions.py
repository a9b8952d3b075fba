"""A question about a passage as a file has it, whatever the file's layout, and its answers checked.

Offsets are verified and never moved; passages stay as they are, outer white space included.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from mpt.base.errors import DataError, placed
from mpt.data.example import Answer, Question
from mpt.data.formats.jsonlines import member
from mpt.data.formats.source import quoted, require_text

QaFormat = Literal["squad", "record"]


@dataclass(frozen=True, slots=True, kw_only=True)
class QaSource:
    """How a file of questions is read."""

    format: QaFormat = "squad"  # a document of SQuAD 1.1 or 2.0, or ReCoRD, a passage a line
    encoding: str = "utf-8"
    no_answer: bool = False  # whether questions may have none (`is_impossible`, SQuAD 2.0)
    # What becomes of an answer that is not at its offset; a question without any other is dropped with it.
    on_bad_answer: Literal["error", "drop"] = "error"
    labelled: bool = True  # whether answers are read

    def without_gold(self) -> "QaSource":
        """The layout of the same file, its answers left unread, for prediction."""
        return replace(self, labelled=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Names:
    """What a layout calls the parts of a question."""

    id: str  # a text that names the question in its file, or with `numbered` a whole number
    question: str
    start: str  # offset of an answer's first character
    end: str | None = None  # offset of its last one; None where only the text tells it
    numbered: bool = False
    impossible: str | None = None  # whether it has no answer; None where every question has one


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """An item of `qas`, unchecked."""

    record: Mapping[str, Any]
    names: Names
    context: str  # the passage it is about
    article: int  # number of the document it belongs to
    place: str  # path in the document, or in the line
    line: int  # that it begins in, counted from 1

    @property
    def name(self) -> str:
        """Path and id."""
        return f"{self.place} ({self.names.id} {json.dumps(self.record.get(self.names.id), ensure_ascii=False)})"


def question_of(entry: Entry, source: QaSource, path: str) -> tuple[Question, list[str]]:
    """The question, and what is wrong with answers that were dropped."""
    record, names = entry.record, entry.names
    name = str(_number(record, names.id)) if names.numbered else text_of(record, names.id)
    asked = text_of(record, names.question)
    answers, bad = _answers(entry, source) if source.labelled else (None, [])
    question = Question(
        id=name,
        question=asked,
        passage=entry.context,
        answers=answers,
        path=path,
        lines=(entry.line,),
        document=entry.article,
    )
    return question, bad


def _number(record: Any, name: str) -> int:
    value = field_of(record, name)
    if isinstance(value, bool) or not isinstance(value, int):
        raise DataError(f"{name} must be a whole number, got {quoted(json.dumps(value))}")
    return value


def _answers(entry: Entry, source: QaSource) -> tuple[tuple[Answer, ...], list[str]]:
    good: list[Answer] = []
    bad: list[str] = []
    for number, record in enumerate(_listed(entry, source)):
        try:
            good.append(_answer(record, entry.context, entry.names))
        except DataError as error:
            bad += [f"answers[{number}]: {problem}" for problem in error.problems]
    if bad and source.on_bad_answer == "error":
        raise DataError(bad)
    return tuple(good), bad


def _listed(entry: Entry, source: QaSource) -> list[Any]:
    """The answers; none where the question is marked as one that has none."""
    name = entry.names.impossible
    impossible = False if name is None else entry.record.get(name, False)
    if not isinstance(impossible, bool):
        raise DataError(f"{name} must be true or false, got {quoted(json.dumps(impossible))}")
    listed = list_of(entry.record, "answers")
    if impossible and not source.no_answer:
        raise DataError(f"{name} is true. Set no_answer: true for a task whose questions may have no answer")
    if impossible and listed:
        raise DataError(f"{name} is true, yet it has {len(listed)} answers. Correct one of them")
    if not impossible and not listed:
        marked = f"Questions without one are marked by {name}: true (SQuAD 2.0)" if name else "Give one, or remove it"
        raise DataError(f"it has no answer. {marked}")
    return listed


def _answer(record: Any, passage: str, names: Names) -> Answer:
    text = text_of(record, "text")
    start = _number(record, names.start)
    answer = Answer(text=text, start=start)
    found, shown, last = passage[max(start, 0) : answer.end], quoted(text), answer.end - 1
    if start < 0 or answer.end > len(passage):
        told = f"lies outside of the context, which has {len(passage)} characters"
        raise DataError(f"{shown} at {start} to {answer.end} {told}.{_elsewhere(answer, passage, names)}")
    if found != text:
        raise DataError(f"expected {shown} at {start}, found {quoted(found)}.{_elsewhere(answer, passage, names)}")
    if names.end is not None and _number(record, names.end) != last:
        told = f"must be {last}, where the last character of {shown} stands, got {record[names.end]}"
        raise DataError(f"{names.end} {told}. Correct it, or set on_bad_answer: drop")
    return answer


def _elsewhere(answer: Answer, passage: str, names: Names) -> str:
    found = [at for at in range(len(passage)) if passage.startswith(answer.text, at)]
    for unit, codec, width in (("bytes of UTF-8", "utf-8", 1), ("units of UTF-16", "utf-16-le", 2)):
        if any(len(passage[:at].encode(codec)) == answer.start * width for at in found):
            return f" The offset counts {unit}: count characters"
    if not found:
        return " The context does not hold this text. Correct the answer, or set on_bad_answer: drop"
    where = ", ".join(map(str, found[:3])) + (", ..." if len(found) > 3 else "")
    return f" The text stands at {where}. Correct {names.start}, or set on_bad_answer: drop"


def text_of(record: Any, name: str, place: str = "") -> str:
    """A text that is not blank, of what stands at `place` in the document; a DataError where there is none."""
    return require_text(field_of(record, name, place), _at(place) + name)


def list_of(record: Any, name: str, place: str = "") -> list[Any]:
    """A list; see `text_of`."""
    value = field_of(record, name, place)
    if not isinstance(value, list):
        raise DataError(f"{_at(place)}{name} must be a list, got {quoted(json.dumps(value))}")
    return value


def field_of(record: Any, name: str, place: str = "") -> Any:
    """A field of an object; see `text_of`."""
    if not isinstance(record, dict):
        raise DataError(f"{_at(place)}expected an object, got {quoted(json.dumps(record))}")
    try:
        return member(record, name)
    except DataError as error:
        raise placed(error, place) from None


def _at(place: str) -> str:
    return f"{place}: " if place else ""
