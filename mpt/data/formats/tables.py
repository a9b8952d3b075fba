"""Tables with a row for each sentence, a list of words and a list of tags: Parquet, and data sets of the Hub."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mpt.base.errors import DataError, did_you_mean, placed
from mpt.data.example import Sentence
from mpt.data.formats.jsonlines import member, word_sentence
from mpt.data.formats.source import Problems, RawSentence, SourceFormat
from mpt.data.manifest.source_spec import HubSource
from mpt.data.tags import check_tags, to_bio, undeclared_tags

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
                    raise placed(error, str(path)) from None
            for batch in file.iter_batches(batch_size=ROWS, columns=names):
                for row in batch.to_pylist():
                    number += 1
                    with problems.noting(number):
                        yield word_sentence(row, source, number)
    except FileNotFoundError:
        raise DataError(f"{path}: no such file") from None
    except (pyarrow.ArrowInvalid, OSError) as error:
        raise DataError(f"{path}: cannot be read as Parquet: {str(error).splitlines()[0]}") from error


def read_hub(hub: HubSource, split: str, source: SourceFormat) -> list[Sentence]:
    """Read one of mpt's splits of a data set of the Hub, from the local cache where it is there.

    A column of class numbers is translated to their names.

    Returns:
        Sentences whose path is `owner/name@commit/split` and whose lines are row numbers, counted from 1.

    Raises:
        DataError: The data set cannot be loaded, or a row does not hold what the manifest declares.
    """
    name: str | None = getattr(hub, split)
    assert name is not None, f"no {split} split is declared"
    where = Path(f"{hub.path}@{hub.revision[:12]}/{name}")
    rows = _load(hub, name, where)
    assert source.tags_field is not None, "a hub task has tags"
    for column in (source.words_field, source.tags_field):
        if column not in rows.column_names:
            known = ", ".join(rows.column_names)
            raise DataError(f'{where}: no column "{column}". It has: {known}.{did_you_mean(column, rows.column_names)}')
    return read_rows(rows, where, source, names=_class_names(rows.features[source.tags_field]))


def read_rows(
    rows: Iterable[Mapping[str, Any]], where: Path, source: SourceFormat, *, names: Sequence[str] | None
) -> list[Sentence]:
    """Turn rows with a list of words and a list of tags into sentences; rows without a word are left out.

    Messages call the rows `where`; `names` are those of class numbers, None when the tags are text.
    """
    assert source.tags_field is not None, "a hub task has tags"
    problems = Problems(where)
    sentences: list[Sentence] = []
    for number, row in enumerate(rows, 1):
        words, tags = row[source.words_field], row[source.tags_field]
        problem = _row_problem(words, tags, names)
        if problem is not None:
            problems.add(number, problem)
        elif words:
            named = tags if names is None else [names[int(tag)] for tag in tags]
            bio = _bio(named, source, number, problems)
            sentences.append(Sentence(words=tuple(words), tags=bio, path=str(where), lines=(number,) * len(words)))
    problems.raise_any()
    if not sentences:
        raise DataError(f"{where}: no sentence in this split")
    return sentences


def _load(hub: HubSource, name: str, where: Path) -> Any:
    import datasets  # slow to import and needed by few manifests

    try:
        return datasets.load_dataset(hub.path, hub.config, split=name, revision=hub.revision)
    except (OSError, ValueError, RuntimeError) as problem:  # what `datasets` raises for a wrong name or no network
        reason = str(problem).splitlines()[0] if str(problem) else type(problem).__name__
        advice = "Check hub: path, config and splits, and the network; or download it and give files."
        raise DataError(f"{where}: cannot be loaded from the Hub: {reason} {advice}") from problem


def _class_names(feature: Any) -> list[str] | None:
    """Names of class numbers; both list types of `datasets` keep the feature of their items in `.feature`."""
    return getattr(getattr(feature, "feature", feature), "names", None)


def _row_problem(words: Any, tags: Any, names: Sequence[str] | None) -> str | None:
    if not isinstance(words, list) or not isinstance(tags, list):
        return "the columns of words and tags must hold lists"
    if len(words) != len(tags):
        return f"{len(words)} words, but {len(tags)} tags"
    if not all(isinstance(word, str) and word for word in words):
        return "every word must be text and not empty"
    if names is None and not all(isinstance(tag, str) for tag in tags):
        return "tags are numbers without names. Use a data set with class names, or convert it to JSON lines"
    if names is not None and not all(isinstance(tag, int) and 0 <= tag < len(names) for tag in tags):
        return f"a tag is outside the {len(names)} classes (unlabelled splits often hold -1)"
    return None


def _bio(tags: Sequence[str], source: SourceFormat, number: int, problems: Problems) -> tuple[str, ...]:
    check = check_tags if source.repair == "error" or source.scheme == "raw" else undeclared_tags
    found = check(tags, source.scheme)
    for index, problem in found:
        problems.add(number, f"word {index + 1}: {problem}")
    return () if found else to_bio(tags, source.scheme, source.repair)
