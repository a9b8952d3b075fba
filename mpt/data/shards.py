"""The training split of a streamed task: files of examples, opened one at a time.

A run holds a few numbers of every shard and the word pieces of the shards that it is reading, mapped from disk; of the
examples in the others it holds nothing. Units are numbered through: those of the first shard, then of the second, ...
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Int32, Int64

from mpt.data.ragged import starts_of

if TYPE_CHECKING:  # a task that is encoded has shards
    from mpt.data.encoded import EncodedSplit

OPEN = 2  # shards that are held: a step may end one and begin the next


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardSize:
    """What is known of a shard that is not open.

    Attributes:
        units: Units of training.
        pieces: Word pieces of all windows.
        words: Words of all windows.
        lengths: Different padded positions of its units, ascending.
        counts: How many units have each of them.
    """

    units: int
    pieces: int
    words: int
    lengths: Int32[np.ndarray, " lengths"]
    counts: Int32[np.ndarray, " lengths"]


def size_of(split: "EncodedSplit") -> ShardSize:
    """What is to be known of a shard."""
    units = split.unit_pieces
    lengths, counts = np.unique(units, return_counts=True)
    return ShardSize(
        units=len(units),
        pieces=int(split.window_pieces.sum()),
        words=int(split.window_words.sum()),
        lengths=lengths.astype(np.int32),
        counts=counts.astype(np.int32),
    )


class Shards:
    """The shards of one task.

    Args:
        sizes: Of each shard, in order.
        read: Maps the word pieces of a shard; raises `DataError` when its file is not what it was.
    """

    def __init__(self, sizes: Sequence[ShardSize], read: "Callable[[int], EncodedSplit]") -> None:
        self.sizes = list(sizes)
        self.open = lru_cache(maxsize=OPEN)(read)
        self.starts = starts_of(np.array([size.units for size in sizes]))

    def part(self, units: Int64[np.ndarray, " n"]) -> "tuple[EncodedSplit, Int64[np.ndarray, ' n']]":
        """The shard that some units lie in, which is one, and their numbers in it."""
        shard = int(np.searchsorted(self.starts, units[0], side="right")) - 1
        return self.open(shard), units - self.starts[shard]
