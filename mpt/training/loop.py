"""The training loop of both stages, from top to bottom on one page.

State is a counter, the trained tensors with their moments, and the scores so far. Everything else (order, dropout,
learning rate) is a function of the step, so resuming is loading the state and going on.
"""

import signal
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from torch import Tensor

from mpt.base.errors import Preempted
from mpt.base.settings import StageSettings
from mpt.base.signals import StopRequest
from mpt.data.encoded import EncodedTask
from mpt.data.order.plan import Plan
from mpt.model.scorer import Scorer
from mpt.training.checkpoint import Checkpoint, best, folder_name, load_checkpoint, rotate, save_checkpoint
from mpt.training.engines import Engine
from mpt.training.optimizer import (
    Optimizer,
    Schedule,
    WholeOptimizer,
    build_optimizer,
    epoch_schedule,
    linear_schedule,
)
from mpt.training.ranks import Abandoned, any_rank, together
from mpt.training.runlog import RunLog
from mpt.training.step import StepResult, train_step
from mpt.training.workers import Workers
from mpt.training.zero import ZeroOptimizer

Evaluate = Callable[[int | None], Mapping[str, float]]
"""Scores every task's dev set: sentences to score of each (None for all) -> score in [0, 1] by task.

Raises `Abandoned` where a request to stop came before it was done."""


@dataclass(slots=True, kw_only=True)
class Progress:
    """What training has come to.

    Attributes:
        step: Optimizer steps done.
        history: Step and dev score of each task, of every evaluation.
        scores: The selection score of each evaluation, in the same order.
        best_tensors: Trained tensors at the best evaluation.
        stopped_early: Whether patience ran out.
        seconds: Time spent in steps, evaluations and checkpoints not counted.
        pieces: Real word pieces trained on.
    """

    step: int = 0
    history: list[dict[str, Any]] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)
    best_tensors: Mapping[str, Mapping[str, Tensor]] = field(default_factory=dict)
    stopped_early: bool = False
    seconds: float = 0.0
    pieces: int = 0

    @property
    def best(self) -> int | None:
        """Index of the best evaluation, the earliest of equals."""
        return max(range(len(self.scores)), key=lambda i: (self.scores[i], -i)) if self.scores else None

    @property
    def evaluated(self) -> bool:
        """Whether the weights of this step have been scored."""
        return bool(self.history) and self.history[-1]["step"] == self.step


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """Everything one training run works with.

    Attributes:
        scorer: The model.
        tasks: Its tasks, by index as in the plan.
        plan: The order of the run.
        settings: Optimizer, training, evaluation and checkpoint settings.
        accelerator: Ranks and device.
        workers: Threads that share this rank's micro-batches.
        evaluate: Scores the dev sets.
        log: Where the run speaks.
        folder: The run's folder; None saves no checkpoint.
        identity: What its checkpoints belong to.
        engine: How the ranks work together.
        stop: Whether somebody asked this rank to stop.
        resumable: Whether its checkpoints hold what going on needs, the optimizer's moments.
    """

    scorer: Scorer
    tasks: Sequence[EncodedTask]
    plan: Plan
    settings: StageSettings
    accelerator: Accelerator
    evaluate: Evaluate
    log: RunLog
    folder: Path | None
    identity: Mapping[str, Any]
    workers: Workers = field(default_factory=Workers)
    engine: Engine = field(default_factory=Engine)
    stop: StopRequest = field(default_factory=StopRequest)
    resumable: bool = True


def train(run: Run, checkpoint: Checkpoint | None = None) -> Progress:
    """Train to the last step, or until patience runs out; the model ends with the weights of the best evaluation.

    Args:
        run: What to train.
        checkpoint: Where to go on from.

    Raises:
        DivergedError: Something is not finite.
        CheckpointError: A checkpoint cannot be written.
        Preempted: Some rank was asked to stop: all of them end after the same step, which is saved.
    """
    progress = Progress() if checkpoint is None else _restore(run, checkpoint)
    with closing(_optimizer(run, {} if checkpoint is None else checkpoint.optimizer)) as optimizer:
        _go_on(run, optimizer, progress, resumed=checkpoint is not None)
    run.scorer.restore(progress.best_tensors)
    return progress


def _go_on(run: Run, optimizer: Optimizer, progress: Progress, *, resumed: bool) -> None:
    """Do the steps that are left, with their evaluations and checkpoints."""
    settings, training = run.settings, run.settings.training
    schedule = _schedule(run)
    unscored = resumed and _evaluation_due(run, progress)  # stopped between a step and its evaluation
    while unscored or (progress.step < training.steps and not progress.stopped_early):
        if not unscored:
            _advance(run, optimizer, schedule, progress)
        unscored = _evaluation_due(run, progress) and not _evaluate(run, progress)
        stop = any_rank(run.accelerator, run.stop.noted)
        if stop or progress.evaluated or _due(settings.checkpoints.every_steps, progress.step):
            _save(run, optimizer, progress, unscored=unscored)
        if stop:
            run.log.say(f"step {progress.step}: asked to stop; go on with --resume auto")
            raise Preempted(progress.step, run.stop.signal or signal.SIGTERM)


def _optimizer(run: Run, state: Mapping[str, Tensor]) -> Optimizer:
    """As the engine has it, over what the model holds now and with moments from a checkpoint."""
    settings = run.settings.optimizer
    adamw = build_optimizer(run.scorer, rates=settings.rates, weight_decay=settings.weight_decay)
    zero = run.engine.zero
    optimizer = WholeOptimizer(run.scorer, adamw) if zero is None else ZeroOptimizer(run.scorer, adamw, zero)
    optimizer.restore(state)
    return optimizer


def _advance(run: Run, optimizer: Optimizer, schedule: Schedule, progress: Progress) -> None:
    """Do one step and record it."""
    began = time.perf_counter()
    factor = schedule(progress.step)
    optimizer.set_learning_rates(factor)
    result = train_step(
        progress.step,
        run.plan.step(progress.step),
        scorer=run.scorer,
        tasks=run.tasks,
        optimizer=optimizer,
        accelerator=run.accelerator,
        workers=run.workers,
        clip_norm=run.settings.optimizer.clip_norm,
        seed=run.settings.training.seed,
        ordered=run.settings.training.gradient_sum == "ordered",
    )
    seconds = time.perf_counter() - began
    progress.step += 1
    progress.seconds += seconds
    progress.pieces += result.num_pieces
    run.log.step(progress.step, _metrics(result, factor, seconds))


def _schedule(run: Run) -> Schedule:
    optimizer, training = run.settings.optimizer, run.settings.training
    if optimizer.schedule == "linear":
        return linear_schedule(warmup_steps=optimizer.warmup_steps, steps=training.steps)
    pieces = sum(task.train_pieces for task in run.tasks)
    per_step = training.tokens_per_micro_batch * training.micro_batches
    return epoch_schedule(
        gamma=optimizer.gamma, steps_per_epoch=max(pieces / per_step, 1.0), warmup_steps=optimizer.warmup_steps
    )


def _metrics(result: StepResult, factor: float, seconds: float) -> dict[str, float]:
    return {
        "train/loss": result.loss,
        **{f"train/{task}/loss": loss for task, loss in result.task_loss.items()},
        "optim/gradient_norm": result.gradient_norm,
        "optim/schedule": factor,
        "perf/pieces_per_second": result.num_pieces / seconds,
    }


def _evaluation_due(run: Run, progress: Progress) -> bool:
    """Whether the weights of this step are to be scored, and have not been."""
    at = progress.step == run.settings.training.steps or _due(run.settings.evaluation.every_steps, progress.step)
    return at and not progress.evaluated


def _evaluate(run: Run, progress: Progress) -> bool:
    """Score the dev sets and keep the best weights; False when a request to stop came first."""
    settings = run.settings.evaluation
    try:
        by_task = dict(run.evaluate(settings.dev_limit))
    except Abandoned:
        return False
    score = selection_score(by_task, settings.select_by)
    progress.history.append({"step": progress.step, "tasks": by_task})
    progress.scores.append(score)
    metrics = {f"dev/{task.task.name}/{task.task.spec.metric}": by_task[task.task.name] for task in run.tasks}
    run.log.evaluation(progress.step, {**metrics, "dev/score": score})
    if progress.best == len(progress.scores) - 1:
        progress.best_tensors = {
            part: {name: value.detach().clone() for name, value in own.items()}
            for part, own in run.scorer.tensors().items()
        }
    waited = len(progress.scores) - 1 - (progress.best or 0)
    if settings.patience is not None and waited >= settings.patience:
        progress.stopped_early = True
        run.log.say(f"step {progress.step}: no better dev score in {waited} evaluations; stopping early")
    return True


def selection_score(by_task: Mapping[str, float], select_by: str) -> float:
    """One number to choose a checkpoint by: the unweighted mean, the minimum, or one task's score."""
    if select_by == "macro_mean":
        return sum(by_task.values()) / len(by_task)
    return min(by_task.values()) if select_by == "min" else by_task[select_by]


def _due(interval: int | None, step: int) -> bool:
    return interval is not None and step % interval == 0


def _save(run: Run, optimizer: Optimizer, progress: Progress, *, unscored: bool) -> None:
    """Publish a checkpoint from rank 0, where the run has a folder; all ranks go on when it is there, or fail."""
    if run.folder is None:
        return
    moments = optimizer.tensors() if run.resumable else {}  # ranks may have to send theirs
    with together(run.accelerator):
        folder = run.folder / "checkpoints"
        again = unscored and (folder / folder_name(progress.step, unscored=True)).exists()  # resumed, stopped again
        if again or not run.accelerator.is_main_process:
            return
        counters = {
            "step": progress.step,
            "score": progress.scores[-1] if progress.evaluated else None,
            "stopped_early": progress.stopped_early,
            "history": progress.history,
            "scores": progress.scores,
            "pieces": progress.pieces,
            "seconds": progress.seconds,
        }
        tensors = {
            part: {name: tensor.detach().cpu().contiguous() for name, tensor in own.items()}
            for part, own in run.scorer.tensors().items()
        }
        checkpoint = Checkpoint(**tensors, optimizer=moments, progress=counters, identity=run.identity)
        save_checkpoint(folder, checkpoint, unscored=unscored)
        rotate(run.folder, keep_last=run.settings.checkpoints.keep_last)


def _restore(run: Run, checkpoint: Checkpoint) -> Progress:
    """Put a checkpoint's tensors and counters in place."""
    run.scorer.restore(checkpoint.tensors)
    state = checkpoint.progress
    progress = Progress(
        step=checkpoint.step,
        history=list(state["history"]),
        scores=list(state["scores"]),
        stopped_early=bool(state["stopped_early"]),
        seconds=float(state["seconds"]),
        pieces=int(state["pieces"]),
    )
    if progress.scores and run.folder is not None:
        best_folder = best(run.folder)
        assert best_folder is not None, "the checkpoint that is resumed is there"
        progress.best_tensors = load_checkpoint(best_folder).tensors
    return progress
