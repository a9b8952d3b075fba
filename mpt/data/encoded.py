"""Tasks as word pieces, whole or with a training split of which files are opened one at a time.

Of a streamed training split a run holds a few numbers of every shard and the word pieces of the shards that it is
reading, mapped from disk; of the examples in the others it holds nothing. Units are numbered through: those of the
first shard, then of the second, ...
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from jaxtyping import Int32, Int64

from mpt.base.errors import every
from mpt.data.families.of_task import family_of
from mpt.data.families.texts import label_pieces
from mpt.data.families.tokenization import WordPieces
from mpt.data.manifest.task_spec import Split
from mpt.data.ragged import starts_of
from mpt.data.tasks import Task
from mpt.data.windows import EncodedSplit

OPEN = 2  # shards that are held: a step may end one and begin the next


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardSize:
    """What is known of a shard that is not open.

    Attributes:
        units: Units of training.
        pieces, words: Those of all windows.
        lengths, counts: Different padded positions of its units, ascending, and how many units have each of them.
    """

    units: int
    pieces: int
    words: int
    lengths: Int32[np.ndarray, " lengths"]
    counts: Int32[np.ndarray, " lengths"]


def size_of(split: EncodedSplit) -> ShardSize:
    """What is to be known of a shard."""
    units = split.unit_pieces
    lengths, counts = np.unique(units, return_counts=True)
    return ShardSize(
        units=len(units),
        pieces=len(split.pieces),
        words=int(split.word_starts[-1]),
        lengths=lengths.astype(np.int32),
        counts=counts.astype(np.int32),
    )


class Shards:
    """The shards of one task, which `read` maps; that raises `DataError` when a file is not what it was."""

    def __init__(self, sizes: Sequence[ShardSize], read: Callable[[int], EncodedSplit]) -> None:
        self.sizes = list(sizes)
        self.open = lru_cache(maxsize=OPEN)(read)
        self.starts = starts_of(np.array([size.units for size in sizes]))

    def part(self, units: Int64[np.ndarray, " n"]) -> tuple[EncodedSplit, Int64[np.ndarray, " n"]]:
        """The shard that some units lie in, which is one, and their numbers in it."""
        shard = int(np.searchsorted(self.starts, units[0], side="right")) - 1
        return self.open(shard), units - self.starts[shard]


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodedTask:
    """One task with its splits as word pieces.

    Attributes:
        task: The task, its examples left out.
        splits: Its encoded splits by name; without train where that is streamed.
        shards: Train, where it is streamed.
    """

    task: Task
    splits: Mapping[Split, EncodedSplit]
    shards: Shards | None = None

    @property
    def _train(self) -> Sequence[ShardSize]:
        return [size_of(self.splits["train"])] if self.shards is None else self.shards.sizes

    @property
    def train_pieces(self) -> int:
        """Word pieces to train on, specials included."""
        return sum(size.pieces for size in self._train)

    @property
    def train_words(self) -> int:
        """Words to train on."""
        return sum(size.words for size in self._train)

    def part(self, split: Split, units: Int64[np.ndarray, " n"]) -> tuple[EncodedSplit, Int64[np.ndarray, " n"]]:
        """What holds some units of training, those of a micro-batch, and their numbers in it."""
        if split == "train" and self.shards is not None:
            return self.shards.part(units)
        return self.splits[split], units

    def gold(self, split: Split, examples: Sequence[int]) -> list[tuple[str, ...]]:
        """What is right; see `mpt.data.families.task_family.TaskFamily.gold`."""
        return family_of(self.task.spec).gold(self.splits[split], examples, self.task.labels)

    def places(self, split: Split, units: Sequence[int]) -> list[str]:
        """`file:line` of the examples that some units of training are, or are part of."""
        encoded, own = self.part(split, np.array(units))
        examples = own if encoded.whole else encoded.examples_of(own)
        return [encoded.places.where(example) for example in examples.tolist()]


def encode_task(task: Task, word_pieces: WordPieces) -> tuple[EncodedTask, list[str]]:
    """Encode every split that a task was loaded with; notices begin with the task's name.

    Raises:
        DataError: See `TaskFamily.encode` and `label_pieces`; lists the problems of all splits.
    """
    if task.spec.cloze is not None:
        label_pieces(task.spec, word_pieces, task=task.name)
    family = family_of(task.spec)
    encoded = every(lambda examples: family.encode(examples, word_pieces, task.labels), task.splits.values())
    notices = [
        f'task "{task.name}" {name}: {notice}'
        for name, (_, found) in zip(task.splits, encoded, strict=True)
        for notice in found
    ]
    splits: dict[Split, EncodedSplit] = {name: split for name, (split, _) in zip(task.splits, encoded, strict=True)}
    return EncodedTask(task=replace(task, splits={}), splits=splits), notices
