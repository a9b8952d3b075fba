"""Tasks as training and evaluation see them: examples by split and the list of labels to score.

Loading a task reads its files, verifies their hashes, renames and checks labels, takes a dev split where one is
declared to come out of train, and says what it did in notices.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from mpt.base.errors import DataError, every, placed
from mpt.data.example import Example
from mpt.data.formats.layouts import read_file
from mpt.data.formats.source import SourceFormat
from mpt.data.formats.tables import read_hub
from mpt.data.labels import Examples, label_kinds, rename_labels, settle_unseen
from mpt.data.manifest.family_specs import LabelledSpec
from mpt.data.manifest.files import find_files, verify_digests
from mpt.data.manifest.format_specs import ColumnSpec, HubSpec
from mpt.data.manifest.reading import Manifest
from mpt.data.manifest.task_spec import SPLITS, Split, TaskSpec
from mpt.data.splits import sample_sentences, split_dev


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """One data set with one label set.

    Attributes:
        name: Its name in the manifest.
        spec: The declaration.
        labels: The tags that its head scores. For spans O, then B- and I- of each type (BIO2), else the tags
            themselves; in declared order, or in the order of first occurrence in train.
        digests: SHA-256 of every file that was read, by path relative to root. Empty for data of the Hub, which the
            manifest pins.
        splits: Examples of the splits that were asked for; none in a task that is kept as word pieces.
    """

    name: str
    spec: TaskSpec
    labels: tuple[str, ...]
    digests: Mapping[str, str]
    splits: Mapping[Split, tuple[Example, ...]] = field(default_factory=dict)


def load_tasks(
    manifest: Manifest, *, names: Sequence[str] | None = None, splits: Sequence[Split] = ("train", "dev")
) -> tuple[list[Task], list[str]]:
    """Tasks of a manifest (None: all that are enabled), and what a user should know of them, in the manifest's order.

    A test split that a task does not declare is left out of that task.

    Raises:
        MptError: With the problems of all tasks and all files.
    """
    loaded = every(lambda name: load_task(manifest, name, splits=splits), chosen_names(manifest, names))
    return [task for task, _ in loaded], [notice for _, said in loaded for notice in said]


def load_task(manifest: Manifest, name: str, *, splits: Sequence[Split] = ("train", "dev")) -> tuple[Task, list[str]]:
    """Load one task; see `load_tasks`. Train is always read, since labels may come from it."""
    spec = manifest.spec(name)
    files, digests = task_files(manifest, name, splits)
    examples, notices = _read(spec, files, _to_read(spec, splits))
    notices += _unmet_marks(examples, spec)
    notices += _drop_unasked(examples, spec)
    labels = spec.kind.columns
    if isinstance(spec, LabelledSpec) and spec.kind.labelled:
        notices += rename_labels(examples, spec)
        kinds = label_kinds(manifest, name, examples["train"])
        notices += settle_unseen(manifest, name, examples, kinds)
        labels = spec.kind.tags(kinds)
    notices += _take(examples, spec, "test", spec.test_fraction)
    notices += _take(examples, spec, "dev", spec.dev_fraction)
    notices += _limit_train(examples, spec)
    empty = [split for split in splits if split in examples and not examples[split]]
    if empty:
        raise DataError(f"{manifest.locate('tasks', name)}: no {spec.kind.noun} is left in {', '.join(empty)}.")
    wanted: dict[Split, tuple[Example, ...]] = {
        split: tuple(examples[split]) for split in SPLITS if split in splits and split in examples
    }
    task = Task(name=name, spec=spec, labels=labels, digests=digests, splits=wanted)
    return task, [f"{name}: {notice}" for notice in notices]


def task_files(
    manifest: Manifest, name: str, splits: Sequence[Split]
) -> tuple[dict[Split, dict[str, Path]], dict[str, str]]:
    """Files of some splits of a task, and the SHA-256 of every file, by path below root; nothing for data of the Hub.

    Raises:
        MptError: A file is not there, or is not what the manifest says.
    """
    spec = manifest.spec(name)
    if spec.hub is not None:
        return {}, {}
    files = find_files(manifest, name, _to_read(spec, splits))
    return files, verify_digests(manifest, name, files)


def chosen_names(manifest: Manifest, names: Sequence[str] | None) -> list[str]:
    """Names of tasks in the order of the manifest; None is all that are enabled.

    Raises:
        ManifestError: With all names that are no tasks.
    """
    if names is None:
        return list(manifest.tasks)
    every(manifest.spec, names)
    return [name for name in manifest.tasks if name in names]


def _to_read(spec: TaskSpec, splits: Sequence[Split]) -> list[Split]:
    """Train, and those of the wanted splits that have a source of their own."""
    source = spec.files or spec.hub
    return [split for split in SPLITS if split == "train" or (split in splits and getattr(source, split))]


def _read(
    spec: TaskSpec, files: Mapping[Split, Mapping[str, Path]], splits: Sequence[Split]
) -> tuple[Examples, list[str]]:
    """Examples of each split, and notices."""
    if isinstance(spec, HubSpec) and spec.hub is not None:
        layout = spec.layout()
        assert isinstance(layout, SourceFormat), "rows of the Hub hold words"
        return {split: [*read_hub(spec.hub, split, layout)] for split in splits}, []
    places: list[tuple[Split, str, Path]] = [
        (split, name, path) for split, found in files.items() for name, path in found.items()
    ]
    examples: Examples = {split: [] for split in splits}
    read = every(lambda place: _read_file(spec, *place[1:]), places)
    for (split, _, _), (found, _) in zip(places, read, strict=True):
        examples[split] += found
    return examples, [notice for _, said in read for notice in said]


def _read_file(spec: TaskSpec, name: str, path: Path) -> tuple[Sequence[Example], list[str]]:
    try:
        layout = spec.layout(name)
    except DataError as error:
        raise placed(error, str(path)) from None
    return read_file(path, layout)


def _unmet_marks(sentences: Examples, spec: TaskSpec) -> list[str]:
    if not isinstance(spec, ColumnSpec) or spec.docstart is None:
        return []
    unmet = [split for split, them in sentences.items() if not any(sentence.document for sentence in them)]
    return [f'docstart "{spec.docstart}" does not occur in {", ".join(unmet)}.'] if unmet else []


def _drop_unasked(examples: Examples, spec: TaskSpec) -> list[str]:
    """Leave out examples that ask nothing: sentences in which no word is marked as the predicate."""
    asks, mute = spec.kind.asks, dict[Split, int]()
    for split, them in examples.items():
        examples[split] = [it for it in them if asks(it)]
        mute[split] = len(them) - len(examples[split])
    told = ", ".join(f"{count:,} of {split}" for split, count in mute.items())
    return [f"sentences without a predicate, which give no example: {told}."] if any(mute.values()) else []


def _take(examples: Examples, spec: TaskSpec, split: Split, fraction: float | None) -> list[str]:
    """Take a split out of train that has no source of its own."""
    if fraction is None:
        return []
    by_document = spec.dev_by == "document"
    examples["train"], examples[split] = split_dev(examples["train"], fraction, by_document=by_document)
    taken, train = len(examples[split]), len(examples["train"])
    share = taken / (taken + train)
    by = "document" if by_document else spec.kind.source_noun
    return [f"{split} is {taken:,} {spec.kind.noun}s ({share:.1%}) taken out of train by {by}; train keeps {train:,}."]


def _limit_train(sentences: Examples, spec: TaskSpec) -> list[str]:
    count = len(sentences["train"])
    if spec.max_examples is None:
        return []
    if spec.max_examples >= count:
        return [f"max_examples {spec.max_examples} leaves train as it is: it has {count:,} {spec.kind.noun}s."]
    sentences["train"] = sample_sentences(sentences["train"], spec.max_examples, seed=0)
    return [f"train is a sample of {spec.max_examples:,} of {count:,} {spec.kind.noun}s (max_examples)."]
