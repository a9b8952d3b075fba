"""Label scores of many texts for many tasks, all tasks and task states together in the same batches."""

from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import chain
from typing import Protocol, TypeAlias, TypeVar

import numpy as np
import torch
from jaxtyping import Float32, Int64

from mpt.data.order.batch import Batch, collate, mixed, word_rows
from mpt.data.order.plan import length_groups
from mpt.data.windows import EncodedSplit
from mpt.model.scorer import Scorer
from mpt.training.workers import workers_for

# Positions of an evaluation batch, padding included. On a CPU attention scores are held whole, positions x heads x
# longest row, by every thread at once: more positions than these cost memory for no speed, a quarter of them are slow.
CPU_TOKENS = 1024
# A GPU is idle while small batches are put together; it holds no attention scores, so memory is linear in positions.
GPU_TOKENS = 32_768
Item = TypeVar("Item")
Rows = Float32[np.ndarray, "rows C"]
Part: TypeAlias = tuple[int, Int64[np.ndarray, " rows"]]
"""Number of a request, and windows of its split."""


class SideBySide(Protocol):
    """Computes rows of every item, in the items' order; see `mpt.training.ranks.Share`."""

    def __call__(self, function: Callable[[Item], Rows], items: Sequence[Item]) -> list[Rows]:
        """The results of all items; all have the same number of columns."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """Some examples of a split, to be computed by the task state of a slot and scored by heads of that slot."""

    slot: int
    tasks: tuple[str, ...]
    split: EncodedSplit
    examples: Int64[np.ndarray, " n"]


def label_scores(
    scorer: Scorer, requests: Sequence[Request], *, share: SideBySide | None = None
) -> list[list[list[Float32[np.ndarray, "W C"]]]]:
    """Label scores of every word of all requests.

    Rows of several requests meet in a batch where their task states can. On a CPU batches are computed side by side,
    each alone in one thread: scores do not depend on their number.

    Who computes which batch is up to `share` (None: this process computes all); the batches are the same whoever does.

    Returns:
        For each request, each of its tasks and each of its examples, in order: its words by labels.
    """
    requests, asked = _shared(requests)
    sizes = [[len(scorer.head(task, it.slot).labels) for task in it.tasks] for it in requests]
    columns = max(chain.from_iterable(sizes), default=0)
    batches = _batches(scorer, requests)

    def compute(parts: Sequence[Part]) -> Rows:
        with torch.no_grad():  # a mode of the thread that enters it
            found = scorer(_batch(scorer, requests, parts).to(scorer.backbone.device))
        return np.concatenate([_widened(scores.cpu().numpy(), columns) for scores in found])

    computed: list[Rows] = []
    if batches:
        with closing(workers_for(scorer.backbone.device, len(batches))) as workers:
            computed = workers.map(compute, batches) if share is None else share(compute, batches)
    scores = [
        [np.zeros((len(request.split.positions), size), dtype=np.float32) for size in own]
        for request, own in zip(requests, sizes, strict=True)
    ]
    for parts, rows in zip(batches, computed, strict=True):
        _scatter(scores, requests, parts, rows)
    return [[_by_example(scores[number][task], requests[number]) for task in tasks] for number, tasks in asked]


def batch_tokens(device: torch.device) -> int:
    """Positions of an evaluation batch on a device, padding included; a longer window is a batch of its own."""
    return CPU_TOKENS if device.type == "cpu" else GPU_TOKENS


def _shared(requests: Sequence[Request]) -> tuple[list[Request], list[tuple[int, list[int]]]]:
    """Requests of a slot over the same text as one, and for each given one its number and those of its tasks."""
    found: list[Request] = []
    asked: list[tuple[int, list[int]]] = []
    for request in requests:
        number = next((i for i, other in enumerate(found) if _same_text(request, other)), len(found))
        if number == len(found):
            found.append(replace(request, tasks=()))
        tasks = found[number].tasks
        asked.append((number, list(range(len(tasks), len(tasks) + len(request.tasks)))))
        found[number] = replace(found[number], tasks=tasks + request.tasks)
    return found, asked


def _same_text(one: Request, other: Request) -> bool:
    names = ("pieces", "piece_starts", "segments", "positions", "widths", "word_starts", "windows_of")
    pairs = [(one.examples, other.examples), *((getattr(one.split, it), getattr(other.split, it)) for it in names)]
    return one.slot == other.slot and all(a is b or np.array_equal(a, b) for a, b in pairs)


def _batches(scorer: Scorer, requests: Sequence[Request]) -> list[list[Part]]:
    """All windows once each, longest last; those whose states cannot meet in batches of their own."""
    apart: dict[int, list[int]] = {}
    for number, request in enumerate(requests):
        apart.setdefault(-1 if scorer.bank.meets(request.slot) else request.slot, []).append(number)
    return [batch for numbers in apart.values() for batch in _cut(scorer, requests, numbers)]


def _cut(scorer: Scorer, requests: Sequence[Request], numbers: Sequence[int]) -> list[list[Part]]:
    windows = [_windows(requests[number]) for number in numbers]
    owner = np.repeat(np.array(numbers, dtype=np.int64), [len(own) for own in windows])
    everything = np.concatenate([np.zeros(0, dtype=np.int64), *windows])
    own_lengths = [requests[it].split.pieces_of(own) for it, own in zip(numbers, windows, strict=True)]
    lengths = np.concatenate([np.zeros(0, dtype=np.int64), *own_lengths])
    groups = length_groups(lengths, tokens=batch_tokens(scorer.backbone.device))
    return [
        [(int(number), everything[rows[owner[rows] == number]]) for number in np.unique(owner[rows])]
        for rows in groups
        if len(rows)
    ]


def _windows(request: Request) -> Int64[np.ndarray, " n"]:
    firsts = request.split.windows_of
    return np.concatenate([np.zeros(0, dtype=np.int64), *(np.arange(*firsts[i : i + 2]) for i in request.examples)])


def _batch(scorer: Scorer, requests: Sequence[Request], parts: Sequence[Part]) -> Batch:
    pad = scorer.backbone.word_pieces.pad
    own = [
        collate(requests[it].split, windows, pad=pad, tasks=requests[it].tasks, slot=requests[it].slot)
        for it, windows in parts
    ]
    return own[0] if len(own) == 1 else mixed(own, pad=pad)


def _scatter(
    scores: list[list[Float32[np.ndarray, "W C"]]], requests: Sequence[Request], parts: Sequence[Part], rows: Rows
) -> None:
    """Put a batch's rows, which follow each other by part and task, where their words are."""
    start = 0
    for number, windows in parts:
        words = word_rows(requests[number].split, windows)
        for own in scores[number]:
            own[words] = rows[start : start + len(words), : own.shape[1]]
            start += len(words)


def _by_example(scores: Float32[np.ndarray, "W C"], request: Request) -> list[Float32[np.ndarray, "W C"]]:
    bounds = request.split.example_words
    return [scores[bounds[i] : bounds[i + 1]] for i in request.examples]


def _widened(scores: Float32[np.ndarray, "M C"], columns: int) -> Rows:
    return np.pad(scores, ((0, 0), (0, columns - scores.shape[1])))
