"""Files of questions about passages, with answers at offsets in characters: SQuAD's documents and ReCoRD's lines.

SQuAD 1.1 and 2.0 have articles of paragraphs, each a passage with questions about it. ReCoRD, as SuperGLUE has it, has
a passage a line, and questions with a gap, `@placeholder`, that a name of it fills. Everything that is wrong in a file
is found before any of it is used, and raised at once with file, line, path in the document and id.

Sources: Rajpurkar et al. 2016 and 2018, arXiv 1606.05250 and 1806.03822; Zhang et al. 2018, arXiv 1810.12885.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mpt.base.errors import DataError
from mpt.data.example import Question
from mpt.data.formats.json_walk import items, members, read_document, skip
from mpt.data.formats.jsonlines import json_lines, parse_json, read_objects
from mpt.data.formats.questions import Entry, Names, QaFormat, QaSource, field_of, list_of, question_of, text_of
from mpt.data.formats.source import Problems, quoted, read_text, refuse_input, write_text

DROPPED_SHOWN = 3
_SQUAD = Names(id="id", question="question", start="answer_start", impossible="is_impossible")
_RECORD = Names(id="idx", question="query", start="start", end="end", numbered=True)


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
    for found in _FORMATS[source.format].entries(text, problems):
        try:
            question, bad = question_of(found, source, str(path))
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
    write_text(path_out, _FORMATS[source.format].predictions(found))


def squad_entries(text: str, problems: Problems) -> Iterator[Entry]:
    """Yield all questions of `{"data": [{"paragraphs": [{"context": ..., "qas": [...]}]}]}`; articles are documents."""
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
            paragraphs = list_of(article, "paragraphs", place)
            spans = items(text, dict(members(text, start))["paragraphs"]) if paragraphs else ()
            for inner, (at, _) in enumerate(spans):
                yield from _paragraph(text, at, paragraphs[inner], number, f"{place}.paragraphs[{inner}]", lines)
        except DataError as error:
            for problem in error.problems:
                problems.add(lines.at(start), problem)


def _paragraph(text: str, start: int, paragraph: Any, article: int, place: str, lines: "_Lines") -> Iterator[Entry]:
    entries = list_of(paragraph, "qas", place)
    context = text_of(paragraph, "context", place)
    spans = items(text, dict(members(text, start))["qas"]) if entries else ()
    for number, (at, _) in enumerate(spans):
        name = f"{place}.qas[{number}]"
        if not isinstance(entries[number], dict):
            raise DataError(f"{name}: expected an object, got {quoted(json.dumps(entries[number]))}")
        yield Entry(
            record=entries[number], names=_SQUAD, context=context, article=article, place=name, line=lines.at(at)
        )


def record_entries(text: str, problems: Problems) -> Iterator[Entry]:
    """Yield all questions of lines `{"passage": {"text": ...}, "qas": [...]}`; a line is a document."""
    for line, record in read_objects(text, problems):
        try:
            passage = text_of(field_of(record, "passage"), "text", "passage")
            asked = list_of(record, "qas")
        except DataError as error:
            for problem in error.problems:
                problems.add(line, problem)
            continue
        for number, entry in enumerate(asked):
            place = f"qas[{number}]"
            if isinstance(entry, dict):
                yield Entry(record=entry, names=_RECORD, context=passage, article=line, place=place, line=line)
            else:
                problems.add(line, f"{place}: expected an object, got {quoted(json.dumps(entry))}")


def _squad_predictions(answers: Mapping[str, str]) -> str:
    return json.dumps(answers, ensure_ascii=False, indent=1) + "\n"


def _record_predictions(answers: Mapping[str, str]) -> str:
    """Lines `{"idx": ..., "label": ...}`, as SuperGLUE takes them."""
    return json_lines({"idx": int(name), "label": answer} for name, answer in answers.items())


@dataclass(frozen=True, slots=True, kw_only=True)
class _Format:
    """What reads the questions of a file, and what writes answers by id."""

    entries: Callable[[str, Problems], Iterator[Entry]]
    predictions: Callable[[Mapping[str, str]], str]


_FORMATS: Mapping[QaFormat, _Format] = {
    "squad": _Format(entries=squad_entries, predictions=_squad_predictions),
    "record": _Format(entries=record_entries, predictions=_record_predictions),
}


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
