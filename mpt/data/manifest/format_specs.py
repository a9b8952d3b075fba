"""Tasks by the format of their files: one class for each, with the fields that say something there."""

import json
from collections.abc import Callable, Mapping
from fnmatch import fnmatchcase
from typing import Annotated, Any, Literal, TypeAlias, get_args

from pydantic import AfterValidator, Field, TypeAdapter

from mpt.base.errors import DataError
from mpt.data.families.family import FAMILIES, Family, FamilyName
from mpt.data.formats.columns import CONLLU_COLUMNS
from mpt.data.formats.source import SPAN_FORMATS, SourceFormat
from mpt.data.formats.text_files import TextSource
from mpt.data.manifest.family_specs import FAMILY_FIELDS, PredicateSpec, QaSpec, TaggedSpec, TextSpec, WordSpec
from mpt.data.manifest.source_spec import Columns, Each, Fields
from mpt.data.manifest.task_spec import TaskSpec, unnamed_files


def _delimiter(value: str) -> str:
    if value in ("tab", "space", "whitespace") or (len(value) == 1 and value.isprintable() and value != " "):
        return value
    hint = " (in single quotes it is two characters)" if value == "\\t" else ""
    raise ValueError(f'"{value}" is not tab, space, whitespace or one character{hint}. Write one of these names.')


Delimiter = Annotated[str, AfterValidator(_delimiter)]


class ColumnSpec(WordSpec):
    """A task in columns, a word a line."""

    columns: Columns | None = None
    delimiter: Delimiter = "whitespace"
    comment_prefix: str | None = None
    docstart: str | None = None

    @property
    def has_documents(self) -> bool:
        """See the base class."""
        return bool(self.docstart)


class ConllSpec(TaggedSpec, ColumnSpec):
    """A task in columns with a tag in one of them."""

    format: Literal["conll"] = "conll"

    def _problems(self) -> dict[str, str]:
        columns = self.columns
        if columns is None or columns.word is None:
            example = "{word: 0, tag: -1} (counted from 0; -1 is the last)"
            return super()._problems() | {"columns": f"is required, for example columns: {example}."}
        problems = super()._problems() | _tag_problems(columns, self.format)
        if isinstance(columns.tag, str):
            problems["columns.tag"] = f'"{columns.tag}" is not a column number.'
        elif columns.tag == columns.word:
            problems["columns.tag"] = "is the column of the word too. Give the column of the tag."
        return problems


class ConlluSpec(TaggedSpec):
    """A task in CoNLL-U."""

    format: Literal["conllu"]
    columns: Columns | None = None

    def _problems(self) -> dict[str, str]:
        columns = self.columns
        if columns is None:
            return super()._problems() | {"columns": "is required, for example columns: {tag: upos}."}
        problems = super()._problems() | _tag_problems(columns, self.format)
        if isinstance(columns.tag, str) and columns.tag not in CONLLU_COLUMNS:
            problems["columns.tag"] = f'"{columns.tag}" is not a column number nor one of {", ".join(CONLLU_COLUMNS)}.'
        if columns.word is not None:
            problems["columns.word"] = "in CoNLL-U the word is always FORM. Remove it."
        return problems


def _tag_problems(columns: Columns, form: str) -> dict[str, str]:
    """Columns of arguments where tags are read, or no column of tags."""
    foreign = [name for name in ("predicate", "arguments", "trailing") if name in columns.model_fields_set]
    problems = {f"columns.{name}": f"has no meaning in format {form}. Remove it." for name in foreign}
    required = {"columns.tag": "is required: the column of the tag."}
    return problems | (required if columns.tag is None else {})


class PropsSpec(PredicateSpec, ColumnSpec):
    """A task in columns with one of brackets for each predicate."""

    format: Literal["props"]

    def _problems(self) -> dict[str, str]:
        problems = super()._problems()
        columns = self.columns
        if columns is None or columns.word is None or columns.predicate is None or columns.arguments is None:
            example = "{word: 1, predicate: 4, arguments: 6} (counted from 0; arguments is the first column of them)"
            return problems | {"columns": f"is required, for example columns: {example}."}
        if columns.tag is not None:
            problems["columns.tag"] = "has no meaning in format props. Remove it."
        for name, column in (("word", columns.word), ("predicate", columns.predicate)):
            if not 0 <= column < columns.arguments:
                problems[f"columns.{name}"] = "must stand before the arguments, counted from 0."
        return problems


class JsonlSpec(TaggedSpec, PredicateSpec, TextSpec):
    """A task in JSON lines: words and tags, texts, or questions with choices."""

    format: Literal["jsonl"]
    fields: Fields = Field(default_factory=Fields)
    each: Each | None = None
    questions: dict[str, str] = Field(default_factory=dict)

    def layout(self, name: str | None = None) -> SourceFormat | TextSource:
        """See the base class."""
        words = self.kind.unit == "words"
        return super().layout() if words else self._texts(each=self.each, questions=self.questions)

    def _problems(self) -> dict[str, str]:
        problems = super()._problems()
        label = str(self.fields.label)
        if self.each is not None and (not label.startswith(f"{self.each}.") or label == f"{self.each}."):
            told = f"is in no item of each. Write {self.each}.label, if it is called label."
            problems["fields.label"] = f'"{label}" {told}'
        if self.questions and self.fields.question is None:
            problems["questions"] = "needs fields.question, the field whose value they stand for."
        return problems


class OffsetsSpec(WordSpec):
    """A task in JSON lines with text and character spans."""

    format: Literal["jsonl_spans"]
    fields: Fields = Field(default_factory=Fields)


class ParquetSpec(TaggedSpec):
    """A task in Parquet."""

    format: Literal["parquet"]
    fields: Fields = Field(default_factory=Fields)


class SlotsSpec(WordSpec):
    """A task in the documents of slot filling."""

    format: Literal["snips", "rasa"]


class LinesSpec(TextSpec):
    """A task of plain lines, whose label is that of their file."""

    format: Literal["text"]
    label_of: dict[str, str] = Field(default_factory=dict)

    def layout(self, name: str | None = None) -> TextSource:
        """See the base class."""
        labels = [label for entry, label in self.label_of.items() if name is not None and fnmatchcase(name, entry)]
        if name is not None and not labels:
            raise DataError(f"no label for this file. Add label_of.{name} to the manifest")
        return self._texts(label=labels[0] if labels else None)

    def _problems(self) -> dict[str, str]:
        problems = super()._problems() | unnamed_files(self, "label_of")
        if not self.label_of:
            problems["label_of"] = "is required: a file of plain lines has one label, such as {reviews.pos: positive}."
        return problems


class HubSpec(TaggedSpec):
    """A task of a data set of the Hub, whose rows hold what those of JSON lines do."""

    format: Literal["hub"]
    fields: Fields = Field(default_factory=Fields)


class CsvSpec(TextSpec):
    """A task in CSV."""

    format: Literal["csv"]
    fields: Fields = Field(default_factory=Fields)
    quoted: bool = True
    delimiter: Delimiter = "whitespace"  # stands for a comma

    def layout(self, name: str | None = None) -> TextSource:
        """See the base class."""
        delimiter = "," if self.delimiter == "whitespace" else self.delimiter
        return self._texts(delimiter=delimiter, quoted=self.quoted)

    def _problems(self) -> dict[str, str]:
        wrong = {"delimiter": "a CSV file is separated by tab or one character, such as ','."}
        return super()._problems() | (wrong if self.delimiter == "space" else {})


class SquadSpec(QaSpec):
    """A task in SQuAD's documents."""

    format: Literal["squad"]
    no_answer: bool = False
    no_answer_above: Annotated[float, Field(allow_inf_nan=False)] = 0.0

    @property
    def no_answer_limit(self) -> float | None:
        """See the base class."""
        return self.no_answer_above if self.no_answer else None

    def _problems(self) -> dict[str, str]:
        wrong = {"no_answer_above": "needs no_answer: true, for questions that may have no answer. Set it too."}
        alone = "no_answer_above" in self.model_fields_set and not self.no_answer
        return super()._problems() | (wrong if alone else {})


class RecordSpec(QaSpec):
    """A task in ReCoRD's lines."""

    format: Literal["record"]


_WithTags: TypeAlias = ConllSpec | ConlluSpec | PropsSpec | JsonlSpec | OffsetsSpec | ParquetSpec | SlotsSpec
_Others: TypeAlias = LinesSpec | HubSpec | CsvSpec | SquadSpec | RecordSpec
AnySpec: TypeAlias = Annotated[_WithTags | _Others, Field(discriminator="format")]
"""The class of a task, told by its format."""

DEFAULT_FORMAT = "conll"
SPECS: Mapping[str, type[TaskSpec]] = {
    form: spec for spec in get_args(get_args(AnySpec)[0]) for form in get_args(spec.model_fields["format"].annotation)
}
"""The class of each format."""

_ADAPTER: TypeAdapter[TaskSpec] = TypeAdapter(AnySpec)
_HELD: Mapping[str, Callable[[Family], bool]] = {
    **FAMILY_FIELDS,
    "questions": lambda kind: kind.unit == "choices",
    "each": lambda kind: kind.unit in ("text", "choices"),
    "columns": lambda kind: kind.unit == "words",
    "no_answer": lambda kind: kind.unit == "passage",
    "no_answer_above": lambda kind: kind.unit == "passage",
}


def task_spec(declared: Mapping[str, Any]) -> TaskSpec:
    """Return a task as JSON declares it: in a checkpoint, or by a program.

    Raises:
        pydantic.ValidationError: It is none.
    """
    return _ADAPTER.validate_json(json.dumps({"format": DEFAULT_FORMAT, **declared}))


def nonsense(field: str, family: FamilyName, form: str) -> str | None:
    """Why a field of a task says nothing in its family and format; None where it does, or where these do not fit."""
    kind, holds = FAMILIES[family], _HELD.get(field)
    lacks = field not in SPECS[form].model_fields
    if lacks and field not in FAMILY_FIELDS and field != "questions":
        return f"has no meaning in format {form}. Remove it."
    if holds is not None and not holds(kind):
        return f"has no meaning in family {family}. Remove it."
    if lacks and field == "scheme" and form in SPAN_FORMATS and kind.spans:
        return f"format {form} holds spans, not tags. Remove scheme."
    return None
