"""Stage 1: one shared deep prompt over a mixture of tasks, one head for each of them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from rich.console import Console
from rich.table import Table

from mpt.config import PretrainSettings
from mpt.data.encoded import EncodedTask
from mpt.data.manifest import Manifest, load_manifest
from mpt.data.mixture import mixing_rates
from mpt.data.tasks import Task, chosen_names
from mpt.errors import CheckpointError, ConfigError, did_you_mean
from mpt.evaluation.evaluator import evaluate_tasks
from mpt.evaluation.metrics import Score
from mpt.files import remove_leftovers, replace_durable, to_json
from mpt.model.backbone import Backbone
from mpt.model.bank import PromptBank, PromptShape
from mpt.model.heads import TokenHead
from mpt.model.initialisation import initial_prompt
from mpt.model.tagger import Tagger
from mpt.stages.assembly import (
    build_accelerator,
    build_plan,
    claim_cores,
    cost_of,
    describe_cost,
    describe_size,
    execute,
    identity_of,
    keep_trunk,
    open_backbone,
    prompt_shape,
    speaker,
    start_run_folder,
    tell,
)
from mpt.stages.inputs import open_tasks
from mpt.strict_yaml import dump
from mpt.training.checkpoint import Checkpoint, latest, load_checkpoint, require_same
from mpt.training.loop import Progress


def pretrain(settings: PretrainSettings, folder: Path, *, resume: bool, console: Console) -> dict[str, Score]:
    """Pretrain prompts on a mixture and leave a run folder.

    Everything that can be wrong with the input is found before the folder is made.

    Args:
        settings: The run.
        folder: Run folder to make, or to go on with.
        resume: Go on from the newest checkpoint of `folder`.
        console: Where people read.

    Returns:
        The score of every task's whole dev set at the best checkpoint.

    Raises:
        MptError: Of the fitting class; see the modules called.
    """
    accelerator = build_accelerator(folder, settings.trackers)
    console = speaker(accelerator, console)
    manifest = load_manifest(settings.manifest)
    names = chosen_names(manifest, settings.tasks or None)
    _check_selection(settings, names)
    backbone = open_backbone(settings.backbone, prompt_length=settings.prompt.length, accelerator=accelerator)
    encoded, notices = open_tasks(manifest, names, backbone, settings.backbone, accelerator)
    tell(console, notices + claim_cores(accelerator))
    per_step = _tasks_per_step(manifest, len(names), settings.training.micro_batches)
    rates = _rates(manifest, encoded, settings)
    plan = build_plan(encoded, rates, settings, tasks_per_step=per_step, accelerator=accelerator)
    shape = prompt_shape(backbone, settings.prompt)
    more = {"manifest": {"name": manifest.name, "sha256": manifest.digest}, "tasks_per_step": per_step}
    identity = _identity(settings, backbone, shape, [one.task for one in encoded], more)
    checkpoint = _checkpoint_to_resume(folder, identity) if resume else None
    tagger = _new_tagger(backbone, shape, encoded, settings)
    console.print(describe_size(tagger), highlight=False)
    if accelerator.is_main_process:
        _open_folder(folder, settings, manifest, new=checkpoint is None)
    accelerator.wait_for_everyone()
    if settings.trackers:
        accelerator.init_trackers("tensorboard")
    encoded, said = keep_trunk(encoded, backbone, [shape], settings.backbone, accelerator)
    tell(console, said)
    progress = execute(
        tagger,
        encoded,
        plan,
        settings,
        accelerator=accelerator,
        console=console,
        folder=folder,
        identity=identity,
        title="pretraining",
        checkpoint=checkpoint,
    )
    accelerator.end_training()
    return _conclude(tagger, encoded, progress, folder, accelerator=accelerator, console=console)


def _identity(
    settings: PretrainSettings, backbone: Backbone, shape: PromptShape, tasks: list[Task], more: dict[str, Any]
) -> dict[str, Any]:
    return identity_of(
        backbone,
        [shape],
        tasks,
        stage="pretrain",
        settings=settings,
        backbone_settings=settings.backbone,
        prompt_settings=settings.prompt,
        more=more,
    )


def _open_folder(folder: Path, settings: PretrainSettings, manifest: Manifest, *, new: bool) -> None:
    """Make the run folder, or clear what a killed process left half written in it."""
    if new:
        contents = {"config.yaml": dump(settings).encode(), "manifest.json": to_json(manifest.resolved())}
        start_run_folder(folder, contents)
        return
    for place in (folder, folder / "checkpoints"):
        remove_leftovers(place)


def _conclude(
    tagger: Tagger,
    tasks: list[EncodedTask],
    progress: Progress,
    folder: Path,
    *,
    accelerator: Accelerator,
    console: Console,
) -> dict[str, Score]:
    """Score the whole dev sets with the best weights; tell and write what came out."""
    cost = cost_of(progress, accelerator)
    console.print(describe_cost(cost), highlight=False)
    scores = dict(evaluate_tasks(tagger, tasks, "dev"))
    if accelerator.is_main_process:
        _write_results(folder, progress, scores, cost)
    _print_scores(console, scores, folder)
    return scores


def _new_tagger(backbone: Backbone, shape: PromptShape, tasks: list[EncodedTask], settings: PretrainSettings) -> Tagger:
    """A fresh shared prompt and fresh heads."""
    seed = settings.training.seed
    texts = [encoded.splits["train"] for encoded in tasks]
    prompt = initial_prompt(backbone, shape, texts, initialisation=settings.prompt.initialisation, seed=seed)
    heads = {
        encoded.task.name: TokenHead(
            backbone.hidden_size,
            encoded.task.labels,
            seed=seed,
            task=encoded.task.name,
            dropout=settings.training.head_dropout,
        )
        for encoded in tasks
    }
    return Tagger(backbone, PromptBank([prompt], [shape], dropout=settings.prompt.dropout), heads)


def _check_selection(settings: PretrainSettings, names: list[str]) -> None:
    chosen = settings.evaluation.select_by
    known = ["macro_mean", "min", *names]
    if chosen not in known:
        raise ConfigError(
            f'evaluation.select_by: "{chosen}" is neither macro_mean nor min nor a task of the mixture '
            f"({', '.join(names)}).{did_you_mean(chosen, known)}"
        )


def _tasks_per_step(manifest: Manifest, num_tasks: int, micro_batches: int) -> int:
    """As the mixture says, else as many as share the micro-batches evenly: gradients of several tasks steady a step."""
    if manifest.mixture.tasks_per_step is not None:
        return manifest.mixture.tasks_per_step
    return max(draws for draws in range(1, min(num_tasks, micro_batches) + 1) if micro_batches % draws == 0)


def _rates(manifest: Manifest, tasks: list[EncodedTask], settings: PretrainSettings) -> dict[str, float]:
    """Mixing rates for the words that this run will draw."""
    words = {one.task.name: int(one.splits["train"].window_words.sum()) for one in tasks}
    pieces = sum(int(one.splits["train"].window_pieces.sum()) for one in tasks)
    drawn = settings.training.steps * settings.training.micro_batches * settings.training.tokens_per_micro_batch
    return mixing_rates(
        manifest.mixture,
        words,
        total=drawn * sum(words.values()) / pieces,
        max_epochs={one.task.name: one.task.spec.max_epochs for one in tasks},
        rates={one.task.name: one.task.spec.rate for one in tasks if one.task.spec.rate is not None},
    )


def _checkpoint_to_resume(folder: Path, identity: dict[str, Any]) -> Checkpoint:
    path = latest(folder)
    if path is None:
        raise CheckpointError(f"{folder}: nothing to resume, it has no checkpoint. Start it without --resume")
    checkpoint = load_checkpoint(path)
    require_same(
        _wherever(checkpoint.identity),
        _wherever(identity),
        folder=path,
        remedy="Resume with the configuration and data it was started with, or start a new run",
    )
    return checkpoint


def _wherever(identity: Mapping[str, Any]) -> dict[str, Any]:
    """An identity without the backbone's place: its digests say what it is, and it may have moved."""
    backbone = {key: value for key, value in identity["backbone"].items() if key not in ("reference", "revision")}
    return {**identity, "backbone": backbone}


def _print_scores(console: Console, scores: dict[str, Score], folder: Path) -> None:
    table = Table(title="dev scores", title_justify="left")
    for name in ("task", "metric", "score"):
        table.add_column(name, justify="right" if name == "score" else "left")
    for name, score in scores.items():
        table.add_row(name, score.metric.replace("_", " "), f"{100 * score.primary:.1f}")
    console.print(table)
    console.print(f"run folder: {folder}", highlight=False, soft_wrap=True)


def _write_results(folder: Path, progress: Progress, scores: dict[str, Score], cost: dict[str, float]) -> None:
    assert progress.best is not None, "the last step is always evaluated"
    results = {
        "stage": "pretrain",
        "steps": progress.step,
        "best_step": progress.history[progress.best]["step"],
        "cost": cost,
        "dev": {name: score.to_json() for name, score in scores.items()},
    }
    replace_durable(folder / "results.json", to_json(results))
