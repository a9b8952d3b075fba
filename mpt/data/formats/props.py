"""Predicates and their arguments in columns: one word a line, and a column of brackets for each predicate.

The layout of PropBank's skeletons and of the CoNLL shared tasks of 2005 and 2012. A column of the line says which words
are predicates ("-" elsewhere); behind it come as many columns of arguments as the sentence has predicates, in their
order: `(ARG0*` opens an argument, `*)` closes it, `*` does neither.
"""

import re
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import groupby
from pathlib import Path

from mpt.base.errors import DataError
from mpt.data.example import Sentence
from mpt.data.formats.columns import line_kind, separator_of, split_fields, word_column_of
from mpt.data.formats.source import Edits, Problems, RawSentence, SourceFormat, Tags, quoted, split_lines
from mpt.data.tags import Span, bio_from_spans, spans

NO_PREDICATE = "-"
PREDICATE_ROLES = ("V", "C-V")
"""Roles of the predicate itself; C-V continues it, as the `up` of "hung him up"."""

_CELL = re.compile(r"(?:\((?P<role>[^()*\s]+))?\*(?P<end>\))?")

_Row = tuple[int, Sequence[str]]
"""Line number and fields."""


def read_props(text: str, source: SourceFormat, problems: Problems) -> Iterator[RawSentence]:
    """Yield a sentence for each predicate, and once a sentence that has none, its words all O.

    Sentences that break the layout go to `problems` and are left out.
    """
    documents = 0 if source.docstart is not None else None
    rows: list[_Row] = []
    for number, line in enumerate([*split_lines(text), ""], 1):
        kind = line_kind(line, source)
        if kind == "word":
            rows.append((number, split_fields(line, source.delimiter)))
        elif kind in ("blank", "docstart"):
            if rows:
                yield from _propositions(rows, source, documents, problems)
                rows = []
            documents = documents + 1 if documents is not None and kind == "docstart" else documents


def check_predicates(raw: Sequence[RawSentence], problems: Problems) -> None:
    """Hold tags to their predicate: one V, and the predicate inside it or inside what continues it."""
    for sentence in raw:
        if sentence.tags is None:
            continue
        found = spans(sentence.tags)
        if sentence.predicate is None:
            if found:
                line = sentence.lines[found[0].start]
                problems.add(line, f'"{found[0].type}" in a sentence without a predicate; its words must be O')
            continue
        line, word = sentence.lines[sentence.predicate], quoted(sentence.words[sentence.predicate])
        verbs = [span for span in found if span.type in PREDICATE_ROLES]
        count = sum(span.type == "V" for span in verbs)
        if count != 1:
            problems.add(line, f"the predicate {word} has {count} spans V among its arguments; it needs one")
        elif not any(span.start <= sentence.predicate < span.end for span in verbs):
            at = quoted(" ".join(sentence.words[verbs[0].start : verbs[0].end]))
            problems.add(line, f"the predicate {word} is not inside its V, which is {at}")


def props_edits(path: Path, source: SourceFormat, sentences: Sequence[Sentence], tags: Tags) -> Edits:
    """What puts its arguments into each line that holds a word.

    Raises:
        DataError: A role cannot stand in brackets.
    """
    assert source.argument_column is not None, "the layout says where arguments stand"
    roles = {span.type for predicted in tags for span in spans(predicted)}
    wrong = sorted(role for role in roles if not _CELL.fullmatch(f"({role}*)"))
    if wrong:
        raise DataError(f"{path}: label {quoted(wrong[0])} cannot stand in brackets: it holds ( ) * or white space")
    edits: Edits = {}
    for lines, group in groupby(zip(sentences, tags, strict=True), key=lambda pair: pair[0].lines):
        columns = [_brackets(predicted) for sentence, predicted in group if sentence.predicate is not None]
        for index, line in enumerate(lines):
            edits[line] = partial(_spliced, source=source, cells=[column[index] for column in columns])
    return edits


def _propositions(
    rows: Sequence[_Row], source: SourceFormat, document: int | None, problems: Problems
) -> Iterator[RawSentence]:
    """Yield the sentence of some lines once for each predicate."""
    found = _misfits(rows, source)
    predicates: list[int] = []
    columns: list[tuple[str, ...] | None] = [None]
    if not found:
        predicates = [i for i, (_, fields) in enumerate(rows) if fields[source.predicate_column] != NO_PREDICATE]
        columns, found = _arguments(rows, source, len(predicates))
    if not found:
        words, lines = tuple(fields[word_column_of(source)] for _, fields in rows), tuple(line for line, _ in rows)
        for predicate, tags in zip(predicates or [None], columns, strict=True):
            yield RawSentence(words=words, tags=tags, lines=lines, document=document, predicate=predicate)
    for line, problem in found:
        problems.add(line, problem)


def _misfits(rows: Sequence[_Row], source: SourceFormat) -> list[tuple[int, str]]:
    needed = max(word_column_of(source), source.predicate_column, (source.argument_column or 0) - 1) + 1
    needed += source.trailing_columns if source.argument_column is not None else 0
    first, width = rows[0][0], len(rows[0][1])
    found: list[tuple[int, str]] = []
    for line, fields in rows:
        if len(fields) < needed:
            found.append((line, f"line has {len(fields)} columns, columns asks for at least {needed}"))
        elif len(fields) != width:
            found.append((line, f"line has {len(fields)} columns, line {first} of the same sentence has {width}"))
        elif not fields[word_column_of(source)].strip():
            found.append((line, "the word is empty"))
    return found


def _arguments(
    rows: Sequence[_Row], source: SourceFormat, predicates: int
) -> tuple[list[tuple[str, ...] | None], list[tuple[int, str]]]:
    """BIO2 tags of every predicate (one row of O without any, None where they are not read), and what is wrong."""
    first = source.argument_column
    if first is None:
        return [None] * max(predicates, 1), []
    line, fields = rows[0]
    count = len(fields) - first - source.trailing_columns
    if count != predicates:
        told = f"{count} columns of arguments (from index {first}) for {predicates} predicates"
        return [], [(line, f'{told} (words with other than "{NO_PREDICATE}" in column {source.predicate_column})')]
    columns = [_column(rows, first + number) for number in range(count)]
    tags: list[tuple[str, ...] | None] = [tags for tags, _ in columns] or [("O",) * len(rows)]
    return tags, [problem for _, found in columns for problem in found]


def _column(rows: Sequence[_Row], column: int) -> tuple[tuple[str, ...], list[tuple[int, str]]]:
    """BIO2 tags of a column of brackets, and what is wrong with it."""
    found: list[tuple[int, str]] = []
    roles: list[Span] = []
    opened: tuple[int, str] | None = None
    for index, (line, fields) in enumerate(rows):
        cell = fields[column]
        if cell == "*":
            continue
        match = _CELL.fullmatch(cell)
        if match is None:
            found.append((line, f"column {column}: {quoted(cell)} is none of *, (ROLE*, *) and (ROLE*)"))
            continue
        if match["role"] and opened:
            before = f"({opened[1]} of line {rows[opened[0]][0]} is open"
            found.append((line, f"column {column}: {quoted(cell)}, yet {before}; arguments neither overlap nor nest"))
        elif match["role"]:
            opened = index, match["role"]
        if match["end"] and opened is None:
            found.append((line, f"column {column}: {quoted(cell)} closes what was not opened"))
        elif match["end"] and opened is not None:
            roles.append(Span(start=opened[0], end=index + 1, type=opened[1]))
            opened = None
    if opened is not None:
        found.append((rows[opened[0]][0], f"column {column}: ({opened[1]} is not closed in its sentence"))
    return bio_from_spans(roles, len(rows)), found


def _brackets(tags: Sequence[str]) -> list[str]:
    cells = ["*"] * len(tags)
    for span in spans(tags):
        cells[span.start] = f"({span.type}*"
        cells[span.end - 1] += ")"
    return cells


def _spliced(line: str, source: SourceFormat, cells: Sequence[str]) -> str:
    """Put cells in place of a line's arguments; every character before and behind them stays."""
    first, trailing = source.argument_column, source.trailing_columns
    assert first is not None
    separator = separator_of(line, source.delimiter)
    if source.delimiter == "whitespace":
        bounds = [match.span() for match in re.finditer(r"[^ \t]+", line)]
        behind = [line[bounds[-trailing][0] :]] if trailing else []
        return separator.join([line[: bounds[first - 1][1]], *cells, *behind])
    fields = line.split(separator)
    fields[first : len(fields) - trailing] = cells
    return separator.join(fields)
