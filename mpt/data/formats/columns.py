"""Column files: CoNLL (one word a line, blank line between sentences) and CoNLL-U.

A file comes back byte for byte with its tag column replaced, or with one appended when it had none.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Literal

from mpt.base.errors import DataError, did_you_mean
from mpt.data.example import Sentence
from mpt.data.formats.source import Edits, Problems, RawSentence, SourceFormat, Tags, quoted, read_text, split_lines
from mpt.data.tags import from_bio, split_tag, undeclared_tags

CONLLU_COLUMNS = ("id", "form", "lemma", "upos", "xpos", "feats", "head", "deprel", "deps", "misc")
"""Source: https://universaldependencies.org/format.html"""

_BLANK = " \t"
_FIELD = re.compile(r"[^ \t]+")
_SPAN_TAG = re.compile(r"O|[BIESLU]-.+")

LineKind = Literal["blank", "comment", "docstart", "skipped", "word"]


def read_columns(text: str, source: SourceFormat, problems: Problems) -> Iterator[RawSentence]:
    """Yield the sentences of a column file; lines that break the layout go to `problems`, their sentence is left out.

    The lines of one sentence have the same number of columns. Columns to the right may differ in number between
    sentences (CoNLL-2012 has one for each predicate), unless a column is counted from the end: then the whole file has
    one number.
    """
    layout = _Layout(source)
    pending = _Pending()
    documents = 0 if source.docstart is not None else None
    for number, line in enumerate(split_lines(text), 1):
        kind = line_kind(line, source)
        if kind == "word":
            layout.read_word(number, line, pending, problems)
        elif kind == "comment":
            layout.check_comment(number, line, problems)
        elif kind != "skipped":
            yield from pending.close(documents)
            layout.end_sentence()
            documents = documents + 1 if documents is not None and kind == "docstart" else documents
    yield from pending.close(documents)


def line_kind(line: str, source: SourceFormat) -> LineKind:
    """What a line of a column file is.

    In CoNLL-U a comment begins with `#`, which no id does, and only rows with a plain integer id are words: ranges
    (`1-2`, multiword tokens) and empty nodes (`8.1`) are skipped.
    """
    if not line.strip(_BLANK):
        return "blank"
    if source.format == "conllu":
        if line.startswith("#"):
            return "comment"
        return "skipped" if re.match(r"[0-9]+[-.][0-9]+\t", line) else "word"
    if source.docstart is not None and re.match(re.escape(source.docstart) + r"(?:[ \t]|$)", line):
        return "docstart"
    if source.comment_prefix is not None and line.startswith(source.comment_prefix):
        return "comment"
    return "word"


def split_fields(line: str, delimiter: str) -> list[str]:
    """The columns of a line."""
    return _FIELD.findall(line) if delimiter == "whitespace" else line.split(separator_of(line, delimiter))


def separator_of(line: str, delimiter: str) -> str:
    """What stands between columns that are added to a line."""
    if delimiter == "whitespace":
        return "\t" if "\t" in line else " "
    return {"tab": "\t", "space": " "}.get(delimiter, delimiter)


def replace_field(line: str, delimiter: str, column: int | None, value: str) -> str:
    """Put a value into a column of a line, or behind the last one (None), and leave every other character alone."""
    separator = separator_of(line, delimiter)
    if column is None:
        return line + separator + value
    if delimiter == "whitespace":
        start, end = [match.span() for match in _FIELD.finditer(line)][column]
        return line[:start] + value + line[end:]
    fields = line.split(separator)
    fields[column] = value
    return separator.join(fields)


def _delimiter_of(source: SourceFormat) -> str:
    return "tab" if source.format == "conllu" else source.delimiter


def _tag_column_of(source: SourceFormat) -> int | None:
    """Index of the tag column, a CoNLL-U name resolved."""
    column = source.tag_column
    if column is None or isinstance(column, int):
        return column
    if source.format != "conllu":
        raise DataError(f'columns.tag "{column}" is a name; only conllu has named columns. Write its index, from 0')
    if column.lower() not in CONLLU_COLUMNS:
        known, near = ", ".join(CONLLU_COLUMNS), did_you_mean(column, CONLLU_COLUMNS)
        raise DataError(f'columns.tag "{column}" is not a column of CoNLL-U ({known}).{near}')
    return CONLLU_COLUMNS.index(column.lower())


def word_column_of(source: SourceFormat) -> int:
    """Index of the word column; a DataError where CoNLL-U is asked for another than FORM, or others for a name."""
    column = source.word_column
    if source.format == "conllu":
        if column not in (0, 1, "form", "FORM"):
            raise DataError(f'columns.word "{column}": the word of a CoNLL-U row is its FORM. Leave columns.word out')
        return 1
    if isinstance(column, str):
        raise DataError(f'columns.word "{column}" is a name; only conllu has named columns. Write its index, from 0')
    return column


def column_edits(path: Path, source: SourceFormat, sentences: Sequence[Sentence], tags: Tags) -> Edits:
    """What puts its tag into each line that holds a word.

    Raises:
        DataError: A tag cannot stand in a column, or the file would get a second tag column.
    """
    column, delimiter = _tag_column_of(source), _delimiter_of(source)
    if column is None and source.format == "conllu":
        raise DataError(f"{path}: CoNLL-U has ten columns. Name the one to write, such as columns.tag: upos")
    values: dict[int, str] = {}
    for sentence, predicted in zip(sentences, tags, strict=True):
        values.update(zip(sentence.lines, from_bio(predicted, source.scheme), strict=True))
    lines = split_lines(read_text(path, source.encoding))
    rows = {number: split_fields(lines[number - 1], delimiter) for number in values}
    for number, row in rows.items():
        if column is not None and not -len(row) <= column < len(row):
            raise DataError(f"{path}:{number}: no column {column} to replace. Leave columns.tag out to append one")
    breaks = re.compile(r"\s" if delimiter in ("tab", "space", "whitespace") else r"\s|" + re.escape(delimiter))
    for value in sorted(set(values.values())):
        if not value or breaks.search(value):
            told = f"it is empty or holds white space or {delimiter}"
            raise DataError(f"tag {quoted(value)} cannot stand in a column: {told}")
    if column is None:
        _check_no_tags(path, source, list(rows.values()), set(values.values()))
    return {number: partial(replace_field, delimiter=delimiter, column=column, value=values[number]) for number in rows}


def _check_no_tags(path: Path, source: SourceFormat, rows: Sequence[Sequence[str]], predicted: set[str]) -> None:
    """Refuse to append predictions where a column holds tags already: two tag columns without names get mixed up."""
    width, word = min(map(len, rows)), word_column_of(source)
    for column in set(range(width)) - {word % width}:
        values = [row[column] for row in rows]
        if _holds_tags(values, predicted, raw=source.scheme == "raw"):
            told = f"column {column} holds tags already, such as {quoted(max(values, key=len))}"
            raise DataError(f"{path}: {told}. Set columns.tag: {column} to replace them, or remove the column")


def _holds_tags(values: Sequence[str], predicted: set[str], *, raw: bool) -> bool:
    """Whether a column holds tags of the predicted kind; chunk tags beside entities, for example, are not."""
    if raw:
        return sum(value in predicted for value in values) >= len(values) / 2
    if not all(map(_SPAN_TAG.fullmatch, values)):
        return False
    types, known = ({split_tag(tag)[1] for tag in tags} - {""} for tags in (set(values), predicted))
    return not (types and known and types.isdisjoint(known))


@dataclass(slots=True)
class _Pending:
    """The sentence that is being read."""

    words: list[str] = field(default_factory=list)
    tags: list[str] = field(default_factory=list)
    lines: list[int] = field(default_factory=list)
    broken: bool = False

    def close(self, document: int | None) -> Iterator[RawSentence]:
        """Yield the sentence, if there is one that can be used, and begin anew."""
        if self.words and not self.broken:
            tags = tuple(self.tags) if self.tags else None
            yield RawSentence(words=tuple(self.words), tags=tags, lines=tuple(self.lines), document=document)
        self.words, self.tags, self.lines, self.broken = [], [], [], False


class _Layout:
    """Holds the word lines of one file to its declared columns."""

    def __init__(self, source: SourceFormat) -> None:
        self.source = source
        self.delimiter = _delimiter_of(source)
        self.word, self.tag = word_column_of(source), _tag_column_of(source)
        self.first: tuple[int, int] | None = None  # number of columns, and the line that set it
        self.width = 0

    def end_sentence(self) -> None:
        if self.word >= 0 and (self.tag is None or self.tag >= 0):
            self.first = None

    def read_word(self, number: int, line: str, pending: _Pending, problems: Problems) -> None:
        fields = split_fields(line, self.delimiter)
        problem = self._misfit(fields, line, number) or self._unusable(fields, not pending.words)
        if problem:
            problems.add(number, problem)
            pending.broken = True
            return
        pending.words.append(fields[self.word])
        pending.lines.append(number)
        if self.tag is not None:
            pending.tags.append(fields[self.tag])

    def check_comment(self, number: int, line: str, problems: Problems) -> None:
        """Refuse a comment that is a word with its tag: a hashtag taken for a comment would be lost without a word."""
        if self.tag is None or self.source.format == "conllu" or self.source.scheme == "raw":
            return
        fields = split_fields(line, self.delimiter)
        if len(fields) == self.width and not undeclared_tags([fields[self.tag]], self.source.scheme):
            prefix = quoted(self.source.comment_prefix or "")
            problems.add(number, f"begins with comment_prefix {prefix}, yet is a word with a tag: {quoted(line)}")

    def _misfit(self, fields: list[str], line: str, number: int) -> str | None:
        count = len(fields)
        if self.source.format == "conllu":
            if count != len(CONLLU_COLUMNS):
                return f"line has {_columns(count)}, CoNLL-U has 10 separated by tabs. Line: {quoted(line)}"
            return None if fields[0].isdecimal() else f"{quoted(fields[0])} is not a CoNLL-U id. Line: {quoted(line)}"
        for name, column in (("word", self.word), ("tag", self.tag)):
            if column is not None and not -count <= column < count:
                asked = f"line has {_columns(count)}, columns.{name} asks for index {column} (counted from 0)"
                return f"{asked}. Line: {quoted(line)}{self._other_delimiter(line, count)}"
        self.first = self.first or (count, number)
        self.width = self.first[0]
        if count == self.width:
            return None
        return f"line has {_columns(count)}, line {self.first[1]} has {self.width}. Line: {quoted(line)}"

    def _other_delimiter(self, line: str, count: int) -> str:
        others = [other for other in ("tab", "whitespace") if len(split_fields(line, other)) > count]
        return f". It would have more with delimiter: {others[0]}" if others else ""

    def _unusable(self, fields: list[str], first: bool) -> str | None:
        word = fields[self.word]
        if not word.strip(_BLANK):
            return "the word is empty"
        if first and word == "-DOCSTART-" and self.source.format == "conll":
            return '-DOCSTART- marks a document and is no word. Set docstart: "-DOCSTART-"'
        if self.source.format == "conllu" and self.tag is not None and fields[self.tag] == "_":
            return f"{CONLLU_COLUMNS[self.tag]} is _, which means none. Every word needs a tag"
        return None


def _columns(count: int) -> str:
    return f"{count} column" if count == 1 else f"{count} columns"
