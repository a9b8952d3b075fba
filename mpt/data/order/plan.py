"""Which task and which windows make step s: arithmetic on (seed, s), with nothing to save or to restore.

A step has a fixed number of micro-batches. Each *draw* of a step picks one task by its mixing rate and takes that
task's next `micro_batches / tasks_per_step` micro-batches. A task's micro-batches are numbered without end: number n
lies in one of the task's own epochs, and every epoch is a new permutation in which each window occurs exactly once.

Which task a draw picks is the business of `mpt.data.order.draws`. Micro-batches are cut from pools of windows sorted by
length, because padding is work without a result.
"""

from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from jaxtyping import Int32, Int64, Integer, UInt

from mpt.base.seeding import permutation
from mpt.data.encoded import ShardSize
from mpt.data.order.draws import Draws
from mpt.data.ragged import starts_of

# Windows of a pool are sorted by length before they are cut. 64 micro-batches a pool leave under 2% padding on real
# corpora and still mix an epoch well, since micro-batches are shuffled across pools.
POOL_MICRO_BATCHES = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class MicroBatch:
    """Units of one task that are computed together: windows, or the choices of one question.

    Attributes:
        task, units: Index of the task in the mixture, and of its units in the task's training split, by length.
        weight: What the summed loss of its words is multiplied by, so that the step's loss is the mean over draws of
            the task's mean loss per labelled word.
    """

    task: int
    units: Int64[np.ndarray, " units"]
    weight: float


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskSize:
    """What the plan has to know of a task's training split.

    Attributes:
        name: Name of the task; it names its random streams, so that adding a task leaves the others' order alone.
        rate: Share of the draws, in (0, 1].
        pieces: Word pieces of each window, special tokens included; at least one.
        words: Labelled words of each window.
        loss_weight: Factor on the task's loss.
    """

    name: str
    rate: float
    pieces: Integer[np.ndarray, " windows"]
    words: Integer[np.ndarray, " windows"]
    loss_weight: float = 1.0


Units = tuple[Integer[np.ndarray, " windows"], Integer[np.ndarray, " windows"]]
"""Word pieces and labelled words of the windows of a shard."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamSize:
    """The same of a streamed task: what is known of its shards, and what reads those of a shard, by its number."""

    name: str
    rate: float
    shards: Sequence[ShardSize]
    read: Callable[[int], Units]
    loss_weight: float = 1.0


class Plan:
    """The order of a whole run over the tasks of a mixture, whose rates sum to 1; the seed names it.

    A micro-batch has at most `tokens` word-piece positions, padding included; a longer window is a micro-batch of its
    own. The draws of a step, `tasks_per_step`, share its micro-batches evenly.
    """

    def __init__(
        self,
        tasks: Iterable[TaskSize | StreamSize],
        *,
        seed: int,
        tokens: int,
        micro_batches: int = 1,
        tasks_per_step: int = 1,
    ) -> None:
        assert micro_batches % tasks_per_step == 0, (micro_batches, tasks_per_step)
        self.tasks = [task if isinstance(task, StreamSize) else _narrowed(task) for task in tasks]
        self.draws_per_step = tasks_per_step
        self.batches_per_draw = micro_batches // tasks_per_step
        self._orders = [
            StreamOrder(task, seed=seed, tokens=tokens)
            if isinstance(task, StreamSize)
            else TaskOrder(task.name, task.pieces, seed=seed, tokens=tokens)
            for task in self.tasks
        ]
        self._draws = Draws([(task.name, task.rate) for task in self.tasks], seed=seed)

    def step(self, step: int) -> list[MicroBatch]:
        """The micro-batches of one step, in the order in which their gradients are summed."""
        chosen: list[tuple[int, Int64[np.ndarray, " rows"]]] = []
        for draw in range(step * self.draws_per_step, (step + 1) * self.draws_per_step):
            task, occurrence = self._draws.at(draw)
            first = occurrence * self.batches_per_draw
            chosen += [(task, self._orders[task].batch(first + i)) for i in range(self.batches_per_draw)]
        words: dict[int, int] = {}
        for task, windows in chosen:
            words[task] = words.get(task, 0) + self._words(task, windows)
        draws = {task: sum(t == task for t, _ in chosen) / len(chosen) for task in words}
        return [
            MicroBatch(
                task=task, units=windows, weight=self.tasks[task].loss_weight * draws[task] / max(words[task], 1)
            )
            for task, windows in chosen
        ]

    def _words(self, task: int, windows: Int64[np.ndarray, " rows"]) -> int:
        size, order = self.tasks[task], self._orders[task]
        if isinstance(order, StreamOrder):
            return order.words_of(windows)
        assert isinstance(size, TaskSize), size
        return int(size.words[windows].sum())

    def epoch_of(self, task: int, step: int) -> float:
        """How often each window of the task has been seen, on average, before `step` begins."""
        drawn = self._draws.drawn(task, before=step * self.draws_per_step)
        return self._orders[task].epochs(drawn * self.batches_per_draw)


def _narrowed(task: TaskSize) -> TaskSize:
    return replace(task, pieces=_narrow(task.pieces), words=_narrow(task.words))


def _narrow(counts: Integer[np.ndarray, " n"]) -> UInt[np.ndarray, " n"]:
    """In the fewest bytes: a plan holds two numbers for every window, and short integers are sorted faster."""
    return counts.astype(np.min_scalar_type(int(counts.max(initial=0))))


class TaskOrder:
    """The endless sequence of micro-batches of one task, given the word pieces of each window; see `Plan`.

    An epoch has so many pools; None makes them of about `POOL_MICRO_BATCHES`.
    """

    def __init__(
        self, name: str, pieces: Integer[np.ndarray, " windows"], *, seed: int, tokens: int, pools: int | None = None
    ) -> None:
        assert len(pieces), f"task {name} has no windows"
        self.name, self.pieces, self.seed, self.tokens = name, pieces, seed, tokens
        self._pools = pools or max(1, round(int(pieces.sum()) / (POOL_MICRO_BATCHES * tokens)))
        self._ends: list[int] = []  # micro-batches up to the end of each epoch
        self._epoch: tuple[int, _Epoch] | None = None
        self._cuts = self._cuts_of_every_epoch()

    def batch(self, number: int) -> Int64[np.ndarray, " rows"]:
        """Windows of the task's micro-batch `number`, counted from 0 over all epochs."""
        epoch, start, _ = self._bounds(number)
        return self._cut(epoch).batch(number - start)

    def epochs(self, count: int) -> float:
        """How many epochs the first `count` micro-batches are."""
        if count == 0:
            return 0.0
        epoch, start, end = self._bounds(count - 1)
        return epoch + (count - start) / (end - start)

    def _bounds(self, number: int) -> tuple[int, int, int]:
        """The epoch of a micro-batch, the number of its first one and the number after its last one."""
        if self._cuts is not None:
            count = len(self._cuts) + 1
            epoch = number // count
            return epoch, epoch * count, (epoch + 1) * count
        while not self._ends or self._ends[-1] <= number:
            self._ends.append((self._ends[-1] if self._ends else 0) + len(self._cut(len(self._ends)).order))
        epoch = bisect_right(self._ends, number)
        return epoch, self._ends[epoch - 1] if epoch else 0, self._ends[epoch]

    def _cut(self, epoch: int) -> "_Epoch":
        """Permute, sort pools by length, cut them into micro-batches, shuffle those."""
        if self._epoch is None or self._epoch[0] != epoch:
            windows = permutation(self.seed, "windows", self.name, epoch, count=len(self.pieces)).astype(np.int32)
            starts = [0]
            for pool in np.array_split(windows, self._pools) if self._pools > 1 else [windows]:  # views into it
                pool[:] = pool[np.argsort(self.pieces[pool], kind="stable")]
                cuts = balanced_cuts(self.pieces[pool], self.tokens) if self._cuts is None else self._cuts.tolist()
                first = starts[-1]
                starts += [first + cut for cut in (*cuts, len(pool))]
            order = permutation(self.seed, "micro-batches", self.name, epoch, count=len(starts) - 1)
            self._epoch = epoch, _Epoch(windows, np.array(starts, dtype=np.int32), order.astype(np.int32))
        return self._epoch[1]

    def _cuts_of_every_epoch(self) -> Int32[np.ndarray, " cuts"] | None:
        """Where a single pool is cut: it has the same lengths in every epoch. None where there are several."""
        if self._pools > 1:
            return None
        return np.array(balanced_cuts(np.sort(self.pieces, kind="stable"), self.tokens), dtype=np.int32)


class _Epoch(NamedTuple):
    """The micro-batches of one epoch of a task: windows pool after pool, where each begins, and in which order."""

    windows: Int32[np.ndarray, " windows"]
    starts: Int32[np.ndarray, " micro_batches+1"]
    order: Int32[np.ndarray, " micro_batches"]

    def batch(self, number: int) -> Int64[np.ndarray, " rows"]:
        start, end = self.starts[self.order[number] :][:2]
        return self.windows[start:end].astype(np.int64)


class StreamOrder:
    """The endless sequence of micro-batches of a streamed task.

    An epoch is a permutation of the shards, and in each shard one of its windows, with one pool: a shard then has as
    many micro-batches in every epoch, which its lengths tell without it being read.
    """

    def __init__(self, task: StreamSize, *, seed: int, tokens: int) -> None:
        self.task, self.seed = task, seed
        self._starts = starts_of(np.array([shard.units for shard in task.shards]))
        counts = [1 + len(greedy_cuts(np.repeat(shard.lengths, shard.counts), tokens)) for shard in task.shards]
        self._counts = np.array(counts, dtype=np.int64)
        self._total = int(self._counts.sum())
        self._order: tuple[int, Int64[np.ndarray, " shards"]] | None = None

        def read(shard: int) -> tuple[TaskOrder, Integer[np.ndarray, " windows"]]:
            name = f"{task.name}/{shard}"  # no task's own name holds a slash
            pieces, words = task.read(shard)
            return TaskOrder(name, _narrow(pieces), seed=seed, tokens=tokens, pools=1), words

        self._shard = lru_cache(maxsize=1)(read)

    def batch(self, number: int) -> Int64[np.ndarray, " rows"]:
        """Windows of the task's micro-batch `number`, all of one shard, counted through all shards."""
        epoch, within = divmod(number, self._total)
        if self._order is None or self._order[0] != epoch:
            self._order = epoch, permutation(self.seed, "shards", self.task.name, epoch, count=len(self._counts))
        order = self._order[1]
        ends = np.cumsum(self._counts[order])
        place = int(np.searchsorted(ends, within, side="right"))
        shard, count = int(order[place]), int(self._counts[order[place]])
        first = epoch * count + within - (int(ends[place]) - count)
        return self._shard(shard)[0].batch(first) + self._starts[shard]

    def words_of(self, windows: Int64[np.ndarray, " rows"]) -> int:
        """Labelled words of some windows, all of one shard."""
        shard = int(np.searchsorted(self._starts, windows[0], side="right")) - 1
        return int(self._shard(shard)[1][windows - self._starts[shard]].sum())

    def epochs(self, count: int) -> float:
        """How many epochs the first `count` micro-batches are."""
        return count / self._total


def balanced_cuts(pieces: Integer[np.ndarray, " windows"], tokens: int) -> list[int]:
    """Cut lengths in ascending order into the fewest micro-batches of `tokens` padded positions, of even size.

    Filling each to the brim would leave a crumb at the end, a step with hardly a word; so the smallest budget that
    needs no more micro-batches is found by bisection.
    """
    cuts = greedy_cuts(pieces, tokens)
    # No cut leaves a micro-batch less than its real pieces, so a budget below this needs more of them.
    least = int(pieces.sum()) / (len(cuts) + 1) if len(pieces) else 0
    longest = int(pieces[-1]) if len(pieces) else 0
    low, high = tokens // 2, tokens
    while high - low > max(1, tokens // 64):
        middle = (low + high) // 2
        attempt = None if longest <= middle < least else greedy_cuts(pieces, middle)
        if attempt is not None and len(attempt) == len(cuts):
            high, cuts = middle, attempt
        else:
            low = middle
    return cuts


def length_groups(pieces: Integer[np.ndarray, " windows"], *, tokens: int) -> list[Int64[np.ndarray, " rows"]]:
    """Indices of all windows once each, longest last, in groups of at most `tokens` padded positions."""
    order = np.argsort(pieces, kind="stable")
    return np.split(order, greedy_cuts(pieces[order], tokens))


def greedy_cuts(pieces: Integer[np.ndarray, " windows"], tokens: int) -> list[int]:
    """Where to cut ascending lengths so that rows times longest row stays within `tokens` (one row always fits).

    A micro-batch that ends with window i can begin with window `i + 1 - tokens // pieces[i]` at the earliest. These
    first windows ascend, so that the next cut, the first i whose micro-batch would have to begin later, is searched for
    and not walked to; it lies at most `tokens // pieces[start]` windows ahead.
    """
    rows = len(pieces)
    firsts = (np.arange(1, rows + 1) - tokens // pieces.astype(np.int64)).data
    cuts: list[int] = []
    start = 0
    while start < rows:
        ahead = 2 * start + 1 - firsts[start]
        start = bisect_right(firsts, start, start + 1, ahead if ahead < rows else rows)
        cuts.append(start)
    return cuts[:-1]
