"""What a manifest may say about where a task's data lie and which part of a file holds what."""

import re
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Annotated, Self

from pydantic import AfterValidator, BeforeValidator, NonNegativeInt, model_validator

from mpt.base.strict_yaml import FieldErrors, Settings


def _as_tuple(value: object) -> object:
    return (value,) if isinstance(value, str) else tuple(value) if isinstance(value, list) else value


def _confined(entry: str) -> str:
    path = PurePosixPath(entry)
    if "$" in entry:
        raise ValueError(f'"{entry}" holds a "$": variables are expanded in root only.')
    if not entry or path.is_absolute() or "\\" in entry or re.match(r"[A-Za-z]:", entry):
        raise ValueError(f'"{entry}" is not a relative path with "/". Write it relative to root.')
    if ".." in path.parts:
        raise ValueError(f'"{entry}" leaves root. Set root higher up; ".." is not allowed here.')
    return entry


FileList = Annotated[tuple[Annotated[str, AfterValidator(_confined)], ...], BeforeValidator(_as_tuple)]
FieldName = str | int
"""Name of a field, or number of a column that has no name, counted from 0."""


def _composable(value: FieldName) -> FieldName:
    if isinstance(value, str) and re.search(r"[{}]", re.sub(r"\{[^{}]+\}", "", value)):
        raise ValueError(f'"{value}" has a brace without its partner, or none between. Write names as {{name}}.')
    return value


TextField = Annotated[FieldName, AfterValidator(_composable)]
"""Where a whole text is: a field, one inside of others (`target.span1_text`), or several (`{word}: {sentence1}`)."""


def _dotted(value: str) -> str:
    if not all(value.split(".")):
        raise ValueError(f'"{value}" has nothing before, between or after its dots. Write names of fields: a.b.')
    return value


Each = Annotated[str, AfterValidator(_dotted)]
"""Path of the lists inside of a JSON line whose items are the examples: `passage.questions.answers`."""


class Files(Settings):
    """Data files of a task below the manifest's root: a path, a glob or a list of them for each split."""

    train: FileList
    dev: FileList = ()
    test: FileList = ()

    def entries(self) -> Iterator[str]:
        """Every path and glob of every split."""
        yield from (*self.train, *self.dev, *self.test)


class HubSource(Settings):
    """A data set of the Hugging Face Hub, pinned to one commit."""

    path: str
    revision: str
    config: str | None = None
    train: str = "train"
    dev: str | None = None
    test: str | None = None

    @model_validator(mode="after")
    def _pinned(self) -> Self:
        problems = {}
        if not re.fullmatch(r"[\w.-]+/[\w.-]+", self.path):
            problems["path"] = f'"{self.path}" is not owner/name.'
        if not re.fullmatch(r"[0-9a-f]{40}", self.revision):
            told = "is not a commit (40 hex digits). Copies on the Hub differ and change: pin one."
            problems["revision"] = f'"{self.revision}" {told}'
        if problems:
            raise FieldErrors(problems)
        return self


class Columns(Settings):
    """Where the word and what is said of it stand in a line, counted from 0; in conll -1 is the last.

    In CoNLL-U the word is always FORM, and the tag's column may be named. In props `arguments` is the first of the
    columns with a predicate's arguments, which end before `trailing` other ones.
    """

    word: int | None = None
    tag: int | str | None = None
    predicate: NonNegativeInt | None = None
    arguments: NonNegativeInt | None = None
    trailing: NonNegativeInt = 0


class Fields(Settings):
    """Names of the fields of JSON lines, or of the columns of a CSV file or a Hub data set.

    A CSV file without a header line has its columns named by numbers. In families of whole texts, `text` and `pair`
    may be put together from fields, and fields of objects inside of a JSON line are named with dots.
    """

    tokens: str = "tokens"
    tags: str = "tags"
    predicate: str = "predicate"
    text: TextField = "text"
    spans: str = "spans"
    pair: TextField | None = None
    label: FieldName = "label"
    question: str | None = None
    choices: Annotated[tuple[str, ...], BeforeValidator(_as_tuple)] = ("choices",)
    document: FieldName | None = None
