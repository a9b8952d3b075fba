"""What a manifest may say about a task and about the mixture: fields, defaults and their contradictions.

Nothing is sniffed. The format, the columns and the tag scheme of every task are declared here and verified against the
data when it is read.
"""

import codecs
import re
from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, PositiveFloat, PositiveInt, field_validator, model_validator

from mpt.base.errors import did_you_mean
from mpt.base.strict_yaml import FieldErrors, Settings
from mpt.data.families.family import FAMILIES, Family, FamilyName, Metric
from mpt.data.formats.columns import CONLLU_COLUMNS
from mpt.data.formats.source import SPAN_FORMATS, Format
from mpt.data.manifest.meaning import FORMATS_OF_FIELD, has_meaning
from mpt.data.manifest.source_spec import Columns, Each, Fields, Files, HubSource
from mpt.data.manifest.template import default_template, template_problem, verbalizer_problem
from mpt.data.tags import Repair, Scheme

Split = Literal["train", "dev", "test"]
PredicateMark = Literal["suffix", "segment"]
SPLITS: tuple[Split, ...] = ("train", "dev", "test")


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


class TaskSpec(Settings):
    """One task as the manifest declares it, defaults filled in."""

    family: FamilyName
    files: Files | None = None
    hub: HubSource | None = None
    dev_fraction: Annotated[float, Field(gt=0, le=0.5)] | None = None
    test_fraction: Annotated[float, Field(gt=0, le=0.5)] | None = None
    dev_by: Literal["sentence", "document"] = "sentence"
    format: Literal[Format, "hub", "csv", "squad", "record"] = "conll"
    columns: Columns | None = None
    fields: Fields = Field(default_factory=Fields)
    each: Each | None = None
    quoted: bool = True
    label_of: dict[str, str] = Field(default_factory=dict)
    questions: dict[str, str] = Field(default_factory=dict)
    delimiter: str = "whitespace"
    comment_prefix: str | None = None
    docstart: str | None = None
    encoding: str = "utf-8"
    scheme: Scheme | None = None
    labels: tuple[str, ...] | Literal["auto"] = "auto"
    label_map: dict[str, str | None] = Field(default_factory=dict)
    verbalizer: dict[str, str] = Field(default_factory=dict)
    template: str | None = None
    on_unseen_label: Literal["error", "map_to_o", "drop_sentence"] = "error"
    repair: Repair = "error"
    predicate: PredicateMark = "suffix"
    long: Literal["window", "cut", "error"] | None = None
    no_piece: Literal["unknown", "error"] = "unknown"
    stride: PositiveInt = 128
    max_question: PositiveInt = 64
    max_answer: PositiveInt = 30
    no_answer: bool = False
    no_answer_above: Annotated[float, Field(allow_inf_nan=False)] = 0.0
    on_bad_answer: Literal["error", "drop"] = "error"
    max_examples: PositiveInt | None = None
    streamed: bool = False
    shots: tuple[PositiveInt, ...] = ()
    max_epochs: PositiveFloat | None = None
    rate: PositiveFloat | None = None
    loss_weight: PositiveFloat = 1.0
    score: Metric | None = None
    positive: str | None = None
    enabled: bool = True
    license: str | None = None
    citation: str | None = None
    sha256: dict[str, str] = Field(default_factory=dict)

    @property
    def kind(self) -> Family:
        """What the task has in common with all of its family."""
        return FAMILIES[self.family]

    @property
    def metric(self) -> Metric:
        """The figure that judges it: as declared, else the family's own."""
        return self.score or self.kind.metrics[0]

    @property
    def tag_scheme(self) -> Scheme:
        """Scheme of the tags that a reader meets: `raw` where they are no spans, `iob2` for files that hold spans."""
        return (self.scheme or "iob2") if self.kind.spans else "raw"

    @property
    def listed_labels(self) -> tuple[str, ...] | None:
        """Labels as declared, in a list or with a word each; None where they come from train."""
        if self.labels != "auto":
            return self.labels
        return tuple(self.verbalizer) or None

    @property
    def cloze(self) -> str | None:
        """The template that texts are put into; None where no word stands for a label."""
        if not self.verbalizer:
            return None
        return self.template or default_template(pair=self._paired)

    @property
    def _paired(self) -> bool:
        return self.fields.pair is not None and self.format != "text"

    @property
    def long_policy(self) -> str:
        """What happens to an example that does not fit: words and passages are windowed, whole texts cut."""
        return self.long or ("window" if self.kind.windowed else "cut")

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
        problems = {
            **self._source_problems(),
            **self._format_problems(),
            **self._family_problems(),
            **self._label_problems(),
            **self._positive_problems(),
            **self._cloze_problems(),
            **self._stream_problems(),
        }
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
        if self.test_fraction is not None and ((self.files and self.files.test) or (self.hub and self.hub.test)):
            problems["test_fraction"] = "a test split and test_fraction exclude each other. Keep one."
        if has_dev and self.dev_fraction is not None:
            problems["dev_fraction"] = "a dev split and dev_fraction exclude each other. Keep one."
        if not has_dev and self.dev_fraction is None and (self.files or self.hub):
            problems["files.dev" if self.files else "hub.dev"] = (
                "no dev split: give one, or dev_fraction (for example 0.1). mpt never takes one from train unasked."
            )
        taken = self.dev_fraction is not None or self.test_fraction is not None
        documents = self.docstart or self.fields.document is not None or self.each or self.kind.unit == "passage"
        if self.dev_by == "document" and not (taken and documents):
            problems["dev_by"] = (
                "document needs dev_fraction or test_fraction, and docstart (the mark that starts a document), "
                "fields.document (the field that names it) or each (whose lines are documents)."
            )
        if self.sha256 and self.files is None:
            problems["sha256"] = "hashes belong to files; a hub source is pinned by its revision."
        for file, digest in self.sha256.items():
            if not re.fullmatch(r"[0-9a-f]{64}", digest):
                problems[f"sha256.{file}"] = f'"{digest}" is not a SHA-256 (64 hex digits in lower case).'
            elif self.files and not any(fnmatchcase(file, entry) for entry in self.files.entries()):
                problems[f"sha256.{file}"] = "no split of this task names that file. Correct or remove the entry."
        return problems

    def _stream_problems(self) -> dict[str, str]:
        """What needs all of train at once, of which a streamed task never has more than a file."""
        if not self.streamed:
            return {}
        problems = {}
        if self.files is None:
            problems["streamed"] = "needs files: each file of files.train is read by itself."
        if self.kind.labelled and self.listed_labels is None:
            problems["labels"] = "list them: mpt does not read all of a streamed task to find its labels."
        for field in ("dev_fraction", "test_fraction", "max_examples"):
            if getattr(self, field) is not None:
                problems[field] = "a streamed task is never held whole, so nothing can be taken out of it. Give files."
        return problems

    def _format_problems(self) -> dict[str, str]:
        problems = {}
        for field in self.model_fields_set:
            if not has_meaning(field, self.kind, self.format):
                formats = FORMATS_OF_FIELD.get(field, (self.format,))
                where = f"family {self.family}" if self.format in formats else f"format {self.format}"
                problems[field] = f"has no meaning in {where}. Remove it."
        if self.format in ("conll", "conllu"):
            problems |= self._column_problems()
        if self.format == "props":
            problems |= self._props_problems()
        if self.kind.unit == "words":
            problems |= self._scheme_problems()
        if self.format == "text" and not self.label_of:
            problems["label_of"] = "is required: a file of plain lines has one label, such as {reviews.pos: positive}."
        for file in self.label_of:
            if self.files and not any(fnmatchcase(file, entry) for entry in self.files.entries()):
                problems[f"label_of.{file}"] = "no split of this task names that file. Correct or remove the entry."
        if self.format == "csv" and self.delimiter == "space":
            problems["delimiter"] = "a CSV file is separated by tab or one character, such as ','."
        return problems

    def _cloze_problems(self) -> dict[str, str]:
        """What a verbalizer and its template contradict; a field without a meaning is told elsewhere."""
        if self.kind.unit != "text":
            return {}
        problems = {}
        if "verbalizer" in self.model_fields_set:
            labels = None if self.labels == "auto" else self.labels
            problem = verbalizer_problem(self.verbalizer, labels) if self.verbalizer else "is empty. Remove it."
            if problem is not None:
                problems["verbalizer"] = problem
        if self.template is not None:
            problem = template_problem(self.template, pair=self._paired)
            if "verbalizer" not in self.model_fields_set:
                problem = "needs verbalizer, the word that stands for each label. Add it, or remove template."
            if problem is not None:
                problems["template"] = problem
        return problems

    def _family_problems(self) -> dict[str, str]:
        """Values that have no meaning in this family."""
        kind = self.kind
        problems: dict[str, str] = {}
        if self.format not in kind.formats:
            problems["format"] = f"family {self.family} is read from {', '.join(kind.formats)}, not from {self.format}."
        if self.score is not None and self.score not in kind.metrics:
            problems["score"] = f"family {self.family} is scored by {' or '.join(kind.metrics)}, not by {self.score}."
        wrong = "cut" if kind.windowed else "window"
        if self.long == wrong:
            instead = "window" if wrong == "cut" else "cut"
            problems["long"] = f"{wrong} has no meaning in family {self.family}. Use {instead} or error."
        if kind.predicate and ("V" in self.label_map or "V" in self.label_map.values()):
            problems["label_map"] = "V marks the predicate, which is no argument. Leave it as it is."
        if self.format == "squad" and "no_answer_above" in self.model_fields_set and not self.no_answer:
            problems["no_answer_above"] = "needs no_answer: true, for questions that may have no answer. Set it too."
        label = str(self.fields.label)
        if self.each is not None and (not label.startswith(f"{self.each}.") or label == f"{self.each}."):
            problems["fields.label"] = (
                f'"{label}" is in no item of each. Write {self.each}.label, if it is called label.'
            )
        if kind.unit == "choices" and self.questions and self.fields.question is None:
            problems["questions"] = "needs fields.question, the field whose value they stand for."
        return problems

    def _scheme_problems(self) -> dict[str, str]:
        problems = {}
        if not self.kind.spans and self.scheme not in (None, "raw"):
            problems["scheme"] = f"family {self.family} has a tag for every word: scheme raw, or leave it out."
        elif self.kind.spans and self.scheme == "raw":
            problems["scheme"] = (
                f"family {self.family} is scored by span F1, which needs iob1, iob2, iobes, bilou or io."
            )
        elif self.kind.spans and self.format in SPAN_FORMATS and self.scheme is not None:
            problems["scheme"] = f"format {self.format} holds spans, not tags. Remove scheme."
        elif self.kind.spans and self.format not in SPAN_FORMATS and self.scheme is None:
            problems["scheme"] = "is required: iob1, iob2, iobes, bilou or io. mpt never guesses it."
        return problems

    def _column_problems(self) -> dict[str, str]:
        conllu = self.format == "conllu"
        if self.columns is None or (self.columns.word is None and not conllu):
            example = "{tag: upos}" if conllu else "{word: 0, tag: -1} (counted from 0; -1 is the last)"
            return {"columns": f"is required, for example columns: {example}."}
        problems = {
            f"columns.{name}": f"has no meaning in format {self.format}. Remove it."
            for name in ("predicate", "arguments", "trailing")
            if name in self.columns.model_fields_set
        }
        tag = self.columns.tag
        if tag is None:
            problems["columns.tag"] = "is required: the column of the tag."
        elif isinstance(tag, str) and not (conllu and tag in CONLLU_COLUMNS):
            names = f" nor one of {', '.join(CONLLU_COLUMNS)}" if conllu else ""
            problems["columns.tag"] = f'"{tag}" is not a column number{names}.'
        if conllu and self.columns.word is not None:
            problems["columns.word"] = "in CoNLL-U the word is always FORM. Remove it."
        elif tag == self.columns.word:
            problems["columns.tag"] = "is the column of the word too. Give the column of the tag."
        return problems

    def _props_problems(self) -> dict[str, str]:
        columns = self.columns
        if columns is None or columns.word is None or columns.predicate is None or columns.arguments is None:
            example = "{word: 1, predicate: 4, arguments: 6} (counted from 0; arguments is the first column of them)"
            return {"columns": f"is required, for example columns: {example}."}
        problems = {}
        if columns.tag is not None:
            problems["columns.tag"] = "has no meaning in format props. Remove it."
        if not 0 <= columns.word < columns.arguments:
            problems["columns.word"] = "must stand before the arguments, counted from 0."
        if not columns.predicate < columns.arguments:
            problems["columns.predicate"] = "must stand before the arguments, counted from 0."
        return problems

    def _label_problems(self) -> dict[str, str]:
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
        if "" in labels or "" in self.label_map or "" in self.label_map.values():
            problems.setdefault("labels", "a label cannot be empty. null maps a type to O.")
        return problems

    def _positive_problems(self) -> dict[str, str]:
        """What the label that `f1` counts contradicts; where labels come from train they are not known here."""
        if self.kind.unit != "text":
            return {}
        if self.positive is None:
            missing = 'is required with score: f1: the label whose F1 counts, such as positive: "1".'
            return {"positive": missing} if self.score == "f1" else {}
        if self.score != "f1":
            return {"positive": "is the label that score: f1 counts. Set that too, or remove positive."}
        labels = self.listed_labels
        return {} if labels is None or self.positive in labels else {"positive": not_a_label(self.positive, labels)}


def not_a_label(positive: str, labels: Sequence[str]) -> str:
    """Say that `f1` cannot count a label that the task does not have."""
    hint = did_you_mean(positive, labels) or " Correct it."
    return f'"{positive}" is not one of the {len(labels)} labels: {", ".join(labels)}.{hint}'


class Mixture(Settings):
    """How often each task is drawn."""

    strategy: Literal["proportional", "temperature", "uniform", "explicit"] = "temperature"
    temperature: Annotated[float, Field(ge=1)] = 2.0
    max_epochs_per_task: PositiveFloat | None = 80.0
    tasks_per_step: PositiveInt | None = None
