"""One trial: a method on a task with a seed and learning rates, trained and scored.

Every comparison of methods is made of trials, so all methods have the same trainer, data, order and evaluation.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from accelerate import Accelerator
from rich.console import Console

from mpt.base.files import remove_folder, replace_durable, to_json
from mpt.base.settings import OptimizerSettings
from mpt.data.encoded import EncodedTask
from mpt.data.manifest.reading import Manifest
from mpt.data.splits import sample_indices
from mpt.data.tasks import Task
from mpt.data.windows import select
from mpt.evaluation.evaluator import evaluate_task
from mpt.experiments.execution import build_plan, cost_of, execute, sharing
from mpt.experiments.inputs import Inputs
from mpt.experiments.methods import METHODS
from mpt.experiments.settings import TrialSettings
from mpt.experiments.start import Start, new_scorer
from mpt.model.scorer import Scorer
from mpt.training.checkpoint import read_json
from mpt.training.engines import Engine
from mpt.training.identity import identity_of
from mpt.training.loop import Progress
from mpt.training.ranks import exchange, together

RESULT_FILE = "result.json"
Wanted: TypeAlias = Sequence[tuple[Task, int | None]]
"""Tasks, each with its number of training examples; None for all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """One model to train: a method on a task with a seed and learning rates."""

    task: Task
    shots: int | None
    method: str
    seed: int
    optimizer: OptimizerSettings

    @property
    def title(self) -> str:
        """What its progress line is called."""
        return f"{experiment_name(self.task.name, self.shots)} {self.method} seed {self.seed}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """What all trials of a row share.

    Attributes:
        start: Where its models start.
        settings: Of the row.
        manifest: Declares the tasks.
        accelerator, engine, console: Of the call.
        inputs: Tasks as word pieces, of all rows.
    """

    start: Start
    settings: TrialSettings
    manifest: Manifest
    accelerator: Accelerator
    engine: Engine
    console: Console
    inputs: Inputs = field(default_factory=Inputs)


def experiment_name(task: str, shots: int | None) -> str:
    """Folder of a task's runs with a number of training sentences."""
    return task if shots is None else f"{task}-{shots}"


def run_trial(session: Session, trial: Trial, folder: Path) -> dict[str, Any]:
    """Train one model that counts, score dev and, once, test, and leave a run folder; returns what it says."""
    _fresh_folder(session.accelerator, folder)
    scorer, progress, encoded = train_trial(session, trial, folder)
    assert progress.best is not None
    task, test = trial.task, None
    with sharing(session.settings, session.accelerator, session.engine) as share:
        dev = evaluate_task(scorer, encoded, "dev", share=share)
        if session.settings.test and "test" in task.splits:
            encoded = session.inputs.of(task, scorer.backbone.word_pieces, "test")
            test = evaluate_task(scorer, encoded, "test", share=share)
    result = {
        "task": task.name,
        "shots": trial.shots,
        "method": trial.method,
        "seed": trial.seed,
        "metric": task.spec.metric,
        "dev": dev.primary,
        "test": None if test is None else test.primary,
    }
    record: dict[str, Any] = {
        "result": result,
        "best_step": progress.history[progress.best]["step"],
        "optimizer": trial.optimizer.model_dump(mode="json"),
        "trained_parameters": scorer.num_trained,
        "cost": cost_of(progress, session.accelerator),
        "dev": dev.to_json(),
        "test": None if test is None else test.to_json(),
        "test_evaluations": 0 if test is None else 1,
    }
    with together(session.accelerator):
        if session.accelerator.is_main_process:
            replace_durable(folder / RESULT_FILE, to_json(record))
    shown = "" if test is None else f", test {100 * test.primary:.1f}"
    session.console.print(f"{trial.title}: dev {100 * dev.primary:.1f}{shown}", highlight=False)
    return record


def train_trial(session: Session, trial: Trial, folder: Path | None) -> tuple[Scorer, Progress, EncodedTask]:
    """Train one model, which ends with the weights of its best evaluation.

    Args:
        session: What it has in common with others.
        trial: The model.
        folder: Folder of its run, empty; None writes nothing.

    Returns:
        The model, what training came to, and the task as it was trained on.

    Raises:
        DivergedError: The learning rates are too high to train with.
        Preempted: Asked to stop.
    """
    task, method = trial.task, METHODS[trial.method]
    start = session.start.of(method)
    settings = session.settings.model_copy(
        update={
            "optimizer": trial.optimizer,
            "prompt": start.prompt_settings,
            "training": session.settings.training.model_copy(update={"seed": trial.seed}),
        }
    )
    encoded = session.inputs.of(task, start.backbone.word_pieces, "train", "dev")
    if trial.shots is not None:
        chosen = sample_indices(task.splits["train"], trial.shots, seed=trial.seed)
        train = select(encoded.splits["train"], np.array(chosen))
        encoded = replace(encoded, splits={**encoded.splits, "train": train})
    scorer = new_scorer(start, encoded, method=method, seed=trial.seed, settings=settings)
    plan = build_plan([encoded], {task.name: 1.0}, settings, tasks_per_step=1, accelerator=session.accelerator)
    progress = execute(
        scorer,
        [encoded],
        plan,
        settings,
        accelerator=session.accelerator,
        engine=session.engine,
        console=session.console,
        folder=folder,
        identity=_identity(session, trial, start, scorer, settings),
        title=trial.title if session.console.is_terminal else None,
        resumable=False,
    )
    return scorer, progress, encoded


def _identity(session: Session, trial: Trial, start: Start, scorer: Scorer, settings: TrialSettings) -> dict[str, Any]:
    return identity_of(
        scorer.backbone,
        scorer.state.specs,
        [trial.task],
        stage="transfer",
        settings=settings,
        backbone_settings=start.backbone_settings,
        prompt_settings=start.prompt_settings,
        more={
            "method": trial.method,
            "shots": trial.shots,
            "head": settings.head,
            "init_from": start.origin,
            "manifest": {"name": session.manifest.name, "sha256": session.manifest.digest},
        },
    )


def shots_problems(wanted: Wanted) -> list[str]:
    """What is wrong where more training examples are asked for than there are."""
    return [
        f'task "{task.name}": {count} shots asked for, train has {len(task.splits["train"])} {task.spec.kind.noun}s. '
        "Ask for fewer"
        for task, count in wanted
        if count is not None and count > len(task.splits["train"])
    ]


def written(session: Session, path: Path) -> dict[str, Any] | None:
    """What an earlier call left in a file, as rank 0 sees it; None where it left none."""
    with together(session.accelerator):
        found = read_json(path) if session.accelerator.is_main_process and path.exists() else None
    return exchange(session.accelerator, found)[0]


def _fresh_folder(accelerator: Accelerator, folder: Path) -> None:
    """An empty run folder; a run that was cut off is short enough to be done again from its start."""
    with together(accelerator):
        if accelerator.is_main_process:
            if folder.exists():
                remove_folder(folder)
            folder.mkdir(parents=True)
