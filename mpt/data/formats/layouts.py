"""Files of examples by their layout: the one place that tells what reads and writes each kind."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeAlias

from mpt.data.example import Example
from mpt.data.formats.questions import QaSource
from mpt.data.formats.sentences import read_sentences, write_predictions
from mpt.data.formats.source import SourceFormat, Tags
from mpt.data.formats.squad import read_questions, write_questions
from mpt.data.formats.text_files import TextSource, read_texts, write_answers

Layout: TypeAlias = SourceFormat | TextSource | QaSource
"""How a data file is laid out."""


def read_file(path: Path, layout: Layout) -> tuple[Sequence[Example], list[str]]:
    """Read all examples of a file, in its order, and what a user should know about it.

    Raises:
        DataError: The file is missing, undecodable, malformed or not what the layout declares; lists every problem with
            `file:line`, the first 20 in words.
    """
    match layout:
        case SourceFormat():
            return read_sentences(path, layout), []
        case TextSource():
            return read_texts(path, layout), []
        case QaSource():
            return read_questions(path, layout)


def write_file(path_in: Path, layout: Layout, examples: Sequence[Any], predicted: Tags, path_out: Path) -> None:
    """Write the predictions for all examples of a file in the file's own form, whole or not at all.

    Raises:
        DataError: The output is the input or cannot be written, or the examples are not those of the file.
    """
    if isinstance(layout, SourceFormat):
        return write_predictions(path_in, layout, examples, predicted, path_out)
    answers = [answer for (answer,) in predicted]
    if isinstance(layout, TextSource):
        return write_answers(path_in, layout, examples, answers, path_out)
    return write_questions(path_in, layout, examples, answers, path_out)
