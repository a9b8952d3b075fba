"""Which task and which windows make step s: arithmetic on (seed, s), with nothing to save or to restore.

A step has a fixed number of micro-batches. Each *draw* of a step picks one task by its mixing rate and takes that
task's next `micro_batches / tasks_per_step` micro-batches. A task's micro-batches are numbered without end: number n
lies in one of the task's own epochs, and every epoch is a new permutation in which each window occurs exactly once.

Draws are stratified: a task with rate r is drawn once in every 1/r draws of mixture time, at a random point of that
interval, so its share never strays from the rate by more than one draw. Micro-batches are cut from pools of windows
sorted by length, because padding is work without a result.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int64

from mpt.seeding import permutation, uniforms

# Windows of a pool are sorted by length before they are cut. 64 micro-batches a pool leave under 2% padding on real
# corpora and still mix an epoch well, since micro-batches are shuffled across pools.
POOL_MICRO_BATCHES = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class MicroBatch:
    """Windows of one task that are computed together.

    Attributes:
        task: Index of the task in the mixture.
        windows: Indices of its windows in the task's training split, sorted by length.
        weight: What the summed loss of its words is multiplied by, so that the step's loss is the mean over draws of
            the task's mean loss per labelled word.
    """

    task: int
    windows: Int64[np.ndarray, " rows"]
    weight: float


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskSize:
    """What the plan has to know of a task's training split.

    Attributes:
        name: Name of the task; it names its random streams, so that adding a task leaves the others' order alone.
        rate: Share of the draws, in (0, 1].
        pieces: Word pieces of each window, special tokens included.
        words: Labelled words of each window.
        loss_weight: Factor on the task's loss.
    """

    name: str
    rate: float
    pieces: Int64[np.ndarray, " windows"]
    words: Int64[np.ndarray, " windows"]
    loss_weight: float = 1.0


class Plan:
    """The order of a whole run.

    Args:
        tasks: The tasks of the mixture; their rates sum to 1.
        seed: Names the order.
        tokens: Word-piece positions of a micro-batch at most, padding included. A longer window is a micro-batch of
            its own.
        micro_batches: Micro-batches of a step.
        tasks_per_step: Draws of a step; divides `micro_batches`.
    """

    def __init__(
        self, tasks: Sequence[TaskSize], *, seed: int, tokens: int, micro_batches: int = 1, tasks_per_step: int = 1
    ) -> None:
        assert micro_batches % tasks_per_step == 0, (micro_batches, tasks_per_step)
        self.tasks = list(tasks)
        self.seed = seed
        self.draws_per_step = tasks_per_step
        self.batches_per_draw = micro_batches // tasks_per_step
        self._orders = [TaskOrder(task.name, task.pieces, seed=seed, tokens=tokens) for task in tasks]
        self._draws: Int64[np.ndarray, "2 draws"] = np.empty((2, 0), dtype=np.int64)

    def step(self, step: int) -> list[MicroBatch]:
        """The micro-batches of one step, in the order in which their gradients are summed."""
        chosen: list[tuple[int, Int64[np.ndarray, " rows"]]] = []
        for draw in range(step * self.draws_per_step, (step + 1) * self.draws_per_step):
            task, occurrence = self._draw(draw)
            first = occurrence * self.batches_per_draw
            chosen += [(task, self._orders[task].batch(first + i)) for i in range(self.batches_per_draw)]
        words: dict[int, int] = {}
        for task, windows in chosen:
            words[task] = words.get(task, 0) + int(self.tasks[task].words[windows].sum())
        draws = {task: sum(t == task for t, _ in chosen) / len(chosen) for task in words}
        return [
            MicroBatch(
                task=task, windows=windows, weight=self.tasks[task].loss_weight * draws[task] / max(words[task], 1)
            )
            for task, windows in chosen
        ]

    def epoch_of(self, task: int, step: int) -> float:
        """How often each window of the task has been seen, on average, before `step` begins."""
        self._draw(max(step * self.draws_per_step - 1, 0))
        seen = int((self._draws[0, : step * self.draws_per_step] == task).sum()) * self.batches_per_draw
        return self._orders[task].epochs(seen)

    def _draw(self, draw: int) -> tuple[int, int]:
        """(task, how often it was drawn before) of one draw."""
        if draw >= self._draws.shape[1]:
            self._draws = draw_schedule([(t.name, t.rate) for t in self.tasks], seed=self.seed, count=2 * draw + 1024)
        task, occurrence = self._draws[:, draw]
        return int(task), int(occurrence)


def draw_schedule(tasks: Sequence[tuple[str, float]], *, seed: int, count: int) -> Int64[np.ndarray, "2 draws"]:
    """The first `count` draws, or a few more: row 0 the task, row 1 how often that task was drawn before.

    Task t's j-th draw happens at mixture time (j + u) / rate with u uniform in [0, 1); sorting all times gives the
    order. A shorter schedule is a prefix of a longer one.
    """
    times, owners, occurrences = [], [], []
    # Up to a time T each task was drawn at least T * rate times, rounded down.
    time_needed = count + len(tasks)
    for index, (name, rate) in enumerate(tasks):
        occurrence = np.arange(int(np.ceil(time_needed * rate)) + 2)
        times.append((occurrence + uniforms(seed, "draw", name, count=len(occurrence))) / rate)
        owners.append(np.full(len(occurrence), index))
        occurrences.append(occurrence)
    # Beyond the earliest of the tasks' last times some task's next draw is missing: cut there.
    horizon = min(time[-1] for time in times)
    time = np.concatenate(times)
    order = np.argsort(time, kind="stable")
    order = order[time[order] <= horizon]
    return np.stack([np.concatenate(owners)[order], np.concatenate(occurrences)[order]]).astype(np.int64)


class TaskOrder:
    """The endless sequence of micro-batches of one task.

    Args:
        name: Name of the task.
        pieces: Word pieces of each window.
        seed: Names the order.
        tokens: Positions of a micro-batch at most.
    """

    def __init__(self, name: str, pieces: Int64[np.ndarray, " windows"], *, seed: int, tokens: int) -> None:
        assert len(pieces), f"task {name} has no windows"
        self.name = name
        self.pieces = pieces
        self.seed = seed
        self.tokens = tokens
        self._ends: list[int] = []  # micro-batches up to the end of each epoch
        self._epoch: tuple[int, list[Int64[np.ndarray, " rows"]]] = (-1, [])

    def batch(self, number: int) -> Int64[np.ndarray, " rows"]:
        """Windows of the task's micro-batch `number`, counted from 0 over all epochs."""
        while not self._ends or self._ends[-1] <= number:
            self._ends.append((self._ends[-1] if self._ends else 0) + len(self._batches(len(self._ends))))
        epoch = int(np.searchsorted(self._ends, number, side="right"))
        return self._batches(epoch)[number - (self._ends[epoch - 1] if epoch else 0)]

    def epochs(self, count: int) -> float:
        """How many epochs the first `count` micro-batches are."""
        if count == 0:
            return 0.0
        self.batch(count - 1)
        epoch = int(np.searchsorted(self._ends, count, side="left"))
        start = self._ends[epoch - 1] if epoch else 0
        return epoch + (count - start) / (self._ends[epoch] - start)

    def _batches(self, epoch: int) -> list[Int64[np.ndarray, " rows"]]:
        if self._epoch[0] != epoch:
            self._epoch = (epoch, self._cut(epoch))
        return self._epoch[1]

    def _cut(self, epoch: int) -> list[Int64[np.ndarray, " rows"]]:
        """Permute, sort pools by length, cut them into micro-batches, shuffle those."""
        order = permutation(self.seed, "windows", self.name, epoch, count=len(self.pieces))
        pools = max(1, round(int(self.pieces.sum()) / (POOL_MICRO_BATCHES * self.tokens)))
        batches: list[Int64[np.ndarray, " rows"]] = []
        for pool in np.array_split(order, pools):
            windows = pool[np.argsort(self.pieces[pool], kind="stable")]
            batches += np.split(windows, balanced_cuts(self.pieces[windows], self.tokens))
        shuffled = permutation(self.seed, "micro-batches", self.name, epoch, count=len(batches))
        return [batches[i] for i in shuffled]


def balanced_cuts(pieces: Int64[np.ndarray, " windows"], tokens: int) -> list[int]:
    """Cut lengths in ascending order into the fewest micro-batches of `tokens` padded positions, of even size.

    Filling each to the brim would leave a crumb at the end, a step with hardly a word; so the smallest budget that
    needs no more micro-batches is found by bisection.
    """
    cuts = greedy_cuts(pieces, tokens)
    low, high = tokens // 2, tokens
    while high - low > max(1, tokens // 64):
        middle = (low + high) // 2
        attempt = greedy_cuts(pieces, middle)
        if len(attempt) == len(cuts):
            high, cuts = middle, attempt
        else:
            low = middle
    return cuts


def greedy_cuts(pieces: Int64[np.ndarray, " windows"], tokens: int) -> list[int]:
    """Where to cut ascending lengths so that rows times longest row stays within `tokens` (one row always fits)."""
    cuts, start = [], 0
    for end in range(1, len(pieces)):
        if (end + 1 - start) * int(pieces[end]) > tokens:
            cuts.append(end)
            start = end
    return cuts
