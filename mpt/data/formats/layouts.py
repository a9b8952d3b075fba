"""Files of examples by their layout: the one table of what reads and writes each kind."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from mpt.data.example import Example
from mpt.data.formats.questions import QaSource
from mpt.data.formats.sentences import read_sentences, write_predictions
from mpt.data.formats.source import SourceFormat
from mpt.data.formats.squad import read_questions, write_questions
from mpt.data.formats.text_files import TextSource, read_texts, write_answers

Layout: TypeAlias = SourceFormat | TextSource | QaSource
"""How a data file is laid out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Files:
    """What reads and writes the files of a layout; `tagged` tells whether an example has a prediction for each word."""

    read: Callable[[Path, Any], tuple[Sequence[Example], list[str]]]
    write: Callable[[Path, Any, Any, Any, Path], None]
    tagged: bool = False


_LAYOUTS: Mapping[type[Layout], _Files] = {
    SourceFormat: _Files(
        read=lambda path, source: (read_sentences(path, source), []), write=write_predictions, tagged=True
    ),
    TextSource: _Files(read=lambda path, source: (read_texts(path, source), []), write=write_answers),
    QaSource: _Files(read=read_questions, write=write_questions),
}


def read_file(path: Path, layout: Layout) -> tuple[Sequence[Example], list[str]]:
    """Read all examples of a file, in its order, and what a user should know about it.

    Raises:
        DataError: The file is missing, undecodable, malformed or not what the layout declares; lists every problem with
            `file:line`, the first 20 in words.
    """
    return _LAYOUTS[type(layout)].read(path, layout)


def write_file(
    path_in: Path, layout: Layout, examples: Sequence[Example], predicted: Sequence[Sequence[str]], path_out: Path
) -> None:
    """Write the predictions for all examples of a file in the file's own form, whole or not at all.

    Raises:
        DataError: The output is the input or cannot be written, or the examples are not those of the file.
    """
    files = _LAYOUTS[type(layout)]
    files.write(path_in, layout, examples, predicted if files.tagged else [one for (one,) in predicted], path_out)
