"""Files of questions about passages, with answers at offsets in characters.

Everything that is wrong in a file is found before any of it is used, and raised at once with file, line, path in the
document and id. Offsets are verified and never moved; passages stay as they are, outer white space included.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from mpt.base.errors import DataError
from mpt.data.example import Answer, Question
from mpt.data.formats.qa_entry import Entry, Names, field_of, list_of, text_of
from mpt.data.formats.record import record_entries, record_predictions
from mpt.data.formats.source import Problems, quoted, read_text
from mpt.data.formats.squad import squad_entries
from mpt.data.formats.writers import refuse_input, write_whole

QaFormat = Literal["squad", "record"]
DROPPED_SHOWN = 3
_ENTRIES: Mapping[QaFormat, Callable[[str, Problems], Iterator[Entry]]] = {
    "squad": squad_entries,
    "record": record_entries,
}


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


def read_questions(path: Path, source: QaSource) -> tuple[list[Question], list[str]]:
    """Read all questions of a file, in its order.

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
    for found in _ENTRIES[source.format](text, problems):
        try:
            question, bad = _question(found, source, str(path))
            if question.id in seen:
                raise DataError(
                    f"the {found.names.id} is that of {seen[question.id]}, too. Ids name predictions: make them differ"
                )
        except DataError as error:
            for problem in error.problems:
                problems.add(found.line, f"{found.name}: {problem}")
            continue
        seen[question.id] = f"{found.place} in line {found.line}"
        dropped += [f"{path}:{found.line}: {found.name}: {problem}" for problem in bad]
        if not bad or question.answers:
            questions.append(question)
    if not questions and not problems:
        problems.add(0, "no question in this file")
    problems.raise_any()
    notice = f"answers dropped because they are not at their offset: {len(dropped):,}"
    return questions, [f"{notice} (first: {'; '.join(dropped[:DROPPED_SHOWN])})"] if dropped else []


def write_questions(
    path_in: Path, source: QaSource, questions: Sequence[Question], answers: Sequence[str], path_out: Path
) -> None:
    """Write answers as the official scripts read them: `{id: answer}`, or of ReCoRD a line for each question.

    Raises:
        DataError: The output is the input, or cannot be written.
    """
    refuse_input(path_in, path_out)
    found = {question.id: answer for question, answer in zip(questions, answers, strict=True)}
    if source.format == "record":
        write_whole(path_out, record_predictions(found), "utf-8")
    else:
        write_whole(path_out, json.dumps(found, ensure_ascii=False, indent=1) + "\n", "utf-8")


def _question(entry: Entry, source: QaSource, path: str) -> tuple[Question, list[str]]:
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
