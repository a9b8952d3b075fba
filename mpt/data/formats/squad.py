"""SQuAD documents, version 1.1 and 2.0: articles of paragraphs, each a passage with questions about it."""

import json
from collections.abc import Iterator
from typing import Any

from mpt.base.errors import DataError
from mpt.data.formats.json_walk import items, members, read_document, skip
from mpt.data.formats.jsonlines import parse_json
from mpt.data.formats.qa_entry import Entry, Names, list_of, text_of
from mpt.data.formats.source import Problems, quoted

NAMES = Names(id="id", question="question", start="answer_start", impossible="is_impossible")


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
            record=entries[number], names=NAMES, context=context, article=article, place=name, line=lines.at(at)
        )


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
