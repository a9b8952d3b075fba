"""What a manifest may say about a task and about the mixture: fields, defaults and their contradictions.

Nothing is sniffed. The format, the columns and the tag scheme of every task are declared here and verified against the
data when it is read.
"""

import codecs
import re
from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import PurePosixPath
from typing import Annotated, Literal, Self

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    PositiveFloat,
    PositiveInt,
    field_validator,
    model_validator,
)

from mpt.data.columns import CONLLU_COLUMNS
from mpt.data.tags import Repair, Scheme
from mpt.strict_yaml import FieldErrors, Settings

Split = Literal["train", "dev", "test"]
Metric = Literal["span_f1", "accuracy"]
SPLITS: tuple[Split, ...] = ("train", "dev", "test")
SPAN_FAMILIES = ("ner", "slots", "chunk")
SPAN_FORMATS = ("jsonl_spans", "snips", "rasa")  # the file holds character spans, so no tag scheme applies

# Formats that a reading field has a meaning for; elsewhere a task may not set it, and `defaults` do not reach it.
FORMATS_OF_FIELD: dict[str, tuple[str, ...]] = {
    "columns": ("conll", "conllu"),
    "delimiter": ("conll",),
    "comment_prefix": ("conll",),
    "docstart": ("conll",),
    "fields": ("jsonl", "jsonl_spans", "hub"),
}


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


def _name(value: str) -> str:
    if not re.fullmatch(r"[a-z0-9][a-z0-9_.-]*", value):
        raise ValueError(f'"{value}" may only hold a-z 0-9 _ . - and starts with a letter or digit.')
    return value


def _task_name(value: str) -> str:
    if not re.fullmatch(r"[a-z0-9][a-z0-9_-]*", value):
        raise ValueError(f'task name "{value}" may only hold a-z 0-9 _ -; it names files and log keys.')
    return value


Name = Annotated[str, AfterValidator(_name)]
TaskName = Annotated[str, AfterValidator(_task_name)]
FileList = Annotated[tuple[Annotated[str, AfterValidator(_confined)], ...], BeforeValidator(_as_tuple)]


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
            problems["revision"] = (
                f'"{self.revision}" is not a commit (40 hex digits). Copies on the Hub differ and change: pin one.'
            )
        if problems:
            raise FieldErrors(problems)
        return self


class Columns(Settings):
    """Where the word and its tag stand in a line, counted from 0; -1 is the last.

    In CoNLL-U the word is always FORM, and the tag's column may be named.
    """

    word: int | None = None
    tag: int | str


class Fields(Settings):
    """Names of the fields of JSON lines, or of the columns of a Hub data set."""

    tokens: str = "tokens"
    tags: str = "tags"
    text: str = "text"
    spans: str = "spans"


class TaskSpec(Settings):
    """One task as the manifest declares it, defaults filled in."""

    family: Literal["ner", "slots", "chunk", "pos", "tag"]
    files: Files | None = None
    hub: HubSource | None = None
    dev_fraction: Annotated[float, Field(gt=0, le=0.5)] | None = None
    dev_by: Literal["sentence", "document"] = "sentence"
    format: Literal["conll", "conllu", "jsonl", "jsonl_spans", "snips", "rasa", "hub"] = "conll"
    columns: Columns | None = None
    fields: Fields = Field(default_factory=Fields)
    delimiter: str = "whitespace"
    comment_prefix: str | None = None
    docstart: str | None = None
    encoding: str = "utf-8"
    scheme: Scheme | None = None
    labels: tuple[str, ...] | Literal["auto"] = "auto"
    label_map: dict[str, str | None] = Field(default_factory=dict)
    on_unseen_label: Literal["error", "map_to_o", "drop_sentence"] = "error"
    repair: Repair = "error"
    long: Literal["window", "error"] = "window"
    no_piece: Literal["unknown", "error"] = "unknown"
    max_examples: PositiveInt | None = None
    shots: tuple[PositiveInt, ...] = ()
    max_epochs: PositiveFloat | None = None
    rate: PositiveFloat | None = None
    loss_weight: PositiveFloat = 1.0
    enabled: bool = True
    license: str | None = None
    citation: str | None = None
    sha256: dict[str, str] = Field(default_factory=dict)

    @property
    def metric(self) -> Metric:
        """Span F1 for entity-like families, accuracy where every word has a tag of its own."""
        return "span_f1" if self.family in SPAN_FAMILIES else "accuracy"

    @property
    def tag_scheme(self) -> Scheme:
        """Scheme of the tags that a reader meets: `raw` for tagging, `iob2` for files that hold spans."""
        if self.metric == "accuracy":
            return "raw"
        return self.scheme or "iob2"

    @field_validator("encoding")
    @classmethod
    def _known_encoding(cls, value: str) -> str:
        if value == "utf-8-surrogatepass":
            return value
        try:
            codec = codecs.lookup(value)
        except (LookupError, ValueError):
            raise ValueError(
                f'"{value}" is not an encoding that Python knows. Usual: utf-8, latin-1, cp1252.'
            ) from None
        if not getattr(codec, "_is_text_encoding", True):
            raise ValueError(f'"{value}" is not a text encoding. Usual: utf-8, latin-1, cp1252.')
        return value

    @field_validator("delimiter")
    @classmethod
    def _known_delimiter(cls, value: str) -> str:
        if value in ("tab", "space", "whitespace") or (len(value) == 1 and value.isprintable() and value != " "):
            return value
        hint = " (in single quotes it is two characters)" if value == "\\t" else ""
        raise ValueError(f'"{value}" is not tab, space, whitespace or one character{hint}. Write one of these names.')

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        problems = {**self._source_problems(), **self._format_problems(), **self._label_problems()}
        if problems:
            raise FieldErrors(problems)
        return self

    def _source_problems(self) -> dict[str, str]:
        problems: dict[str, str] = {}
        if (self.files is None) == (self.hub is None):
            problems["files"] = (
                "give either files or hub." if self.files is None else "files and hub exclude each other."
            )
        if (self.hub is not None) != (self.format == "hub"):
            problems["format"] = "format: hub and hub: {path, revision} belong together. Give both or neither."
        has_dev = bool((self.files and self.files.dev) or (self.hub and self.hub.dev))
        if has_dev and self.dev_fraction is not None:
            problems["dev_fraction"] = "a dev split and dev_fraction exclude each other. Keep one."
        if not has_dev and self.dev_fraction is None and (self.files or self.hub):
            problems["files.dev" if self.files else "hub.dev"] = (
                "no dev split: give one, or dev_fraction (for example 0.1). mpt never takes one from train unasked."
            )
        if self.dev_by == "document" and (self.dev_fraction is None or self.docstart is None):
            problems["dev_by"] = "document needs dev_fraction and docstart (the mark that starts a document)."
        if self.sha256 and self.files is None:
            problems["sha256"] = "hashes belong to files; a hub source is pinned by its revision."
        for file, digest in self.sha256.items():
            if not re.fullmatch(r"[0-9a-f]{64}", digest):
                problems[f"sha256.{file}"] = f'"{digest}" is not a SHA-256 (64 hex digits in lower case).'
            elif self.files and not any(fnmatchcase(file, entry) for entry in self.files.entries()):
                problems[f"sha256.{file}"] = "no split of this task names that file. Correct or remove the entry."
        return problems

    def _format_problems(self) -> dict[str, str]:
        problems = {
            field: f"has no meaning in format {self.format}. Remove it."
            for field, formats in FORMATS_OF_FIELD.items()
            if field in self.model_fields_set and self.format not in formats
        }
        if self.format in ("conll", "conllu"):
            problems |= self._column_problems()
        if self.metric == "accuracy" and self.scheme not in (None, "raw"):
            problems["scheme"] = f"family {self.family} has a tag for every word: scheme raw, or leave it out."
        elif self.metric == "span_f1" and self.scheme == "raw":
            problems["scheme"] = (
                f"family {self.family} is scored by span F1, which needs iob1, iob2, iobes, bilou or io."
            )
        elif self.metric == "span_f1" and self.format in SPAN_FORMATS and self.scheme is not None:
            problems["scheme"] = f"format {self.format} holds spans, not tags. Remove scheme."
        elif self.metric == "span_f1" and self.format not in SPAN_FORMATS and self.scheme is None:
            problems["scheme"] = "is required: iob1, iob2, iobes, bilou or io. mpt never guesses it."
        if self.metric == "accuracy" and self.format in SPAN_FORMATS:
            problems["format"] = f"{self.format} holds spans; family {self.family} needs a tag for every word."
        return problems

    def _column_problems(self) -> dict[str, str]:
        conllu = self.format == "conllu"
        if self.columns is None or (self.columns.word is None and not conllu):
            example = "{tag: upos}" if conllu else "{word: 0, tag: -1} (counted from 0; -1 is the last)"
            return {"columns": f"is required, for example columns: {example}."}
        problems = {}
        tag = self.columns.tag
        if isinstance(tag, str) and not (conllu and tag in CONLLU_COLUMNS):
            names = f" nor one of {', '.join(CONLLU_COLUMNS)}" if conllu else ""
            problems["columns.tag"] = f'"{tag}" is not a column number{names}.'
        if conllu and self.columns.word is not None:
            problems["columns.word"] = "in CoNLL-U the word is always FORM. Remove it."
        elif tag == self.columns.word:
            problems["columns.tag"] = "is the column of the word too. Give the column of the tag."
        return problems

    def _label_problems(self) -> dict[str, str]:
        problems: dict[str, str] = {}
        raw = self.metric == "accuracy"
        labels = () if self.labels == "auto" else self.labels
        repeated = sorted({label for label in labels if labels.count(label) > 1})
        if self.labels != "auto" and not labels:
            problems["labels"] = "is empty. List the labels, or write auto."
        elif repeated:
            problems["labels"] = f"twice in the list: {', '.join(repeated)}."
        elif not raw and any(label == "O" or re.match(r"[BIESLU]-", label) for label in labels):
            problems["labels"] = "list entity types without O and without prefixes, for example [PER, ORG]."
        if raw and None in self.label_map.values():
            problems["label_map"] = f"family {self.family} has no O, so no label can be mapped to null."
        if raw and self.on_unseen_label == "map_to_o":
            problems["on_unseen_label"] = f"family {self.family} has no O. Use error or drop_sentence."
        if "" in labels or "" in self.label_map or "" in self.label_map.values():
            problems.setdefault("labels", "a label cannot be empty. null maps a type to O.")
        return problems


class Mixture(Settings):
    """How often each task is drawn."""

    strategy: Literal["proportional", "temperature", "uniform", "explicit"] = "temperature"
    temperature: Annotated[float, Field(ge=1)] = 2.0
    max_epochs_per_task: PositiveFloat | None = 80.0
    tasks_per_step: PositiveInt | None = None
