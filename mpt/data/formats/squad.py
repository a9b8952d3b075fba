"""Files of questions about passages, with answers at offsets in characters: SQuAD's documents and ReCoRD's lines.

SQuAD 1.1 and 2.0 have articles of paragraphs, each a passage with questions about it. ReCoRD, as SuperGLUE has it, has
a passage a line, and questions with a gap, `@placeholder`, that a name of it fills. Everything that is wrong in a file
is found before any of it is used, and raised at once with file, line, path in the document and id.

Sources: Rajpurkar et al. 2016 and 2018, arXiv 1606.05250 and 1806.03822; Zhang et al. 2018, arXiv 1810.12885.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mpt.base.errors import DataError
from mpt.data.example import Question
from mpt.data.formats.json_walk import items, line_finder, members, read_document, skip
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
    for found in _ENTRIES[source.format](text, problems):
        with problems.noting(found.line, found.name):
            question, bad = question_of(found, source, str(path))
            if question.id in seen:
                told = f"the {found.names.id} is that of {seen[question.id]}, too"
                raise DataError(f"{told}. Ids name predictions: make them differ")
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
    if source.format == "squad":
        write_text(path_out, json.dumps(found, ensure_ascii=False, indent=1) + "\n")
    else:
        write_text(path_out, json_lines({"idx": int(name), "label": answer} for name, answer in found.items()))


def squad_entries(text: str, problems: Problems) -> Iterator[Entry]:
    """Yield all questions of `{"data": [{"paragraphs": [{"context": ..., "qas": [...]}]}]}`; articles are documents."""
    document = read_document(text, problems)
    if not isinstance(document.get("data"), list):
        if document:
            problems.add(1, 'expected a list "data" of articles, as documents of SQuAD have it')
        return
    line_at = line_finder(text)
    for number, (start, end) in enumerate(items(text, dict(members(text, skip(text, 0)))["data"])):
        place = f"data[{number}]"
        with problems.noting(line_at(start)):
            paragraphs = list_of(parse_json(text[start:end]), "paragraphs", place)
            for inner, at in enumerate(_starts(text, start, "paragraphs", paragraphs)):
                name = f"{place}.paragraphs[{inner}]"
                entries = list_of(paragraphs[inner], "qas", name)
                context = text_of(paragraphs[inner], "context", name)
                lines = [line_at(start) for start in _starts(text, at, "qas", entries)]
                yield from _entries(entries, lines, context, number, name)


def _starts(text: str, start: int, key: str, listed: Sequence[Any]) -> list[int]:
    """Where the items of a list begin that a key of the object at `start` holds."""
    return [at for at, _ in items(text, dict(members(text, start))[key])] if listed else []


def _entries(asked: Sequence[Any], lines: Sequence[int], context: str, article: int, place: str) -> Iterator[Entry]:
    for number, (record, line) in enumerate(zip(asked, lines, strict=True)):
        name = f"{place}.qas[{number}]"
        if not isinstance(record, dict):
            raise DataError(f"{name}: expected an object, got {quoted(json.dumps(record))}")
        yield Entry(record=record, names=_SQUAD, context=context, article=article, place=name, line=line)


def record_entries(text: str, problems: Problems) -> Iterator[Entry]:
    """Yield all questions of lines `{"passage": {"text": ...}, "qas": [...]}`; a line is a document."""
    for line, record in read_objects(text, problems):
        with problems.noting(line):
            passage = text_of(field_of(record, "passage"), "text", "passage")
            for number, entry in enumerate(list_of(record, "qas")):
                place = f"qas[{number}]"
                if isinstance(entry, dict):
                    yield Entry(record=entry, names=_RECORD, context=passage, article=line, place=place, line=line)
                else:
                    problems.add(line, f"{place}: expected an object, got {quoted(json.dumps(entry))}")


_ENTRIES: Mapping[QaFormat, Callable[[str, Problems], Iterator[Entry]]] = {
    "squad": squad_entries,
    "record": record_entries,
}
