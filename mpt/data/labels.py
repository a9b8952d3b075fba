"""Labels of a task: renamed, listed, and every split held to the list."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from mpt.base.errors import DataError
from mpt.data.example import Example
from mpt.data.manifest.family_specs import LabelledSpec, not_a_label
from mpt.data.manifest.reading import Manifest
from mpt.data.manifest.task_spec import Split, TaskSpec

MAX_LISTED = 20  # labels of a split that are named in full

Examples = dict[Split, list[Example]]
_Found = tuple[str, Example, int]  # a label, the sentence it is in, the number of the word


def rename_labels(sentences: Examples, spec: LabelledSpec) -> list[str]:
    """Apply `label_map` to all splits, in place; report names that occur nowhere, which are most likely misspelt."""
    if not spec.label_map:
        return []
    met: set[str] = set()
    for split in sentences:
        met.update(kind for kind, _, _ in _labels(sentences[split], spec))
        sentences[split] = [_relabelled(it, spec.label_map, spec) for it in sentences[split]]
    unmet = [old for old in spec.label_map if old not in met]
    return [f"label_map renames {', '.join(unmet)}, which occurs in none of {', '.join(sentences)}."] if unmet else []


def label_kinds(manifest: Manifest, name: str, train: Sequence[Example]) -> list[str]:
    """Return a task's labels: as declared, or in the order of first occurrence in train.

    Raises:
        DataError: Labels are `auto`, and train has none or not the one that `f1` counts.
    """
    spec = _labelled(manifest, name)
    if spec.listed_labels is not None:
        return list(spec.listed_labels)
    kinds = list(dict.fromkeys(kind for kind, _, _ in _labels(train, spec)))
    if not kinds:
        told = "no word of train has a label other than O. Are columns and label_map right?"
        raise DataError(f"{manifest.locate('tasks', name)}: {told}")
    if spec.counted_label is not None and spec.counted_label not in kinds:
        raise DataError(f"{manifest.locate('tasks', name, 'positive')}: {not_a_label(spec.counted_label, kinds)}")
    return kinds


def settle_unseen(manifest: Manifest, name: str, sentences: Examples, kinds: Sequence[str]) -> list[str]:
    """Treat labels that are not in the task's list as `on_unseen_label` says.

    Splits are changed in place, given the task's labels; what was dropped or set to O is returned.

    Raises:
        DataError: The manifest wants an error; lists every unseen label with its first place and the line to paste.
    """
    spec = _labelled(manifest, name)
    listed = set(kinds)
    unseen: dict[Split, list[_Found]] = {
        split: [found for found in _labels(them, spec) if found[0] not in listed] for split, them in sentences.items()
    }
    if spec.on_unseen_label == "error" and any(unseen.values()):
        raise DataError(_unseen_problems(manifest, name, unseen, kinds))
    notices: list[str] = []
    for split, found in unseen.items():
        hit, gone = {id(sentence) for _, sentence, _ in found}, dict.fromkeys(label for label, *_ in found)
        if not hit:
            continue
        if spec.on_unseen_label == "drop_sentence":
            sentences[split] = [it for it in sentences[split] if id(it) not in hit]
            done = f"sentences dropped from {split}: {len(hit):,}"
        else:
            sentences[split] = [_relabelled(it, gone, spec) if id(it) in hit else it for it in sentences[split]]
            done = f"words of {split} set to O: {len(found):,}"
        notices.append(f"{done}, for labels that are not listed: {', '.join(gone)}.")
    return notices


def _labelled(manifest: Manifest, name: str) -> LabelledSpec:
    spec = manifest.spec(name)
    assert isinstance(spec, LabelledSpec), "asked of tasks with labels"
    return spec


def _tags(sentence: Example) -> tuple[str, ...]:
    assert sentence.tags is not None, f"{sentence.where}: a task's sentences have tags"
    return sentence.tags


def _labels(sentences: Sequence[Example], spec: TaskSpec) -> Iterator[_Found]:
    """Yield the label of every word that has one, with its sentence and the word's number in it."""
    label_of = spec.kind.label_of
    for sentence in sentences:
        for index, tag in enumerate(_tags(sentence)):
            if (label := label_of(tag)) is not None:
                yield label, sentence, index


def _relabelled(sentence: Example, new: Mapping[str, str | None], spec: TaskSpec) -> Example:
    """The sentence with other labels for those in a map; None takes a label away."""
    family = spec.kind
    labels = ((tag, family.label_of(tag)) for tag in _tags(sentence))
    tags = (tag if label is None or label not in new else family.relabelled(tag, new[label]) for tag, label in labels)
    return replace(sentence, tags=tuple(tags))


def _unseen_problems(
    manifest: Manifest, name: str, unseen: Mapping[Split, Sequence[_Found]], kinds: Sequence[str]
) -> list[str]:
    """One message for each label and split, then the line that would admit them all."""
    spec = _labelled(manifest, name)
    source = "train has" if spec.listed_labels is None else "the manifest lists"
    problems: list[str] = []
    for split, found in unseen.items():
        counts = Counter(kind for kind, _, _ in found)
        first = {kind: (sentence, index) for kind, sentence, index in reversed(found)}
        for kind in list(counts)[:MAX_LISTED]:
            sentence, index = first[kind]
            problems.append(
                f'{sentence.path}:{sentence.lines[index]}: label "{kind}" ({counts[kind]}x in {split}, first here)'
                f" is not among the {len(kinds)} that {source}."
            )
        if len(counts) > MAX_LISTED:
            problems.append(f"{name}: ... and {len(counts) - MAX_LISTED} more labels of {split}.")
    new = dict.fromkeys(kind for found in unseen.values() for kind, _, _ in found)
    every = ", ".join(_yaml_text(kind) for kind in (*kinds, *new))
    field, remedy = "labels", f"to keep them write labels: [{every}]"
    if spec.cloze is not None:
        field, remedy = "verbalizer", "to keep them give each a word"
    where = manifest.locate("tasks", name, field)
    problems.append(f"{where}: {remedy}; or use label_map, or set on_unseen_label.")
    return problems


def _yaml_text(label: str) -> str:
    return label if label.replace("-", "").replace("_", "").isalpha() else f'"{label}"'
