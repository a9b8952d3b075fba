"""Pieces of a run that both stages put together in the same way."""

import resource
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Literal

import torch
from accelerate import Accelerator
from rich.console import Console

from mpt.base.errors import ConfigError, every
from mpt.base.files import published_folder, write_durable
from mpt.base.settings import BackboneSettings, StageSettings
from mpt.base.signals import StopRequest
from mpt.data.encoded import EncodedTask, Shards, encode_task
from mpt.data.manifest.task_spec import Split
from mpt.data.order.plan import Plan, StreamSize, TaskSize, Units
from mpt.data.tasks import Task
from mpt.evaluation.evaluator import evaluate_tasks
from mpt.model.backbone.backbone import Backbone, load_backbone
from mpt.model.backbone.probe import probe
from mpt.model.backbone.sharding import Sharding
from mpt.model.scorer import Scorer
from mpt.training.checkpoint import Checkpoint
from mpt.training.engines import Engine
from mpt.training.launch import build_workers
from mpt.training.loop import Progress, Run, train
from mpt.training.ranks import Share, lost_after, together
from mpt.training.runlog import RunLog

Resume = Literal["never", "auto", "must"]
"""Whether to go on with a run folder: no, it must not be there; if there is one; yes, it must be there."""
TRUNK_SPLITS: set[Split] = {"train", "dev"}  # test is read once


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


def tell(console: Console, notices: Sequence[str]) -> None:
    """Print notices as they are, one a line."""
    for notice in notices:
        console.print(f"note: {notice}", highlight=False, markup=False, soft_wrap=True)


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
) -> Progress:
    """Train with a log, from a checkpoint or from the start; see `mpt.training.loop.train`."""
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
    weights = sum(value.numel() for value in scorer.state.networks().values())
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


def open_run_folder(folder: Path, contents: Mapping[str, bytes], *, resume: Resume) -> None:
    """Make a run folder with what the run was given, or find the one that was made for the same run.

    Raises:
        ConfigError: It exists, or does not, against what `resume` says; it was made from something else; it cannot be
            made.
    """
    if not folder.is_dir() or not any(folder.iterdir()):
        if resume == "must":
            raise ConfigError(f"{folder}: nothing to resume, there is no such run. Start it with --resume auto or none")
        publish_run_folder(folder, contents)
        return
    if resume == "never":
        raise ConfigError(f"{folder}: this run folder exists. Continue it with --resume auto, or give another --out")
    missing = [name for name in contents if not (folder / name).is_file()]
    if missing:
        raise ConfigError(f"{folder}: nothing to resume, {', '.join(missing)} not found. Give another --out")
    changed = [name for name, content in contents.items() if (folder / name).read_bytes() != content]
    if changed:
        raise ConfigError(
            f"{folder}: cannot resume, this call differs from the one that made the folder in {', '.join(changed)}. "
            "Give the same settings, manifest and checkpoint, or another --out"
        )


def open_results(
    accelerator: Accelerator,
    console: Console,
    folder: Path,
    contents: Mapping[str, bytes],
    *,
    line: str,
    resume: Resume,
) -> None:
    """Say how several runs were launched, and make the folder of their results, or find it; see `open_run_folder`."""
    console.print(line, highlight=False, soft_wrap=True)
    with together(accelerator):
        if accelerator.is_main_process:
            open_run_folder(folder, contents, resume=resume)


def publish_run_folder(folder: Path, contents: Mapping[str, bytes]) -> None:
    """Make a run folder that has all of its contents from the moment it has its name."""
    try:
        if folder.is_dir():
            folder.rmdir()  # empty: whoever gave --out has made it
        with published_folder(folder) as temporary:
            for name, content in contents.items():
                write_durable(temporary / name, content)
    except OSError as error:
        reason = error.strerror or "File exists"
        raise ConfigError(f"{folder}: cannot make this folder: {reason}. Give another --out") from error


def make_folder(folder: Path) -> None:
    """Make a folder that a user named with --out.

    Raises:
        ConfigError: A file is in its way, or it may not be made there.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"{folder}: cannot make this folder: {error.strerror}. Give another --out") from error
