"""How a file to be tagged is laid out: as the training data were, or as the user says."""

from dataclasses import replace
from typing import Any, cast

from mpt.base.errors import ConfigError, did_you_mean
from mpt.data.formats.layouts import Layout
from mpt.data.formats.sentences import SENTENCE_FORMATS
from mpt.data.formats.source import Format, SourceFormat
from mpt.serving.predictor import Predictor

# Predictions are not written as Parquet, and the columns of props are those of the training files.
FORMATS = tuple(name for name, form in SENTENCE_FORMATS.items() if form.written and name != "props")


def input_layout(
    predictor: Predictor,
    name: str | None,
    *,
    word_column: int = 0,
    tag_column: int | None = None,
    delimiter: str = "whitespace",
) -> Layout:
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
    source, spec = predictor.source, predictor.spec
    if spec.kind.predicate:
        known = dict.fromkeys((source.format, "jsonl"))
        told = (
            f": this task has predicates, which are read from {' or '.join(known)}. Leave --format out for the layout "
            "of the training files"
        )
    elif spec.kind.unit == "words":
        known, told = FORMATS, f" is not one of {', '.join(FORMATS)}."
    else:
        known = spec.kind.formats
        told = f": a task of family {spec.family} reads {', '.join(known)}."
    asked = name or source.format
    if asked not in known:
        raise ConfigError(f'--format "{asked}"{told}{"" if spec.kind.predicate else did_you_mean(asked, known)}')
    if name is None or (spec.kind.predicate and name == source.format):
        return source
    if spec.kind.unit != "words":
        return replace(source, format=cast(Any, name))
    columns = {"word_column": word_column, "tag_column": tag_column, "delimiter": delimiter} if name == "conll" else {}
    predicate = "predicate" if spec.kind.predicate else None
    return SourceFormat(format=cast(Format, name), scheme=spec.tag_scheme, predicate_field=predicate, **columns)
