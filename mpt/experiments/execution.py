"""One run: its order, its training, what it costs."""

import resource
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from rich.console import Console

from mpt.base.errors import ConfigError
from mpt.base.settings import StageSettings
from mpt.base.signals import StopRequest
from mpt.data.encoded import EncodedTask, Shards
from mpt.data.order.plan import Plan, StreamSize, TaskSize, Units
from mpt.evaluation.evaluator import evaluate_tasks
from mpt.model.scorer import Scorer
from mpt.training.checkpoint import Checkpoint
from mpt.training.engines import Engine
from mpt.training.launch import build_workers
from mpt.training.loop import Progress, Run, train
from mpt.training.ranks import Share, lost_after
from mpt.training.runlog import RunLog


def build_plan(
    tasks: Sequence[EncodedTask],
    rates: Mapping[str, float],
    settings: StageSettings,
    *,
    tasks_per_step: int,
    accelerator: Accelerator,
) -> Plan:
    """The order of a run.

    Raises:
        ConfigError: Micro-batches cannot be shared out evenly over draws and ranks.
    """
    training = settings.training
    if training.micro_batches % (tasks_per_step * accelerator.num_processes):
        raise ConfigError(
            f"training.micro_batches: {training.micro_batches} is not a multiple of {tasks_per_step} tasks per step x "
            f"{accelerator.num_processes} processes, so ranks would not hold the same task side by side. "
            f"Set training.micro_batches={tasks_per_step * accelerator.num_processes} or a multiple of it"
        )
    sizes = (
        TaskSize(
            name=encoded.task.name,
            rate=rates[encoded.task.name],
            pieces=encoded.splits["train"].unit_pieces,
            words=encoded.splits["train"].unit_terms,
            loss_weight=encoded.task.spec.loss_weight,
        )
        if encoded.shards is None
        else StreamSize(
            name=encoded.task.name,
            rate=rates[encoded.task.name],
            shards=encoded.shards.sizes,
            read=_reader(encoded.shards),
            loss_weight=encoded.task.spec.loss_weight,
        )
        for encoded in tasks
    )
    return Plan(
        sizes,
        seed=training.seed,
        tokens=training.tokens_per_micro_batch,
        micro_batches=training.micro_batches,
        tasks_per_step=tasks_per_step,
    )


def _reader(shards: Shards) -> Callable[[int], Units]:
    """What the plan reads of a shard."""

    def read(shard: int) -> Units:
        split = shards.open(shard)
        return split.unit_pieces, split.unit_terms

    return read


def execute(
    scorer: Scorer,
    tasks: Sequence[EncodedTask],
    plan: Plan,
    settings: StageSettings,
    *,
    accelerator: Accelerator,
    engine: Engine,
    console: Console,
    folder: Path | None,
    identity: Mapping[str, Any],
    title: str | None,
    checkpoint: Checkpoint | None = None,
    resumable: bool = True,
) -> Progress:
    """Train with a log, from a checkpoint or from the start; see `mpt.training.loop`."""
    log = RunLog(
        folder,
        console=console,
        accelerator=accelerator,
        steps=settings.training.steps,
        step=checkpoint.step if checkpoint else 0,
        title=title,
    )
    with closing(log), StopRequest() as stop, sharing(settings, accelerator, engine, stop) as share:
        run = Run(
            scorer=scorer,
            tasks=tasks,
            plan=plan,
            settings=settings,
            accelerator=accelerator,
            evaluate=lambda limit: {
                name: score.primary
                for name, score in evaluate_tasks(scorer, tasks, "dev", limit=limit, share=share).items()
            },
            log=log,
            folder=folder,
            identity=identity,
            workers=share.workers,
            engine=engine,
            stop=stop,
            resumable=resumable,
        )
        with lost_after(accelerator, settings.training.timeout_seconds):
            return train(run, checkpoint)


@contextmanager
def sharing(
    settings: StageSettings, accelerator: Accelerator, engine: Engine, stop: StopRequest | None = None
) -> Iterator[Share]:
    """The ranks, and the threads of this one, that share work out until the block ends."""
    workers = build_workers(settings, accelerator, engine)
    try:
        yield Share(accelerator, workers, stop, in_step=engine.sharding is not None)
    finally:
        workers.close()


def describe_size(scorer: Scorer) -> str:
    """Trained parameters against the frozen ones."""
    state = sum(value.numel() for value in scorer.state.values().values())
    heads = sum(p.numel() for head in scorer.heads().values() for p in head.parameters())
    frozen = scorer.backbone.num_parameters
    networks = [part.network for part in scorer.state.parts.values() if part.network is not None]
    weights = sum(p.numel() for network in networks for p in network.parameters())
    kinds = " and ".join(kind.replace("_", "-") for kind in scorer.state.parts)
    return (
        f"trained: {f'{state:,} {kinds} values + ' if kinds else ''}{heads:,} head weights = "
        f"{(state + heads) / frozen:.2%} of the backbone's {frozen:,} frozen parameters"
        + (f"; the prompt comes out of {weights:,} weights until training ends" if weights else "")
    )


def cost_of(progress: Progress, accelerator: Accelerator) -> dict[str, float]:
    """What training took: word pieces, seconds in steps, and peak memory of this process in MiB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1024 * 1024 if sys.platform == "darwin" else 1024)
    cost = {
        "word_pieces": progress.pieces,
        "seconds": round(progress.seconds, 1),
        "pieces_per_second": round(progress.pieces / max(progress.seconds, 1e-9)),
        "peak_memory_mib": round(peak),
    }
    if accelerator.device.type == "cuda":
        cost["peak_device_memory_mib"] = round(torch.cuda.max_memory_allocated(accelerator.device) / 2**20)
    return cost


def describe_cost(cost: Mapping[str, float]) -> str:
    """One line of it."""
    return (
        f"trained on {cost['word_pieces']:,} word pieces in {cost['seconds'] / 60:.1f} min "
        f"({cost['pieces_per_second']:,} a second), peak memory {cost['peak_memory_mib']:,} MiB"
    )
