"""Parquet: a row a sentence, with a list of words and a list of tags."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mpt.base.errors import DataError
from mpt.data.formats.jsonlines import member, word_sentence
from mpt.data.formats.source import Problems, RawSentence, SourceFormat

ROWS = 4096  # that are held as Python objects at once


def read_parquet(path: Path, source: SourceFormat, problems: Problems) -> Iterator[RawSentence]:
    """Yield the sentences of a file; their line is the number of the row, counted from 1.

    Only the columns of words and tags are read, a batch of rows at a time.

    Raises:
        DataError: The file is not there or is no Parquet, or has no such column.
    """
    import pyarrow  # slow to import and needed by few manifests
    from pyarrow import parquet

    names = [name for name in (source.words_field, source.tags_field) if name is not None]
    number = 0
    try:
        with parquet.ParquetFile(path) as file:
            columns: dict[str, Any] = dict.fromkeys(file.schema_arrow.names)
            for name in names:
                try:
                    member(columns, name)
                except DataError as error:
                    raise DataError(f"{path}: {error}") from None
            for batch in file.iter_batches(batch_size=ROWS, columns=names):
                for row in batch.to_pylist():
                    number += 1
                    yield from _sentence(row, source, number, problems)
    except FileNotFoundError:
        raise DataError(f"{path}: no such file") from None
    except (pyarrow.ArrowInvalid, OSError) as error:
        raise DataError(f"{path}: cannot be read as Parquet: {str(error).splitlines()[0]}") from error


def _sentence(row: dict[str, Any], source: SourceFormat, number: int, problems: Problems) -> Iterator[RawSentence]:
    try:
        yield word_sentence(row, source, number)
    except DataError as error:
        for problem in error.problems:
            problems.add(number, problem)
