"""Which task each draw of a run picks: arithmetic on (seed, draw), computed a draw at a time.

Draws are stratified: a task with rate r is drawn once in every 1/r draws of mixture time, at a random point of that
interval, so its share never strays from the rate by more than one draw. Task t's j-th draw happens at mixture time
(j + u) / rate with u uniform in [0, 1); all draws are in the order of their times.
"""

from collections import deque
from collections.abc import Sequence
from heapq import heapify, heapreplace
from itertools import islice

import numpy as np

from mpt.base.seeding import uniforms

AHEAD = 32  # numbers of a task that are drawn together; making a generator costs as much as some hundred of them
KEPT = 1 << 14  # draws that can be asked for again without going back


class Draws:
    """The endless sequence of draws of a mixture.

    A queue holds the next draw of every task, so a draw costs the logarithm of their number. Any draw can be gone to:
    how often a task was drawn before a mixture time is its rate times that time, give or take the one draw whose random
    point decides. A task is given by name, which names its random stream, and rate.
    """

    def __init__(self, tasks: Sequence[tuple[str, float]], *, seed: int) -> None:
        self.tasks = list(tasks)
        self.seed = seed
        self._uniforms = np.empty((len(self.tasks), AHEAD))
        self._go_to(0)

    def at(self, draw: int) -> tuple[int, int]:
        """(task, how often it was drawn before) of one draw."""
        self._reach(draw)
        while self._position <= draw:
            self._advance()
        return self._recent[draw - self._position]  # counted from the end

    def drawn(self, task: int, *, before: int) -> int:
        """How often a task was drawn before a draw."""
        if before == 0:
            return 0
        self.at(before - 1)
        since = islice(self._recent, len(self._recent) - (self._position - before), None)
        return self._next[task] - sum(index == task for index, _ in since)

    def _reach(self, draw: int) -> None:
        """Go back or far ahead at once, where walking is impossible or longer."""
        if draw < self._position - len(self._recent) or draw > self._position + 8 * len(self.tasks) + KEPT:
            self._go_to(draw)

    def _go_to(self, draw: int) -> None:
        """Set the queue to a draw a little before the given one: as many before as there are tasks, about twice."""
        rates = sum(rate for _, rate in self.tasks)
        # Up to a time T each task was drawn at most T * rate + 1 times. A hair less, for what floats leave off.
        time = (draw - len(self.tasks) - 1) / rates * (1 - 1e-12)
        self._next = [0] * len(self.tasks)
        for task, (_, rate) in enumerate(self.tasks):
            self._next[task] = max(0, int(time * rate) - 1)
            self._draw_ahead(task)
            while self._time(task) <= time:
                self._count(task)
        self._queue = [(self._time(task), task) for task in range(len(self.tasks))]
        heapify(self._queue)
        self._position = sum(self._next)
        self._recent: deque[tuple[int, int]] = deque(maxlen=KEPT)
        assert self._position <= max(draw, 0), (self._position, draw)

    def _advance(self) -> None:
        """Do the next draw. Of equal times the earlier task comes first."""
        _, task = self._queue[0]
        self._recent.append((task, self._next[task]))
        self._count(task)
        heapreplace(self._queue, (self._time(task), task))
        self._position += 1

    def _time(self, task: int) -> float:
        """When a task is drawn next, in mixture time."""
        occurrence = self._next[task]
        return (occurrence + float(self._uniforms[task, occurrence % AHEAD])) / self.tasks[task][1]

    def _count(self, task: int) -> None:
        self._next[task] += 1
        if self._next[task] % AHEAD == 0:
            self._draw_ahead(task)

    def _draw_ahead(self, task: int) -> None:
        start = self._next[task] // AHEAD * AHEAD
        self._uniforms[task] = uniforms(self.seed, "draw", self.tasks[task][0], count=AHEAD, start=start)
