"""Time and memory of the plan of one mixture of synthetic sizes: the process that `plan_scale.py` starts."""

import gc
import json
import resource
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass

import numpy as np
from jaxtyping import Int64

from job import answer
from mpt.data.encoded import ShardSize
from mpt.data.order.plan import Plan, StreamSize, TaskSize

TOKENS = 512
MICRO_BATCHES = 4
SHARD = 100_000  # windows of a file


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanJob:
    """What a process is asked to do.

    Attributes:
        sizes: "equal"; "power_law": the k-th task has 1/k of the windows of the first; "streamed": 1 / k ** 1.5, and
            tasks of more than a shard are streamed.
        tasks: Number of tasks.
        windows: Windows of the mixture, rounded for each task.
        steps: Steps that are timed, from the first on and from `far` on.
        far: The step that a resumed run begins with.
    """

    sizes: str
    tasks: int
    windows: int
    steps: int
    far: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanCost:
    """What a process answers.

    Attributes:
        windows: Windows of the mixture.
        largest: Windows of its largest task.
        build_seconds: Time to make the plan.
        resume_seconds: Time of the first step of a plan that begins far off.
        early_milliseconds: Processor time of a step of a new run: median, 99th percentile and maximum.
        far_milliseconds: The same from the far step on.
        held_mib: Memory that the plan and its sizes hold after all that.
        peak_memory_mib: Of the process.
    """

    windows: int
    largest: int
    build_seconds: float
    resume_seconds: float
    early_milliseconds: tuple[float, float, float]
    far_milliseconds: tuple[float, float, float]
    held_mib: float
    peak_memory_mib: float


def measure_plan(job: PlanJob) -> PlanCost:
    """Plan a new run and one that goes on at a far step.

    Python's own garbage collection, which a training run has as well, is kept out of the times.
    """
    shares = np.arange(1, job.tasks + 1) ** -{"equal": 0.0, "power_law": 1.0, "streamed": 1.5}[job.sizes]
    counts = np.maximum(1, np.round(job.windows * shares / shares.sum())).astype(np.int64)
    before, began = _resident_mib(), time.perf_counter()
    plan = _plan(counts, longest=SHARD if job.sizes == "streamed" else int(counts.max()))
    build = time.perf_counter() - began
    gc.collect()
    gc.disable()
    early = _step_times(plan, range(job.steps))
    began = time.perf_counter()
    plan.step(job.far)
    resume = time.perf_counter() - began
    far = _step_times(plan, range(job.far + 1, job.far + 1 + job.steps))
    return PlanCost(
        windows=int(counts.sum()),
        largest=int(counts.max()),
        build_seconds=build,
        resume_seconds=resume,
        early_milliseconds=early,
        far_milliseconds=far,
        held_mib=_resident_mib() - before,
        peak_memory_mib=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    )


def _plan(counts: Int64[np.ndarray, " tasks"], *, longest: int) -> Plan:
    """Rates by the square root of the size, as the default mixture has them; longer tasks are streamed."""
    roots = np.sqrt(counts)
    rates = (roots / roots.sum()).tolist()

    def sizes() -> Iterator[TaskSize | StreamSize]:
        for task, (count, rate) in enumerate(zip(counts.tolist(), rates, strict=True)):
            if count > longest:
                yield _stream(f"task {task}", rate, count)
                continue
            pieces = _lengths(task, count)
            yield TaskSize(name=f"task {task}", rate=rate, pieces=pieces, words=pieces - 2)

    return Plan(sizes(), seed=0, tokens=TOKENS, micro_batches=MICRO_BATCHES, tasks_per_step=MICRO_BATCHES)


def _lengths(seed: int, count: int) -> Int64[np.ndarray, " windows"]:
    """Word pieces of sentences as corpora have them."""
    return np.clip(np.random.default_rng(seed).lognormal(3.2, 0.6, count), 4, TOKENS).astype(np.int64)


def _stream(name: str, rate: float, count: int) -> StreamSize:
    """A streamed task, all of whose shards have the same lengths, so that they need not be made to be known."""
    pieces = _lengths(0, SHARD)
    lengths, counts = (them.astype(np.int32) for them in np.unique(pieces, return_counts=True))
    total = int(pieces.sum())
    shards = [
        ShardSize(units=SHARD, pieces=total, words=total - 2 * SHARD, lengths=lengths.copy(), counts=counts.copy())
        for _ in range(round(count / SHARD))
    ]
    return StreamSize(name=name, rate=rate, shards=shards, read=lambda shard: (pieces, pieces - 2))


def _step_times(plan: Plan, steps: range) -> tuple[float, float, float]:
    """Processor time of steps, milliseconds: median, 99th percentile, maximum."""
    times: list[float] = []
    for step in steps:
        began = time.thread_time()
        plan.step(step)
        times.append(1000 * (time.thread_time() - began))
    return float(np.median(times)), float(np.percentile(times, 99)), max(times)


def _resident_mib() -> float:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize() / 2**20


if __name__ == "__main__":
    answer(lambda: asdict(measure_plan(PlanJob(**json.loads(sys.argv[1])))))
