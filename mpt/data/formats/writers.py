"""Predictions in the form of the file that they were made for.

A column file comes back byte for byte with its tag column (or its columns of arguments) replaced, or with one appended
when it had none; JSON lines come back with their tags or spans replaced. Running text (text, snips, rasa) becomes JSON
lines with `text`, `words`, `tags` and `spans`. Gold is replaced and never stands beside predictions, so that neither is
taken for the other.
"""

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path

from mpt.base.errors import DataError
from mpt.base.files import replace_durable
from mpt.data.example import Sentence
from mpt.data.formats.columns import delimiter_of, replace_field, split_fields, tag_column_of, word_column_of
from mpt.data.formats.jsonlines import parse_json
from mpt.data.formats.props import props_lines
from mpt.data.formats.readers import read_untagged
from mpt.data.formats.source import (
    RawSentence,
    SourceFormat,
    decode,
    encode,
    join_surrogates,
    quoted,
    read_bytes,
    read_text,
    split_lines,
)
from mpt.data.formats.words import char_spans, find_words
from mpt.data.tags import from_bio, split_tag

_SPAN_TAG = re.compile(r"O|[BIESLU]-.+")


def write_predictions(
    path_in: Path,
    source: SourceFormat,
    sentences: Sequence[Sentence],
    tags: Sequence[Sequence[str]],
    path_out: Path,
) -> None:
    """Write the predictions for all sentences of a file.

    Args:
        path_in: The file that the sentences were read from. It is not changed.
        source: Its layout. `tag_column`, `argument_column`, `tags_field` or `spans_field` say what is replaced; None
            appends a column, or a field `tags` or `spans`. Tags are written in `scheme`; io merges entities of one type
            that touch.
        sentences: All sentences of the file, in order, as `read_sentences` gave them.
        tags: Predicted tags of each sentence: BIO2, or raw tags where the scheme is raw.
        path_out: Where to write, whole or not at all; an older file is replaced.

    Raises:
        DataError: The output is the input, the sentences are not those of the file, a tag cannot stand in a column, or
            the file would get a second tag column.
    """
    assert len(sentences) == len(tags), f"{len(tags)} predictions for {len(sentences)} sentences"
    for sentence, predicted in zip(sentences, tags, strict=True):
        assert len(sentence.words) == len(predicted), f"{sentence.where}: {len(predicted)} tags"
    refuse_input(path_in, path_out)
    raw = read_untagged(path_in, source)
    _check_same(path_in, raw, sentences)
    if source.format == "props":
        data = _replaced(path_in, source, props_lines(path_in, sentences, tags, source))
    elif source.format in ("text", "snips", "rasa"):
        data = _encoded(_text_objects(path_in, source, raw, sentences, tags), "utf-8")
    else:
        lines = _object_lines if source.format in ("jsonl", "jsonl_spans") else _column_lines
        data = _replaced(path_in, source, lines(path_in, source, sentences, tags))
    _write(path_out, data)


def refuse_input(path_in: Path, path_out: Path) -> None:
    """Refuse to write predictions over the file that they are for."""
    if path_out.exists() and path_out.samefile(path_in):
        raise DataError(f"{path_out}: is the input file. Write the predictions to another file")


def write_whole(path: Path, text: str, encoding: str) -> None:
    """Write a file whole or not at all."""
    _write(path, _encoded(text, encoding))


def _check_same(path: Path, raw: Sequence[RawSentence], sentences: Sequence[Sentence]) -> None:
    """Refuse sentences that are not those of the file, so that no tag lands beside another word."""
    if len(raw) != len(sentences):
        raise DataError(f"{path}: holds {len(raw)} sentences, predictions are for {len(sentences)}. Predict it again")
    for found, sentence in zip(raw, sentences, strict=True):
        same = found.lines[0] == sentence.lines[0] and (
            found.words == sentence.words if found.text is None else find_words(found.text, sentence.words) is not None
        )
        if not same:
            raise DataError(f"{path}:{found.lines[0]}: the words are not those that were predicted. Predict it again")


def _replaced(path: Path, source: SourceFormat, new: Mapping[int, Callable[[str], str]]) -> bytes:
    """Change some lines of a file, given by number; byte order mark, line ends and all other lines stay as they are."""
    data = read_bytes(path)
    text = decode(data, path=path, encoding=source.encoding)
    if _encoded(text, source.encoding) != data:
        raise DataError(f"{path}: cannot be written back byte for byte in {source.encoding}. Convert it to utf-8")
    mark = "\ufeff" if text.startswith("\ufeff") else ""
    lines = text.removeprefix(mark).split("\n")
    for number, edit in new.items():
        line = lines[number - 1]
        body = line.removesuffix("\r")
        lines[number - 1] = edit(body) + line[len(body) :]
    return _encoded(mark + "\n".join(lines), source.encoding)


def _column_lines(
    path: Path, source: SourceFormat, sentences: Sequence[Sentence], tags: Sequence[Sequence[str]]
) -> dict[int, Callable[[str], str]]:
    """Return, for each line that holds a word, the function that puts its tag there."""
    column, delimiter = tag_column_of(source), delimiter_of(source)
    if column is None and source.format == "conllu":
        raise DataError(f"{path}: CoNLL-U has ten columns. Name the one to write, such as columns.tag: upos")
    values: dict[int, str] = {}
    for sentence, predicted in zip(sentences, tags, strict=True):
        values.update(zip(sentence.lines, from_bio(predicted, source.scheme), strict=True))
    lines = split_lines(read_text(path, source.encoding))
    rows = {number: split_fields(lines[number - 1], delimiter) for number in values}
    _check_column(path, column, rows)
    _check_values(set(values.values()), delimiter)
    if column is None:
        _check_no_tags(path, source, list(rows.values()), set(values.values()))
    return {number: partial(replace_field, delimiter=delimiter, column=column, value=values[number]) for number in rows}


def _check_column(path: Path, column: int | None, rows: Mapping[int, Sequence[str]]) -> None:
    for number, row in rows.items():
        if column is not None and not -len(row) <= column < len(row):
            raise DataError(f"{path}:{number}: no column {column} to replace. Leave columns.tag out to append one")


def _check_values(values: Iterable[str], delimiter: str) -> None:
    breaks = re.compile(r"\s" if delimiter in ("tab", "space", "whitespace") else r"\s|" + re.escape(delimiter))
    for value in sorted(values):
        if not value or breaks.search(value):
            raise DataError(
                f"tag {quoted(value)} cannot stand in a column: it is empty or holds white space or {delimiter}"
            )


def _check_no_tags(path: Path, source: SourceFormat, rows: Sequence[Sequence[str]], predicted: set[str]) -> None:
    """Refuse to append predictions where a column holds tags already: two tag columns without names get mixed up."""
    width, word = min(map(len, rows)), word_column_of(source)
    for column in set(range(width)) - {word % width}:
        values = [row[column] for row in rows]
        if _holds_tags(values, predicted, raw=source.scheme == "raw"):
            raise DataError(
                f"{path}: column {column} holds tags already, such as {quoted(max(values, key=len))}. "
                f"Set columns.tag: {column} to replace them, or remove the column"
            )


def _holds_tags(values: Sequence[str], predicted: set[str], *, raw: bool) -> bool:
    """Say whether a column holds tags of the predicted kind; chunk tags beside entities, for example, are not."""
    if raw:
        return sum(value in predicted for value in values) >= len(values) / 2
    if not all(map(_SPAN_TAG.fullmatch, values)):
        return False
    types, known = ({split_tag(tag)[1] for tag in tags} - {""} for tags in (set(values), predicted))
    return not (types and known and types.isdisjoint(known))


def _object_lines(
    path: Path, source: SourceFormat, sentences: Sequence[Sentence], tags: Sequence[Sequence[str]]
) -> dict[int, Callable[[str], str]]:
    """Return, for each line that holds an object, the function that puts its tags or spans there."""

    def edit(line: str, sentence: Sentence, predicted: Sequence[str]) -> str:
        record = parse_json(join_surrogates(line))
        if source.format == "jsonl":
            record[source.tags_field or "tags"] = from_bio(predicted, source.scheme)
        else:
            text = record[source.text_field]
            record[source.spans_field or "spans"] = char_spans(text, _offsets(text, sentence), predicted)
        return json.dumps(record, ensure_ascii=not source.encoding.startswith("utf"))

    pairs = zip(sentences, tags, strict=True)
    return {s.lines[0]: partial(edit, sentence=s, predicted=predicted) for s, predicted in pairs}


def _text_objects(
    path: Path,
    source: SourceFormat,
    raw: Sequence[RawSentence],
    sentences: Sequence[Sentence],
    tags: Sequence[Sequence[str]],
) -> str:
    """Write an object for each sentence, and in text for each blank line too, so that line numbers stay the same."""
    objects: list[dict[str, object]] = []
    for found, sentence, predicted in zip(raw, sentences, tags, strict=True):
        text = found.text
        assert text is not None, "running text was checked to be there"
        if source.format == "text":
            objects += [_empty(source)] * (sentence.lines[0] - 1 - len(objects))
        words = list(sentence.words)
        record: dict[str, object] = {"text": text, "words": words, "tags": from_bio(predicted, source.tag_scheme)}
        if source.tag_scheme != "raw":
            record["spans"] = char_spans(text, _offsets(text, sentence), predicted)
        objects.append(record)
    if source.format == "text":
        lines = read_text(path, source.encoding).removesuffix("\n").count("\n") + 1
        objects += [_empty(source)] * (lines - len(objects))
    return "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in objects)


def _empty(source: SourceFormat) -> dict[str, object]:
    empty: dict[str, object] = {"text": "", "words": [], "tags": []}
    return empty if source.tag_scheme == "raw" else {**empty, "spans": []}


def _offsets(text: str, sentence: Sentence) -> list[tuple[int, int]]:
    offsets = find_words(text, sentence.words)
    assert offsets is not None, "the words were checked against the text"
    return offsets


def _encoded(text: str, encoding: str) -> bytes:
    try:
        return encode(text, encoding)
    except UnicodeEncodeError as error:
        shown = quoted(text[error.start : error.end])
        raise DataError(f"{shown} cannot be written in {encoding}, the encoding of the input file") from None


def _write(path: Path, data: bytes) -> None:
    """Write a file whole or not at all."""
    try:
        replace_durable(path, data)
    except OSError as error:
        raise DataError(f"{path}: cannot be written: {error.strerror}") from error
