"""Sentences that occur where they should not: in train and in what a model is judged by, or many times over."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product

from mpt.data.example import Example, Sentence
from mpt.data.manifest.task_spec import Split
from mpt.data.splits import comparable
from mpt.data.tasks import Task

MIN_WORDS = 5  # shorter sentences ("Thank you very much") are equal by chance

_Key = tuple[str, ...]
_Index = dict[_Key, Example]


_Part = tuple[str, Split]  # a split of a task


@dataclass(frozen=True, slots=True, kw_only=True)
class Overlap:
    """Sentences of one split that occur in another one, too.

    Attributes:
        task, split: Where they are counted.
        other_task, other_split: What holds them, too. The same task and split: repetitions within it.
        count, of: How many sentences of `split` are concerned, and how many it has.
        first, other_first: `file:line` of the first of them, and of its counterpart.
    """

    task: str
    split: Split
    other_task: str
    other_split: Split
    count: int
    of: int
    first: str
    other_first: str


def find_overlaps(tasks: Sequence[Task]) -> list[Overlap]:
    """Compare every dev and test split with every train split, and dev with test and train with itself in each task.

    Case and words without a letter or digit are passed over; sentences of fewer than `MIN_WORDS` others are not
    compared. Overlaps of dev and test with train of the same task come first, then with train of other tasks, then
    those between dev and test, then repetitions within train.
    """
    splits: dict[_Part, Sequence[Example]] = {
        (task.name, split): sentences for task in tasks for split, sentences in task.splits.items()
    }
    indices = {part: _index(sentences) for part, sentences in splits.items()}
    found = (_compare(splits, indices, *pair) for pair in _pairs([task.name for task in tasks]))
    return [overlap for overlap in found if overlap is not None]


def _compare(
    splits: Mapping[_Part, Sequence[Example]], indices: Mapping[_Part, _Index], part: _Part, other: _Part
) -> Overlap | None:
    if part not in splits or other not in splits:
        return None
    pairs = [(it, indices[other].get(_key(it))) for it in splits[part]]
    shared = [(it, hit) for it, hit in pairs if hit is not None and hit is not it]
    if not shared:
        return None
    return Overlap(
        task=part[0],
        split=part[1],
        other_task=other[0],
        other_split=other[1],
        count=len(shared),
        of=len(splits[part]),
        first=shared[0][0].where,
        other_first=shared[0][1].where,
    )


def _pairs(names: Sequence[str]) -> Iterator[tuple[_Part, _Part]]:
    """Which split is looked for in which, the gravest first."""
    judged: tuple[Split, ...] = ("dev", "test")
    for name, split in product(names, judged):
        yield (name, split), (name, "train")
    for name, split, other in product(names, judged, names):
        if other != name:
            yield (name, split), (other, "train")
    for name in names:
        yield (name, "test"), (name, "dev")
    for name in names:
        yield (name, "train"), (name, "train")


def _index(sentences: Sequence[Example]) -> _Index:
    """First sentence of each content."""
    return {key: sentence for sentence in reversed(sentences) if (key := _key(sentence))}


def _key(sentence: Example) -> _Key:
    """What two sentences are compared by; empty when they are too short to compare."""
    words = comparable(sentence.words)
    if len(words) < MIN_WORDS:
        return ()
    predicate = sentence.predicate if isinstance(sentence, Sentence) else None
    return words if predicate is None else (*words, str(predicate))
