"""What a manifest may say about any task: where its data lie, and what training does with it.

Nothing is sniffed. The format, the columns and the tag scheme of every task are declared and verified against the data
when it is read. Each format has a class of its own in `mpt.data.manifest.format_specs`, with the fields that say
something there; what families have in common is in `mpt.data.manifest.family_specs`.
"""

import codecs
import re
from fnmatch import fnmatchcase
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, PositiveFloat, PositiveInt, model_serializer, model_validator
from pydantic import SerializerFunctionWrapHandler as Handler

from mpt.base.strict_yaml import FieldErrors, Settings
from mpt.data.families.family import FAMILIES, Family, FamilyName, Metric
from mpt.data.formats.layouts import Layout
from mpt.data.manifest.source_spec import Files, HubSource
from mpt.data.tags import Scheme

Split = Literal["train", "dev", "test"]
SPLITS: tuple[Split, ...] = ("train", "dev", "test")

ORDER = (
    *("family", "files", "hub", "dev_fraction", "test_fraction", "dev_by", "format", "columns", "fields", "each"),
    *("quoted", "label_of", "questions", "delimiter", "comment_prefix", "docstart", "encoding", "scheme", "labels"),
    *("label_map", "verbalizer", "template", "on_unseen_label", "repair", "predicate", "long", "no_piece", "stride"),
    *("max_question", "max_answer", "no_answer", "no_answer_above", "on_bad_answer", "max_examples", "streamed"),
    *("shots", "max_epochs", "rate", "loss_weight", "score", "positive", "enabled", "license", "citation", "sha256"),
)
"""Every field of every task, in the order in which digests and checkpoints have them."""


def _name(value: str) -> str:
    if not re.fullmatch(r"[a-z0-9][a-z0-9_.-]*", value):
        raise ValueError(f'"{value}" may only hold a-z 0-9 _ . - and starts with a letter or digit.')
    return value


def _task_name(value: str) -> str:
    if not re.fullmatch(r"[a-z0-9][a-z0-9_-]*", value):
        raise ValueError(f'task name "{value}" may only hold a-z 0-9 _ -; it names files and log keys.')
    return value


def _encoding(value: str) -> str:
    try:
        codec = None if value == "utf-8-surrogatepass" else codecs.lookup(value)
    except (LookupError, ValueError):
        raise ValueError(f'"{value}" is not an encoding that Python knows. Usual: utf-8, latin-1, cp1252.') from None
    if not getattr(codec, "_is_text_encoding", True):
        raise ValueError(f'"{value}" is not a text encoding. Usual: utf-8, latin-1, cp1252.')
    return value


Name = Annotated[str, AfterValidator(_name)]
TaskName = Annotated[str, AfterValidator(_task_name)]
Fraction = Annotated[float, Field(gt=0, le=0.5)]


class TaskSpec(Settings):
    """One task as the manifest declares it, defaults filled in: what every task has."""

    family: FamilyName
    files: Files | None = None
    hub: HubSource | None = None
    dev_fraction: Fraction | None = None
    test_fraction: Fraction | None = None
    dev_by: Literal["sentence", "document"] = "sentence"
    format: Any  # each class narrows it
    encoding: Annotated[str, AfterValidator(_encoding)] = "utf-8"
    long: Literal["window", "cut", "error"] | None = None
    max_examples: PositiveInt | None = None
    streamed: bool = False
    shots: tuple[PositiveInt, ...] = ()
    max_epochs: PositiveFloat | None = None
    rate: PositiveFloat | None = None
    loss_weight: PositiveFloat = 1.0
    score: Metric | None = None
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
        return "iob2" if self.kind.spans else "raw"

    @property
    def long_policy(self) -> str:
        """What happens to an example that does not fit: words and passages are windowed, whole texts cut."""
        return self.long or ("window" if self.kind.windowed else "cut")

    @property
    def cloze(self) -> str | None:
        """The template that texts are put into; None where no word stands for a label."""
        return None

    @property
    def counted_label(self) -> str | None:
        """The label whose F1 is the task's; None where no single label counts."""
        return getattr(self, "positive", None)

    @property
    def no_answer_limit(self) -> float | None:
        """By how much "" must score more to be an answer; None where every input has one."""
        return None

    @property
    def has_documents(self) -> bool:
        """Whether its files say where a document begins."""
        return False

    def layout(self, name: str | None = None) -> Layout:
        """How a file is laid out, for reading it and for writing predictions in the same form.

        The file is named relative to root; None stands for one whose gold is not read.

        Raises:
            DataError: The manifest does not tell what it must about that file.
        """
        raise NotImplementedError

    @model_serializer(mode="wrap")
    def _in_order(self, handler: Handler) -> dict[str, Any]:
        said = handler(self)
        return {name: said[name] for name in ORDER if name in said}

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        problems = self._problems()
        if problems:
            raise FieldErrors(problems)
        return self

    def _problems(self) -> dict[str, str]:
        """What its fields contradict, by field; every class adds its own."""
        return _source_problems(self) | _family_problems(self) | _stream_problems(self)


def _source_problems(spec: TaskSpec) -> dict[str, str]:
    problems: dict[str, str] = {}
    files, hub = spec.files, spec.hub
    if (files is None) == (hub is None):
        problems["files"] = "give either files or hub." if files is None else "files and hub exclude each other."
    if (hub is not None) != (spec.format == "hub"):
        problems["format"] = "format: hub and hub: {path, revision} belong together. Give both or neither."
    for split, fraction in (("test", spec.test_fraction), ("dev", spec.dev_fraction)):
        if fraction is not None and any(getattr(source, split) for source in (files, hub) if source):
            problems[f"{split}_fraction"] = f"a {split} split and {split}_fraction exclude each other. Keep one."
    if spec.dev_fraction is None and (files or hub) and not ((files and files.dev) or (hub and hub.dev)):
        told = "no dev split: give one, or dev_fraction (for example 0.1). mpt never takes one from train unasked."
        problems["files.dev" if files else "hub.dev"] = told
    taken = spec.dev_fraction is not None or spec.test_fraction is not None
    if spec.dev_by == "document" and not (taken and spec.has_documents):
        problems["dev_by"] = (
            "document needs dev_fraction or test_fraction, and docstart (the mark that starts a document), "
            "fields.document (the field that names it) or each (whose lines are documents)."
        )
    if spec.sha256 and files is None:
        problems["sha256"] = "hashes belong to files; a hub source is pinned by its revision."
    for file, digest in spec.sha256.items():
        if not re.fullmatch(r"[0-9a-f]{64}", digest):
            problems[f"sha256.{file}"] = f'"{digest}" is not a SHA-256 (64 hex digits in lower case).'
    return unnamed_files(spec, "sha256") | problems


def unnamed_files(spec: TaskSpec, field: str) -> dict[str, str]:
    """What is wrong with a field by file: files that no split names."""
    files = spec.files
    return {
        f"{field}.{file}": "no split of this task names that file. Correct or remove the entry."
        for file in getattr(spec, field)
        if files and not any(fnmatchcase(file, entry) for entry in files.entries())
    }


def _family_problems(spec: TaskSpec) -> dict[str, str]:
    kind = spec.kind
    problems: dict[str, str] = {}
    if spec.format not in kind.formats:
        problems["format"] = f"family {spec.family} is read from {', '.join(kind.formats)}, not from {spec.format}."
    if spec.score is not None and spec.score not in kind.metrics:
        problems["score"] = f"family {spec.family} is scored by {' or '.join(kind.metrics)}, not by {spec.score}."
    wrong, instead = ("cut", "window") if kind.windowed else ("window", "cut")
    if spec.long == wrong:
        problems["long"] = f"{wrong} has no meaning in family {spec.family}. Use {instead} or error."
    return problems


def _stream_problems(spec: TaskSpec) -> dict[str, str]:
    if not spec.streamed:
        return {}
    problems = {} if spec.files else {"streamed": "needs files: each file of files.train is read by itself."}
    for field in ("dev_fraction", "test_fraction", "max_examples"):
        if getattr(spec, field) is not None:
            problems[field] = "a streamed task is never held whole, so nothing can be taken out of it. Give files."
    return problems


class Mixture(Settings):
    """How often each task is drawn."""

    strategy: Literal["proportional", "temperature", "uniform", "explicit"] = "temperature"
    temperature: Annotated[float, Field(ge=1)] = 2.0
    max_epochs_per_task: PositiveFloat | None = 80.0
    tasks_per_step: PositiveInt | None = None
