"""How a file to be tagged is laid out: as the training data were, or as the user says."""

from dataclasses import replace
from typing import Literal, cast, get_args

from mpt.base.errors import ConfigError, did_you_mean
from mpt.data.formats.questions import QaFormat, QaSource
from mpt.data.formats.source import Format, SourceFormat
from mpt.serving.predictor import Predictor, Source

# Predictions are not written as Parquet, and the columns of props are those of the training files.
FORMATS = tuple(name for name in get_args(Format) if name not in ("parquet", "props"))


def input_layout(
    predictor: Predictor,
    name: str | None,
    *,
    word_column: int = 0,
    tag_column: int | None = None,
    delimiter: str = "whitespace",
) -> Source:
    """The layout to read and write.

    Args:
        predictor: Its task's training files are the default.
        name: A format's name; None for that default.
        word_column: With "conll", column of the word, counted from 0.
        tag_column: With "conll", column that predictions replace; None appends one.
        delimiter: With "conll", what separates columns.

    Raises:
        ConfigError: No such format.
    """
    source = predictor.source
    if not isinstance(source, SourceFormat):
        formats = predictor.spec.kind.formats
        if name not in (None, *formats):
            raise ConfigError(
                f'--format "{name}": a task of family {predictor.spec.family} reads {", ".join(formats)}.'
                f"{did_you_mean(name, formats)}"
            )
        if name is None:
            return source
        if isinstance(source, QaSource):
            return replace(source, format=cast(QaFormat, name))
        return replace(source, format=cast(Literal["csv", "jsonl", "text"], name))
    if predictor.spec.kind.predicate:
        return _with_predicates(source, name or source.format)
    if name is None and source.format in FORMATS:
        return source
    name = name or source.format
    if name not in FORMATS:
        raise ConfigError(f'--format "{name}" is not one of {", ".join(FORMATS)}.{did_you_mean(name, FORMATS)}')
    if name == "conll":
        return SourceFormat(
            format="conll",
            scheme=predictor.spec.tag_scheme,
            word_column=word_column,
            tag_column=tag_column,
            delimiter=delimiter,
        )
    return SourceFormat(format=cast(Format, name), scheme=predictor.spec.tag_scheme)


def _with_predicates(source: SourceFormat, name: str) -> SourceFormat:
    """The layout of the training files or, where these have columns, JSON lines as well."""
    if name == source.format:
        return source
    if name == "jsonl":
        return SourceFormat(format="jsonl", scheme="iob2", predicate_field="predicate")
    formats = dict.fromkeys((source.format, "jsonl"))
    raise ConfigError(
        f'--format "{name}": this task has predicates, which are read from {" or ".join(formats)}. Leave --format out '
        "for the layout of the training files"
    )
