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
    """How a file of questions is read.

    Attributes:
        format: squad (a document of SQuAD 1.1 or 2.0) or record (ReCoRD, a passage a line).
        encoding: A codec of Python.
        no_answer: Whether questions may have no answer (`is_impossible`, SQuAD 2.0).
        on_bad_answer: What becomes of an answer that is not at its offset: "error", or "drop", which leaves out the
            answer, and the question when it has no other.
        labelled: Whether answers are read.
    """

    format: QaFormat = "squad"
    encoding: str = "utf-8"
    no_answer: bool = False
    on_bad_answer: Literal["error", "drop"] = "error"
    labelled: bool = True

    def without_gold(self) -> "QaSource":
        """Return the layout of the same file, its answers left unread, for prediction."""
        return replace(self, labelled=False)


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


def question_of(entry: Entry, source: QaSource, path: str) -> tuple[Question, list[str]]:
    """The question, and what is wrong with answers that were dropped."""
    name = _id(entry)
    asked = text_of(entry.record, entry.names.question)
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


def _id(entry: Entry) -> str:
    if entry.names.numbered:
        return str(_number(entry.record, entry.names.id))
    return text_of(entry.record, entry.names.id)


def _number(record: Any, name: str) -> int:
    value = field_of(record, name)
    if isinstance(value, bool) or not isinstance(value, int):
        raise DataError(f"{name} must be a whole number, got {quoted(json.dumps(value))}")
    return value


def _answers(entry: Entry, source: QaSource) -> tuple[tuple[Answer, ...], list[str]]:
    listed = _listed(entry, source)
    good: list[Answer] = []
    bad: list[str] = []
    for number, record in enumerate(listed):
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
    if start < 0 or answer.end > len(passage):
        raise DataError(
            f"{quoted(text)} at {start} to {answer.end} lies outside of the context, which has {len(passage)} "
            f"characters.{_elsewhere(answer, passage, names)}"
        )
    if passage[start : answer.end] != text:
        raise DataError(
            f"expected {quoted(text)} at {start}, found {quoted(passage[start : answer.end])}."
            f"{_elsewhere(answer, passage, names)}"
        )
    last = answer.end - 1
    if names.end is not None and _number(record, names.end) != last:
        raise DataError(
            f"{names.end} must be {last}, where the last character of {quoted(text)} stands, got {record[names.end]}. "
            "Correct it, or set on_bad_answer: drop"
        )
    return answer


def _elsewhere(answer: Answer, passage: str, names: Names) -> str:
    """What a wrong offset most likely is."""
    found = [at for at in range(len(passage)) if passage.startswith(answer.text, at)]
    for unit, codec, width in (("bytes of UTF-8", "utf-8", 1), ("units of UTF-16", "utf-16-le", 2)):
        if any(len(passage[:at].encode(codec)) == answer.start * width for at in found):
            return f" The offset counts {unit}: count characters"
    if not found:
        return " The context does not hold this text. Correct the answer, or set on_bad_answer: drop"
    where = ", ".join(map(str, found[:3])) + (", ..." if len(found) > 3 else "")
    return f" The text stands at {where}. Correct {names.start}, or set on_bad_answer: drop"


def text_of(record: Any, name: str, place: str = "") -> str:
    """A text that is not blank; of what stands at `place` in the document.

    Raises:
        DataError: There is none.
    """
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
