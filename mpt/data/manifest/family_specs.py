"""What a manifest may say about tasks of a family, whatever their format: what the classes of formats are made of."""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from pydantic import Field, PositiveInt

from mpt.base.errors import did_you_mean
from mpt.data.families.family import Family
from mpt.data.formats.questions import QaSource
from mpt.data.formats.source import SourceFormat
from mpt.data.formats.text_files import TextSource
from mpt.data.manifest.source_spec import Columns, Fields
from mpt.data.manifest.task_spec import TaskSpec
from mpt.data.manifest.template import default_template, template_problem, verbalizer_problem
from mpt.data.tags import Repair, Scheme

PredicateMark = Literal["suffix", "segment"]


class LabelledSpec(TaskSpec):
    """A task whose examples carry names out of a list of labels."""

    labels: tuple[str, ...] | Literal["auto"] = "auto"
    label_map: dict[str, str | None] = Field(default_factory=dict)
    on_unseen_label: Literal["error", "map_to_o", "drop_sentence"] = "error"

    @property
    def listed_labels(self) -> tuple[str, ...] | None:
        """Labels as declared; None where they come from train."""
        return None if self.labels == "auto" else self.labels

    def _problems(self) -> dict[str, str]:
        problems: dict[str, str] = {}
        raw = not self.kind.spans
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
        if self.kind.predicate and ("V" in self.label_map or "V" in self.label_map.values()):
            problems["label_map"] = "V marks the predicate, which is no argument. Leave it as it is."
        if "" in labels or "" in self.label_map or "" in self.label_map.values():
            problems.setdefault("labels", "a label cannot be empty. null maps a type to O.")
        if self.streamed and self.kind.labelled and self.listed_labels is None:
            problems["labels"] = "list them: mpt does not read all of a streamed task to find its labels."
        return super()._problems() | problems


class WordSpec(LabelledSpec):
    """A task whose words have tags."""

    repair: Repair = "error"
    no_piece: Literal["unknown", "error"] = "unknown"

    def layout(self, name: str | None = None) -> SourceFormat | TextSource:
        """See the base class; what a format has no field for stays at its default."""
        columns: Columns = getattr(self, "columns", None) or Columns()
        fields: Fields = getattr(self, "fields", Fields())
        said: dict[str, Any] = {"format": "jsonl" if self.format == "hub" else self.format, "scheme": self.tag_scheme}
        same = ("encoding", "repair", "delimiter", "comment_prefix", "docstart")
        said |= {field: getattr(self, field) for field in same if hasattr(self, field)}
        said |= {"word_column": columns.word or 0, "tag_column": columns.tag, "trailing_columns": columns.trailing}
        said |= {"predicate_column": columns.predicate or 0, "argument_column": columns.arguments}
        said |= {"words_field": fields.tokens, "tags_field": fields.tags, "spans_field": fields.spans}
        asked = fields.predicate if self.kind.predicate and self.format == "jsonl" else None
        return SourceFormat(**said, text_field=str(fields.text), predicate_field=asked)


class TaggedSpec(WordSpec):
    """A task whose words have tags in its files, not spans by brackets or offsets."""

    scheme: Scheme | None = None

    @property
    def tag_scheme(self) -> Scheme:
        """See the base class; here it is declared."""
        return (self.scheme or "iob2") if self.kind.spans else "raw"

    def _problems(self) -> dict[str, str]:
        problems = super()._problems()
        kind, scheme = self.kind, self.scheme
        if kind.unit == "words" and not kind.spans and scheme not in (None, "raw"):
            problems["scheme"] = f"family {self.family} has a tag for every word: scheme raw, or leave it out."
        elif kind.spans and scheme == "raw":
            told = "is scored by span F1, which needs iob1, iob2, iobes, bilou or io."
            problems["scheme"] = f"family {self.family} {told}"
        elif kind.spans and scheme is None:
            problems["scheme"] = "is required: iob1, iob2, iobes, bilou or io. mpt never guesses it."
        return problems


class PredicateSpec(WordSpec):
    """A task whose tags may be about a predicate."""

    predicate: PredicateMark = "suffix"


class TextSpec(LabelledSpec):
    """A task of whole texts with a label each."""

    verbalizer: dict[str, str] = Field(default_factory=dict)
    template: str | None = None
    positive: str | None = None

    @property
    def listed_labels(self) -> tuple[str, ...] | None:
        """Labels as declared, in a list or with a word each; None where they come from train."""
        return self.labels if self.labels != "auto" else tuple(self.verbalizer) or None

    @property
    def cloze(self) -> str | None:
        """The template that texts are put into; None where no word stands for a label."""
        return (self.template or default_template(pair=self._paired)) if self.verbalizer else None

    @property
    def has_documents(self) -> bool:
        """A field names them, or a line of several examples is one."""
        return self._named.document is not None or getattr(self, "each", None) is not None

    @property
    def _named(self) -> Fields:
        return getattr(self, "fields", Fields())

    @property
    def _paired(self) -> bool:
        return self._named.pair is not None

    def _texts(self, **layout: Any) -> TextSource:
        """The layout of texts; a class adds what it alone declares."""
        return TextSource(format=self.format, unit=self.kind.unit, fields=self._named, encoding=self.encoding, **layout)

    def _problems(self) -> dict[str, str]:
        problems = super()._problems()
        return problems | self._positive_problems() | self._cloze_problems() if self.kind.unit == "text" else problems

    def _positive_problems(self) -> dict[str, str]:
        if self.positive is None:
            missing = 'is required with score: f1: the label whose F1 counts, such as positive: "1".'
            return {"positive": missing} if self.score == "f1" else {}
        if self.score != "f1":
            return {"positive": "is the label that score: f1 counts. Set that too, or remove positive."}
        labels = self.listed_labels
        return {} if labels is None or self.positive in labels else {"positive": not_a_label(self.positive, labels)}

    def _cloze_problems(self) -> dict[str, str]:
        problems: dict[str, str | None] = {}
        labels = None if self.labels == "auto" else self.labels
        if self.verbalizer:
            problems["verbalizer"] = verbalizer_problem(self.verbalizer, labels)
        elif "verbalizer" in self.model_fields_set:
            problems["verbalizer"] = "is empty. Remove it."
        elif self.template is not None:
            told = "needs verbalizer, the word that stands for each label. Add it, or remove template."
            return {"template": told}
        if self.template is not None:
            problems["template"] = template_problem(self.template, pair=self._paired)
        return {field: problem for field, problem in problems.items() if problem is not None}


class QaSpec(TaskSpec):
    """A task of questions whose answers are parts of passages."""

    stride: PositiveInt = 128
    max_question: PositiveInt = 64
    max_answer: PositiveInt = 30
    on_bad_answer: Literal["error", "drop"] = "error"

    @property
    def has_documents(self) -> bool:
        """Articles, or lines, are documents."""
        return True

    def layout(self, name: str | None = None) -> QaSource:
        """See the base class."""
        may_lack, bad = self.no_answer_limit is not None, self.on_bad_answer
        return QaSource(format=self.format, encoding=self.encoding, no_answer=may_lack, on_bad_answer=bad)


FAMILY_FIELDS: Mapping[str, Callable[[Family], bool]] = {
    field: holds
    for spec, holds in (
        (LabelledSpec, lambda kind: kind.labelled),
        (WordSpec, lambda kind: kind.unit == "words"),
        (TaggedSpec, lambda kind: kind.unit == "words"),
        (PredicateSpec, lambda kind: kind.predicate),
        (TextSpec, lambda kind: kind.unit == "text"),
        (QaSpec, lambda kind: kind.unit == "passage"),
    )
    for field in spec.__annotations__
}
"""Which families a field says something in, where that is not all of them."""


def not_a_label(positive: str, labels: Sequence[str]) -> str:
    """Say that `f1` cannot count a label that the task does not have."""
    hint = did_you_mean(positive, labels) or " Correct it."
    return f'"{positive}" is not one of the {len(labels)} labels: {", ".join(labels)}.{hint}'
