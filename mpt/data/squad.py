"""SQuAD documents, version 1.1 and 2.0: questions about passages, with answers at offsets in characters.

Everything that is wrong in a file is found before any of it is used, and raised at once with file, line, path in the
document and id. Offsets are verified and never moved; contexts stay as they are, outer white space included.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from mpt.data.example import Answer, Question
from mpt.data.json_walk import items, members, read_document, skip
from mpt.data.jsonlines import member, parse_json
from mpt.data.source import Problems, quoted, read_text
from mpt.data.writers import refuse_input, write_whole
from mpt.errors import DataError

DROPPED_SHOWN = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class SquadSource:
    """How a SQuAD document is read.

    Attributes:
        encoding: A codec of Python.
        no_answer: Whether questions may have no answer (`is_impossible`, SQuAD 2.0).
        on_bad_answer: What becomes of an answer that is not at its offset: "error", or "drop", which leaves out the
            answer, and the question when it has no other.
        labelled: Whether answers are read.
    """

    encoding: str = "utf-8"
    no_answer: bool = False
    on_bad_answer: Literal["error", "drop"] = "error"
    labelled: bool = True


def read_squad(path: Path, source: SquadSource) -> tuple[list[Question], list[str]]:
    """Read all questions of a document `{"data": [{"paragraphs": [{"context": ..., "qas": [...]}]}]}`, in its order.

    Returns:
        The questions, and notices about dropped answers.

    Raises:
        DataError: The file is missing, undecodable, malformed or not as declared; lists every problem with
            `file:line`, the first 20 in words.
    """
    problems = Problems(path)
    text = read_text(path, source.encoding)
    questions: list[Question] = []
    dropped: list[str] = []
    seen: dict[str, str] = {}
    for found in _entries(text, problems):
        try:
            question, bad = _question(found, source, str(path))
            if question.id in seen:
                raise DataError(f"the id is that of {seen[question.id]}, too. Ids name predictions: make them differ")
        except DataError as error:
            for problem in error.problems:
                problems.add(found.line, f"{found.name}: {problem}")
            continue
        seen[question.id] = found.place
        dropped += [f"{path}:{found.line}: {found.name}: {problem}" for problem in bad]
        if not bad or question.answers:
            questions.append(question)
    if not questions and not problems:
        problems.add(0, "no question in this file")
    problems.raise_any()
    notice = f"answers dropped because they are not at their offset: {len(dropped):,}"
    return questions, [f"{notice} (first: {'; '.join(dropped[:DROPPED_SHOWN])})"] if dropped else []


def write_squad(path_in: Path, questions: list[Question], answers: list[str], path_out: Path) -> None:
    """Write `{id: answer}`, as the official evaluation scripts read predictions.

    Raises:
        DataError: The output is the input, or cannot be written.
    """
    refuse_input(path_in, path_out)
    found = {question.id: answer for question, answer in zip(questions, answers, strict=True)}
    write_whole(path_out, json.dumps(found, ensure_ascii=False, indent=1) + "\n", "utf-8")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Entry:
    """An item of `qas`, with its place and its paragraph's context."""

    record: Mapping[str, Any]
    context: str
    article: int
    place: str
    line: int

    @property
    def name(self) -> str:
        """Path in the document and id."""
        return f"{self.place} (id {json.dumps(self.record.get('id'), ensure_ascii=False)})"


def _entries(text: str, problems: Problems) -> Iterator[_Entry]:
    """Walk articles, paragraphs and questions."""
    document = read_document(text, problems)
    if not document:
        return
    if not isinstance(document.get("data"), list):
        problems.add(1, 'expected a list "data" of articles, as documents of SQuAD have it')
        return
    lines = _Lines(text)
    for number, (start, end) in enumerate(items(text, dict(members(text, skip(text, 0)))["data"])):
        place = f"data[{number}]"
        try:
            article = parse_json(text[start:end])
            paragraphs = _list(article, "paragraphs", place)
            spans = items(text, dict(members(text, start))["paragraphs"]) if paragraphs else ()
            for inner, (at, _) in enumerate(spans):
                yield from _paragraph(text, at, paragraphs[inner], number, f"{place}.paragraphs[{inner}]", lines)
        except DataError as error:
            for problem in error.problems:
                problems.add(lines.at(start), problem)


def _paragraph(text: str, start: int, paragraph: Any, article: int, place: str, lines: "_Lines") -> Iterator[_Entry]:
    entries = _list(paragraph, "qas", place)
    context = _text(paragraph, "context", place)
    spans = items(text, dict(members(text, start))["qas"]) if entries else ()
    for number, (at, _) in enumerate(spans):
        name = f"{place}.qas[{number}]"
        if not isinstance(entries[number], dict):
            raise DataError(f"{name}: expected an object, got {quoted(json.dumps(entries[number]))}")
        yield _Entry(record=entries[number], context=context, article=article, place=name, line=lines.at(at))


class _Lines:
    """Line numbers of offsets that mostly ascend."""

    def __init__(self, text: str) -> None:
        self._text, self._line, self._counted = text, 1, 0

    def at(self, offset: int) -> int:
        """Line of an offset, counted from 1."""
        if offset < self._counted:
            self._line, self._counted = 1, 0
        self._line += self._text.count("\n", self._counted, offset)
        self._counted = offset
        return self._line


def _question(entry: _Entry, source: SquadSource, path: str) -> tuple[Question, list[str]]:
    """The question, and what is wrong with answers that were dropped."""
    name = _text(entry.record, "id")
    asked = _text(entry.record, "question")
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


def _answers(entry: _Entry, source: SquadSource) -> tuple[tuple[Answer, ...], list[str]]:
    impossible = entry.record.get("is_impossible", False)
    if not isinstance(impossible, bool):
        raise DataError(f"is_impossible must be true or false, got {quoted(json.dumps(impossible))}")
    listed = _list(entry.record, "answers", "")
    if impossible and not source.no_answer:
        raise DataError("is_impossible is true. Set no_answer: true for a task whose questions may have no answer")
    if impossible and listed:
        raise DataError(f"is_impossible is true, yet it has {len(listed)} answers. Correct one of them")
    if not impossible and not listed:
        raise DataError("it has no answer. Questions without one are marked by is_impossible: true (SQuAD 2.0)")
    good: list[Answer] = []
    bad: list[str] = []
    for number, record in enumerate(listed):
        try:
            good.append(_answer(record, entry.context))
        except DataError as error:
            bad += [f"answers[{number}]: {problem}" for problem in error.problems]
    if bad and source.on_bad_answer == "error":
        raise DataError(bad)
    return tuple(good), bad


def _answer(record: Any, passage: str) -> Answer:
    text = _text(record, "text")
    start = member(record, "answer_start")
    if isinstance(start, bool) or not isinstance(start, int):
        raise DataError(f"answer_start must be a whole number, got {quoted(json.dumps(start))}")
    answer = Answer(text=text, start=start)
    if start < 0 or answer.end > len(passage):
        raise DataError(
            f"{quoted(text)} at {start} to {answer.end} lies outside of the context, which has {len(passage)} "
            f"characters.{_elsewhere(text, start, passage)}"
        )
    if passage[start : answer.end] != text:
        raise DataError(
            f"expected {quoted(text)} at {start}, found {quoted(passage[start : answer.end])}."
            f"{_elsewhere(text, start, passage)}"
        )
    return answer


def _elsewhere(text: str, start: int, passage: str) -> str:
    """What a wrong offset most likely is."""
    found = [at for at in range(len(passage)) if passage.startswith(text, at)]
    for unit, codec, width in (("bytes of UTF-8", "utf-8", 1), ("units of UTF-16", "utf-16-le", 2)):
        if any(len(passage[:at].encode(codec)) == start * width for at in found):
            return f" The offset counts {unit}: count characters"
    if not found:
        return " The context does not hold this text. Correct the answer, or set on_bad_answer: drop"
    where = ", ".join(map(str, found[:3])) + (", ..." if len(found) > 3 else "")
    return f" The text stands at {where}. Correct answer_start, or set on_bad_answer: drop"


def _text(record: Any, name: str, place: str = "") -> str:
    value = _member(record, name, place)
    before = f"{place}: " if place else ""
    if not isinstance(value, str):
        raise DataError(f"{before}{name} must be a text, got {quoted(json.dumps(value))}")
    if not value.strip():
        raise DataError(f"{before}{name} is empty")
    if any("\ud800" <= char <= "\udfff" for char in value):
        raise DataError(f"{before}{name} holds half of a surrogate pair, which is no character: {quoted(value)}")
    return value


def _list(record: Any, name: str, place: str) -> list[Any]:
    value = _member(record, name, place)
    if not isinstance(value, list):
        raise DataError(f"{f'{place}: ' if place else ''}{name} must be a list, got {quoted(json.dumps(value))}")
    return value


def _member(record: Any, name: str, place: str) -> Any:
    before = f"{place}: " if place else ""
    if not isinstance(record, dict):
        raise DataError(f"{before}expected an object, got {quoted(json.dumps(record))}")
    try:
        return member(record, name)
    except DataError as error:
        raise DataError([f"{before}{problem}" for problem in error.problems]) from None
