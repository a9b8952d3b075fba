"""Parquet is read as JSON lines of the same rows are; what is wrong is told with its row."""

import json

import pyarrow
import pytest
from pyarrow import parquet

from mpt.base.errors import DataError
from mpt.data.formats import tables as module
from mpt.data.formats.sentences import read_sentences
from mpt.data.formats.source import SourceFormat

ROWS = {"tokens": [["Ada", "in"], ["Kiev"], ["Bob"]], "tags": [["B-PER", "O"], ["B-LOC"], ["B-PER"]]}


def write(path, **columns):
    parquet.write_table(pyarrow.table(columns), path)
    return path


def read(path, **more):
    return read_sentences(path, SourceFormat(format="parquet", scheme="iob2", **more))


@pytest.mark.parametrize("rows", [1, 2, 4096])
def test_rows_are_those_of_json_lines(tmp_path, monkeypatch, rows):
    monkeypatch.setattr(module, "ROWS", rows)
    found = read(write(tmp_path / "a[1].parquet", **ROWS, more=[1, 2, 3]))
    lines = tmp_path / "a.jsonl"
    lines.write_text(
        "".join(json.dumps(dict(zip(ROWS, row, strict=True))) + "\n" for row in zip(*ROWS.values(), strict=True))
    )
    others = read_sentences(lines, SourceFormat(format="jsonl", scheme="iob2"))
    assert [(it.words, it.tags, it.lines) for it in found] == [(it.words, it.tags, it.lines) for it in others]


def test_columns_may_have_other_names(tmp_path):
    path = write(tmp_path / "a.parquet", words=ROWS["tokens"], ner=ROWS["tags"])
    assert len(read(path, words_field="words", tags_field="ner")) == 3
    assert [it.tags for it in read(path, words_field="words", tags_field=None)] == [None] * 3


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"tokens": ["Ada in", "Kiev"], "tags": [["O"], ["O"]]}, r"a.parquet:1: tokens must be a list of strings"),
        (
            {"tokens": [["Ada"], None], "tags": [["O"], ["O"]]},
            r"a.parquet:2: tokens must be a list .*null",
        ),
        ({"tokens": [["Ada"], ["B", ""]], "tags": [["O"], ["O", "O"]]}, r"a.parquet:2: tokens\[1\] is an empty word"),
        ({"tokens": [["Ada"]], "tags": [["I-PER"]]}, r"a.parquet: declared iob2"),
        ({"tokens": [], "tags": []}, r"a.parquet: no sentence in this file"),
        ({"tokens": [["Ada"]], "tgas": [["O"]]}, r'a.parquet: no field "tags" among tokens, tgas. Did you mean "tgas"'),
    ],
)
def test_what_is_wrong_is_told_with_its_row(tmp_path, columns, message):
    with pytest.raises(DataError, match=message):
        read(write(tmp_path / "a.parquet", **columns))


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(DataError, match="no such file"):
        read(tmp_path / "b.parquet")
