"""What the processes of a run, its ranks, say to each other besides gradients.

A rank that fails alone would leave the others waiting for it. So whatever may fail on one rank runs inside `together`,
which has them agree at its end. Values travel as JSON in tensors, never as pickles.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from datetime import timedelta
from typing import Any, TypeVar

import numpy as np
import torch
from accelerate import Accelerator
from jaxtyping import Float32
from torch import Tensor
from torch.distributed.distributed_c10d import _set_pg_timeout

from mpt.base.errors import LaunchError, MptError, PeerError
from mpt.base.signals import StopRequest
from mpt.training.checkpoint import differences
from mpt.training.workers import Workers

Item = TypeVar("Item")
Result = TypeVar("Result")
Rows = Float32[np.ndarray, "rows C"]


class Abandoned(Exception):
    """Work was left undone, on every rank, because somebody asked to stop."""


def gather(accelerator: Accelerator, tensor: Tensor) -> Tensor:
    """The tensors of all ranks, of equal shape, one after the other along the first dimension.

    Raises:
        LaunchError: Another rank is gone.
    """
    with contact():
        gathered = accelerator.gather(tensor)
    assert isinstance(gathered, Tensor)
    return gathered


@contextmanager
def contact() -> Iterator[None]:
    """Name what a broken connection means; inside is communication between ranks and nothing else."""
    try:
        yield
    except RuntimeError as error:
        raise LaunchError(
            "lost contact with another process of this run, so it cannot go on. The other one has failed, was killed "
            "(often for memory) or is out of reach: its own message, or the launcher's, says why. Start the run again "
            "with --resume auto "
            f"({str(error).splitlines()[0]})"
        ) from error


@contextmanager
def lost_after(accelerator: Accelerator, seconds: int) -> Iterator[None]:
    """Inside, a rank that is not heard of for so long counts as lost: a machine without power or network says nothing.

    Outside, PyTorch's own limits leave time for what one rank prepares for the others: half an hour over gloo, ten
    minutes over NCCL.
    """
    if accelerator.num_processes == 1:
        yield
        return
    group = torch.distributed.group.WORLD
    assert group is not None, "there are other processes"
    before = group._get_backend(accelerator.device).options._timeout
    _set_pg_timeout(timedelta(seconds=seconds), group)
    try:
        yield
    finally:
        _set_pg_timeout(before, group)


def any_rank(accelerator: Accelerator, flag: bool) -> bool:
    """Whether the flag is set on any rank; the same answer on all."""
    if accelerator.num_processes == 1:
        return flag
    return bool(gather(accelerator, torch.tensor([flag], dtype=torch.uint8, device=accelerator.device)).any())


def exchange(accelerator: Accelerator, value: Any) -> list[Any]:
    """A JSON value of every rank, in rank order."""
    if accelerator.num_processes == 1:
        return [value]
    text = torch.frombuffer(bytearray(json.dumps(value).encode()), dtype=torch.uint8).to(accelerator.device)
    sizes = gather(accelerator, torch.tensor([len(text)], device=accelerator.device)).tolist()
    texts = gather(accelerator, _padded(text, max(sizes))[None]).cpu().numpy()
    return [json.loads(row[:size].tobytes()) for row, size in zip(texts, sizes, strict=True)]


def _padded(tensor: Tensor, length: int) -> Tensor:
    """Zeros behind a tensor, up to a length of its first dimension."""
    return torch.cat([tensor, tensor.new_zeros(length - len(tensor), *tensor.shape[1:])])


@contextmanager
def together(accelerator: Accelerator) -> Iterator[None]:
    """Fail on every rank when the block fails on any; the block itself must not communicate.

    Raises:
        PeerError: Another rank failed. The first that did raises its own error, to be told once.
    """
    if accelerator.num_processes == 1:
        yield
        return
    failure: Exception | None = None
    try:
        yield
    except Exception as error:
        failure = error
    if not any_rank(accelerator, failure is not None):
        return
    known = isinstance(failure, MptError)
    about = None if failure is None else {"told": str(failure) or repr(failure), "status": 2 if known else 1}
    reports = exchange(accelerator, about)
    first = next(rank for rank, report in enumerate(reports) if report is not None)
    if failure is None or first != accelerator.process_index:
        raise PeerError(first, reports[first]["told"], reports[first]["status"]) from failure
    if isinstance(failure, MptError):
        failure.rank = first
    raise failure


def one_first(accelerator: Accelerator, function: Callable[[], Result]) -> Result:
    """`function` on one process of each machine, then on the others, which find on disk what the first has kept."""
    found: list[Result] = []
    for first in (True, False):
        with together(accelerator):
            if accelerator.is_local_main_process is first:
                found.append(function())
    return found[0]


def require_alike(accelerator: Accelerator, facts: Mapping[str, Any]) -> None:
    """Refuse ranks that would train different things side by side.

    Raises:
        LaunchError: Naming every fact in which a rank differs from the first, with both values.
    """
    everybody = exchange(accelerator, facts)
    for rank, theirs in enumerate(everybody):
        found = differences(everybody[0], theirs, names=("rank 0", f"rank {rank}"))
        if found:
            raise LaunchError(
                f"ranks 0 and {rank} of this run differ:\n  " + "\n  ".join(found) + "\nGive every process the same "
                "configuration, data, folder and package versions, for example on storage that all machines share"
            )


class Share:
    """Computes rows of items side by side: on the ranks of a run, and in the threads of each of them.

    Args:
        accelerator: Knows the ranks.
        workers: Threads of this rank.
        stop: When it is noted, on any rank, the work is abandoned.
        in_step: Every rank calls the function equally often, and side by side: where they share a backbone, each call
            needs all of them.
    """

    def __init__(
        self, accelerator: Accelerator, workers: Workers, stop: StopRequest | None = None, *, in_step: bool = False
    ) -> None:
        self.accelerator, self.workers, self.stop = accelerator, workers, stop or StopRequest()
        self.in_step = in_step

    def __call__(self, function: Callable[[Item], Rows], items: Sequence[Item]) -> list[Rows]:
        """`function` of every item, in their order, on every rank; rank r of W computes the items r, r + W, ...

        Raises:
            Abandoned: Somebody asked to stop.
        """
        own = items[self.accelerator.process_index :: self.accelerator.num_processes]
        # Who fails in step with others cannot agree with them: they wait for its share of a layer.
        with nullcontext() if self.in_step else together(self.accelerator):
            computed = self._in_step(function, own, items) if self.in_step else self._at_will(function, own)
        if any_rank(self.accelerator, self.stop.noted):
            raise Abandoned
        rows = [one for one in computed if one is not None]
        return rows if self.accelerator.num_processes == 1 else self._gathered(rows, len(items))

    def _at_will(self, function: Callable[[Item], Rows], own: Sequence[Item]) -> list[Rows | None]:
        """The results of this rank's items, until somebody asks to stop."""
        return self.workers.map(lambda item: None if self.stop.noted else function(item), own)

    def _in_step(self, function: Callable[[Item], Rows], own: Sequence[Item], items: Sequence[Item]) -> list[Rows]:
        """The same, and the first item once more where other ranks have one more."""
        most = -(-len(items) // self.accelerator.num_processes)
        return [function(item) for item in [*own, *items[: most - len(own)]]][: len(own)]

    def _gathered(self, own: list[Rows], count: int) -> list[Rows]:
        """The rows of all ranks in the order of the items; each rank sends as many as the one that has the most."""
        accelerator = self.accelerator
        most = -(-count // accelerator.num_processes)
        facts = torch.tensor([len(rows) for rows in own] + [0] * (most - len(own)) + [own[0].shape[1] if own else 0])
        facts_RN = gather(accelerator, facts[None].to(accelerator.device)).cpu()
        columns = int(facts_RN[:, -1].max())
        stacked = torch.from_numpy(np.concatenate([np.zeros((0, columns), np.float32), *own])).to(accelerator.device)
        padded = _padded(stacked, int(facts_RN[:, :-1].sum(dim=1).max()))
        gathered = gather(accelerator, padded[None]).cpu().numpy()
        by_rank = [np.split(rows, np.cumsum(counts)) for rows, counts in zip(gathered, facts_RN[:, :-1], strict=True)]
        return [by_rank[item % accelerator.num_processes][item // accelerator.num_processes] for item in range(count)]
