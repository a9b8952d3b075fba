"""One run: what it works on, its order, its training, what it costs."""

import resource
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from rich.console import Console

from mpt.base.disk_cache import default_folder
from mpt.base.errors import ConfigError, every
from mpt.base.settings import BackboneSettings, StageSettings
from mpt.base.signals import StopRequest
from mpt.data.cache import read_tasks, text_cache
from mpt.data.encoded import EncodedTask, Shards, encode_task
from mpt.data.families.tokenization import WordPieces
from mpt.data.manifest.reading import Manifest
from mpt.data.manifest.task_spec import Split
from mpt.data.order.plan import Plan, StreamSize, TaskSize, Units
from mpt.data.tasks import Task
from mpt.data.windows import EncodedSplit
from mpt.evaluation.evaluator import evaluate_tasks
from mpt.model.backbone.backbone import Backbone, load_backbone
from mpt.model.backbone.probe import probe
from mpt.model.backbone.sharding import Sharding
from mpt.model.scorer import Scorer
from mpt.training.checkpoint import Checkpoint
from mpt.training.engines import Engine
from mpt.training.launch import build_workers
from mpt.training.loop import Progress, Run, train
from mpt.training.ranks import Share, lost_after, one_first
from mpt.training.runlog import RunLog


def open_backbone(
    settings: BackboneSettings, *, prompt_length: int, accelerator: Accelerator, sharding: Sharding | None = None
) -> Backbone:
    """Load the backbone on this rank's device and prove that it listens to prompts."""
    backbone = load_backbone(
        settings.reference,
        revision=settings.revision,
        dtype=settings.dtype,
        prompt_length=prompt_length,
        shifted=settings.positions == "shifted",
        longest_window=settings.longest_window,
        word_state=settings.word_state,
        gradient_checkpointing=settings.gradient_checkpointing,
        device=accelerator.device,
        sharding=sharding,
    )
    probe(backbone)
    return backbone


def encode_tasks(tasks: Sequence[Task], backbone: Backbone) -> tuple[list[EncodedTask], list[str]]:
    """Encode all splits of all tasks; returns notices too.

    Raises:
        DataError: With the problems of all tasks.
    """
    encoded = every(lambda task: encode_task(task, backbone.word_pieces), tasks)
    return [task for task, _ in encoded], [notice for _, said in encoded for notice in said]


def open_tasks(
    manifest: Manifest,
    names: Sequence[str] | None,
    backbone: Backbone,
    settings: BackboneSettings,
    accelerator: Accelerator,
) -> tuple[list[EncodedTask], list[str]]:
    """Train and dev of a mixture as word pieces, which one process of a machine keeps for all; notices too.

    Raises:
        MptError: With the problems of all tasks and all files.
    """
    gib = settings.text_cache_gib
    kept = text_cache(default_folder("text"), int(gib * 2**30)) if gib else None
    return one_first(accelerator, lambda: read_tasks(manifest, backbone.word_pieces, names=names, kept=kept))


@dataclass(frozen=True, slots=True, kw_only=True)
class Inputs:
    """The tasks of a comparison as word pieces: every split is encoded once, when it is first asked for.

    Methods that shift positions have other windows, so what is kept is kept for each way of a backbone with text.

    Attributes:
        kept: Encoded splits by task, name and tokenizer.
    """

    kept: dict[tuple[str, Split, WordPieces], EncodedSplit] = field(default_factory=dict)

    def of(self, task: Task, word_pieces: WordPieces, *names: Split) -> EncodedTask:
        """A task with some of its splits.

        Raises:
            DataError: See `encode_task`.
        """
        missing = {name: task.splits[name] for name in names if (task.name, name, word_pieces) not in self.kept}
        if missing:
            encoded, _ = encode_task(replace(task, splits=missing), word_pieces)
            self.kept.update({(task.name, name, word_pieces): split for name, split in encoded.splits.items()})
        splits: dict[Split, EncodedSplit] = {name: self.kept[task.name, name, word_pieces] for name in names}
        return EncodedTask(task=replace(task, splits={}), splits=splits)


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
    return Plan(
        (_size(encoded, rates[encoded.task.name]) for encoded in tasks),
        seed=training.seed,
        tokens=training.tokens_per_micro_batch,
        micro_batches=training.micro_batches,
        tasks_per_step=tasks_per_step,
    )


def _size(encoded: EncodedTask, rate: float) -> TaskSize | StreamSize:
    name, weight = encoded.task.name, encoded.task.spec.loss_weight
    if (shards := encoded.shards) is not None:
        read = partial(_read_shard, shards)
        return StreamSize(name=name, rate=rate, shards=shards.sizes, read=read, loss_weight=weight)
    pieces, words = _units(encoded.splits["train"])
    return TaskSize(name=name, rate=rate, pieces=pieces, words=words, loss_weight=weight)


def _read_shard(shards: Shards, shard: int) -> Units:
    return _units(shards.open(shard))


def _units(split: EncodedSplit) -> Units:
    return split.unit_pieces, split.unit_terms


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
    steps, done = settings.training.steps, checkpoint.step if checkpoint else 0
    log = RunLog(folder, console=console, accelerator=accelerator, steps=steps, step=done, title=title)
    with closing(log), StopRequest() as stop, sharing(settings, accelerator, engine, stop) as share:

        def evaluate(limit: int | None) -> dict[str, float]:
            scores = evaluate_tasks(scorer, tasks, "dev", limit=limit, share=share)
            return {name: score.primary for name, score in scores.items()}

        run = Run(
            scorer=scorer,
            tasks=tasks,
            plan=plan,
            settings=settings,
            accelerator=accelerator,
            evaluate=evaluate,
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
    """What training took, in a line."""
    return (
        f"trained on {cost['word_pieces']:,} word pieces in {cost['seconds'] / 60:.1f} min "
        f"({cost['pieces_per_second']:,} a second), peak memory {cost['peak_memory_mib']:,} MiB"
    )
