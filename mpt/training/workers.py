"""Threads of a process that compute micro-batches side by side on a CPU, in training and in evaluation.

Two micro-batches on one core each are done sooner than one after the other on both: operations on a few hundred word
pieces are too small to share. Each micro-batch is computed alone either way, so the result is the same.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TypeVar

import torch

Item = TypeVar("Item")
Result = TypeVar("Result")


class Workers:
    """A pool of threads, or none.

    Args:
        count: Threads; 1 computes in the calling thread.
        operation_threads: Threads of a single operation inside each of several; one alone keeps torch's.
    """

    def __init__(self, count: int = 1, *, operation_threads: int = 1) -> None:
        self.count = count
        self._pool: ThreadPoolExecutor | None = None
        if count > 1:
            # The number is torch's for the thread that sets it; the calling thread keeps its own.
            start = partial(torch.set_num_threads, operation_threads)
            self._pool = ThreadPoolExecutor(count, thread_name_prefix="micro-batch", initializer=start)

    def map(self, function: Callable[[Item], Result], items: Iterable[Item]) -> list[Result]:
        """`function` of every item, in their order; raises what the first of them raised."""
        return list(self.each(function, items))

    def each(self, function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
        """The same one by one, so that nobody keeps a result that has been used."""
        if self._pool is None:
            yield from map(function, items)
            return
        futures = deque(self._pool.submit(function, item) for item in items)
        while futures:
            yield futures.popleft().result()

    def close(self) -> None:
        """End the threads; what they have not begun is left undone."""
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)


def cpu_workers(threads: int, micro_batches: int) -> Workers:
    """Share threads out over micro-batches first, and over the operations of each with what is left."""
    count = min(threads, micro_batches)
    return Workers(count, operation_threads=max(1, threads // count))


def workers_for(device: torch.device, micro_batches: int) -> Workers:
    """Threads for micro-batches on a device: those that torch would use for its operations; one on a GPU."""
    return cpu_workers(torch.get_num_threads(), micro_batches) if device.type == "cpu" else Workers()
