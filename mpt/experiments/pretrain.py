"""Stage 1: one shared task state over a mixture of tasks, one head for each of them."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from accelerate import Accelerator
from rich.console import Console
from rich.table import Column, Table

from mpt.base.errors import CheckpointError, ConfigError, did_you_mean
from mpt.base.files import remove_leftovers, replace_durable, to_json
from mpt.base.strict_yaml import dump
from mpt.data.encoded import EncodedTask
from mpt.data.families.metrics import Score
from mpt.data.manifest.reading import Manifest, load_manifest
from mpt.data.order.mixture import mixing_rates
from mpt.data.order.plan import Plan
from mpt.data.tasks import chosen_names
from mpt.evaluation.evaluator import evaluate_tasks
from mpt.experiments.execution import (
    build_plan,
    cost_of,
    describe_cost,
    describe_size,
    execute,
    open_backbone,
    open_tasks,
    sharing,
)
from mpt.experiments.methods import Method, trained_by
from mpt.experiments.run_folder import Resume, open_run_folder
from mpt.experiments.settings import PretrainSettings
from mpt.experiments.start import Start, plan_of, require_trainable
from mpt.model.language_head import new_heads, verbalizer_notices
from mpt.model.scorer import Scorer
from mpt.model.state.starts import fresh_state
from mpt.training.checkpoint import Checkpoint, latest, load_checkpoint, require_same
from mpt.training.engines import Engine, find_engine
from mpt.training.identity import identity_of
from mpt.training.launch import build_accelerator, describe_launch, settle, speaker, versions, with_dtype
from mpt.training.loop import Progress
from mpt.training.ranks import Share, require_alike, together
from mpt.training.runlog import tell


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """What a run works with, before its folder is made: `contents` are the files that the folder starts with."""

    tasks: list[EncodedTask]
    scorer: Scorer
    plan: Plan
    identity: dict[str, Any]
    contents: dict[str, bytes]
    checkpoint: Checkpoint | None
    notices: list[str]


def pretrain(settings: PretrainSettings, folder: Path, *, resume: Resume, console: Console) -> dict[str, Score]:
    """Pretrain prompts on a mixture and leave a run folder.

    Everything that can be wrong with the input is found before the folder is made.

    Args:
        settings: The run.
        folder: Run folder to make, or to go on with.
        resume: Go on from the newest checkpoint of `folder`: "never", "auto" (if there is one), "must".
        console: Where people read.

    Returns:
        The score of every task's whole dev set at the best checkpoint.

    Raises:
        MptError: Of the fitting class; see the modules called.
        Preempted: Asked to stop; everything is saved.
    """
    accelerator = build_accelerator(folder, settings.trackers)
    engine = find_engine(accelerator, clip_norm=settings.optimizer.clip_norm)
    console = speaker(accelerator, console)
    backbone_settings, notices = with_dtype(accelerator, settings.backbone)
    settings = settings.model_copy(update={"backbone": backbone_settings})
    ready = _prepare(settings, folder, resume=resume, accelerator=accelerator, engine=engine)
    resumed = ready.checkpoint.step if ready.checkpoint else None
    facts = {"settings": settings.model_dump(mode="json"), "resumed step": resumed, "versions": versions()}
    require_alike(accelerator, {**ready.identity, **facts})
    tell(console, notices + ready.notices)
    launched = describe_launch(accelerator, engine, settings.training.micro_batches, settings.backbone.dtype)
    for line in (launched, describe_size(ready.scorer)):
        console.print(line, highlight=False, soft_wrap=True)
    with together(accelerator):
        if accelerator.is_main_process:
            if ready.checkpoint is None:
                open_run_folder(folder, ready.contents, resume=resume)
            for place in (folder, folder / "checkpoints"):  # what a killed process left half written
                remove_leftovers(place)
    if settings.trackers:
        accelerator.init_trackers("tensorboard")
    progress = execute(
        ready.scorer,
        ready.tasks,
        ready.plan,
        settings,
        accelerator=accelerator,
        engine=engine,
        console=console,
        folder=folder,
        identity=ready.identity,
        title="pretraining",
        checkpoint=ready.checkpoint,
    )
    with sharing(settings, accelerator, engine) as share:
        scores = _conclude(ready.scorer, ready.tasks, progress, folder, share, console=console)
    for tracker in accelerator.trackers:
        tracker.finish()  # the launch goes on: a comparison has more to do
    return scores


def _prepare(
    settings: PretrainSettings, folder: Path, *, resume: Resume, accelerator: Accelerator, engine: Engine
) -> Prepared:
    """Read and check everything that a rank needs."""
    with together(accelerator):
        manifest = load_manifest(settings.manifest)
        names = chosen_names(manifest, settings.tasks or None)
        _check_selection(settings.evaluation.select_by, names)
        method = trained_by(settings.method)
        backbone = open_backbone(
            settings.backbone, prompt_length=settings.prompt.length, accelerator=accelerator, sharding=engine.sharding
        )
        start = Start(backbone=backbone, backbone_settings=settings.backbone, prompt_settings=settings.prompt)
        start = start.of(method)
    encoded, notices = open_tasks(manifest, names, start.backbone, settings.backbone, accelerator)
    with together(accelerator):
        tasks = [one.task for one in encoded]
        require_trainable({settings.method: (method, method.parts)}, tasks, engine)
        per_step = _tasks_per_step(manifest, len(names), settings.training.micro_batches)
        rates = _rates(manifest, encoded, settings)
        plan = build_plan(encoded, rates, settings, tasks_per_step=per_step, accelerator=accelerator)
        more = {"manifest": {"name": manifest.name, "sha256": manifest.digest}, "tasks_per_step": per_step}
        scorer = _new_scorer(start, method, encoded, settings)
        identity = identity_of(
            start.backbone,
            scorer.state.specs,
            tasks,
            stage="pretrain",
            settings=settings,
            backbone_settings=start.backbone_settings,
            prompt_settings=start.prompt_settings,
            more={"method": settings.method, **more},
        )
        notices += [*verbalizer_notices(start.backbone, tasks), *settle(accelerator, settings.backbone.dtype)]
        return Prepared(
            tasks=encoded,
            scorer=scorer,
            plan=plan,
            identity=identity,
            contents={"config.yaml": dump(settings).encode(), "manifest.json": to_json(manifest.resolved())},
            checkpoint=_checkpoint_to_resume(folder, identity, resume, first=accelerator.is_main_process),
            notices=notices,
        )


def _conclude(
    scorer: Scorer, tasks: list[EncodedTask], progress: Progress, folder: Path, share: Share, *, console: Console
) -> dict[str, Score]:
    """Score the whole dev sets with the best weights; tell and write what came out."""
    cost = cost_of(progress, share.accelerator)
    console.print(describe_cost(cost), highlight=False)
    scores = dict(evaluate_tasks(scorer, tasks, "dev", share=share))
    with together(share.accelerator):
        if share.accelerator.is_main_process:
            _write_results(folder, progress, scores, cost)
    _print_scores(console, scores, folder)
    return scores


def _new_scorer(start: Start, method: Method, tasks: list[EncodedTask], settings: PretrainSettings) -> Scorer:
    """A fresh shared task state and fresh heads."""
    training, backbone = settings.training, start.backbone
    texts = [encoded.part("train", np.zeros(1, dtype=np.int64))[0] for encoded in tasks]
    plan = plan_of(method, start.prompt_settings, settings.low_rank)
    state = fresh_state(plan, backbone, texts, seed=training.seed)
    heads = new_heads(backbone, [one.task for one in tasks], seed=training.seed, dropout=training.head_dropout)
    return Scorer(backbone, state, heads, backbone_dropout=training.backbone_dropout)


def _check_selection(chosen: str, names: list[str]) -> None:
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
    """Mixing rates for what this run will draw: counted in words, or in word pieces where not every word is scored."""
    pieces = {one.task.name: one.train_pieces for one in tasks}
    words = {one.task.name: one.train_words for one in tasks}
    sizes = words if all(one.task.spec.kind.every_word for one in tasks) else pieces
    drawn = settings.training.steps * settings.training.micro_batches * settings.training.tokens_per_micro_batch
    return mixing_rates(
        manifest.mixture,
        sizes,
        total=drawn * sum(sizes.values()) / sum(pieces.values()),
        max_epochs={one.task.name: one.task.spec.max_epochs for one in tasks},
        rates={one.task.name: one.task.spec.rate for one in tasks if one.task.spec.rate is not None},
    )


def _checkpoint_to_resume(folder: Path, identity: dict[str, Any], resume: Resume, *, first: bool) -> Checkpoint | None:
    """The newest checkpoint as this rank finds it; when only others find none, comparing the ranks tells it better."""
    path = None if resume == "never" else latest(folder)
    if path is None:
        if resume != "must" or not first:
            return None
        raise CheckpointError(f"{folder}: nothing to resume, it has no checkpoint. Start it with --resume auto")
    checkpoint = load_checkpoint(path)
    if not checkpoint.optimizer:
        raise CheckpointError(
            f"{path}: holds no moments of the optimizer, since it was imported or is of a transfer or comparison, so "
            "it cannot be resumed. Resume the transfer or comparison as a whole (--resume auto), or start a new run"
        )
    remedy = "Resume with the configuration and data it was started with, or start a new run"
    require_same(_wherever(checkpoint.identity), _wherever(identity), folder=path, remedy=remedy)
    return checkpoint


def _wherever(identity: Mapping[str, Any]) -> dict[str, Any]:
    """An identity without the backbone's place: its digests say what it is, and it may have moved."""
    backbone = {key: value for key, value in identity["backbone"].items() if key not in ("reference", "revision")}
    return {**identity, "backbone": backbone}


def _print_scores(console: Console, scores: dict[str, Score], folder: Path) -> None:
    table = Table("task", "metric", Column("score", justify="right"), title="dev scores", title_justify="left")
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
