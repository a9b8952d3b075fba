"""One trial: a method on a task with a seed and learning rates, trained and scored; and rates chosen on dev by trials.

Every comparison of methods is made of trials, so all methods have the same trainer, data, order and evaluation, and the
same number of trials with the same seeds to choose learning rates.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from accelerate import Accelerator
from rich.console import Console

from mpt.base.errors import DivergedError, TrainingError
from mpt.base.files import remove_folder, replace_durable, to_json
from mpt.base.settings import OptimizerSettings, RateName
from mpt.data.encoded import EncodedTask
from mpt.data.manifest.reading import Manifest
from mpt.data.splits import sample_indices
from mpt.data.tasks import Task
from mpt.data.windows import select
from mpt.evaluation.evaluator import evaluate_task
from mpt.experiments.execution import Inputs, build_plan, cost_of, execute, sharing
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
TUNING_FILE = "tuning.json"
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
    about = {"task": task.name, "shots": trial.shots, "method": trial.method, "seed": trial.seed}
    scores = {"metric": task.spec.metric, "dev": dev.primary, "test": None if test is None else test.primary}
    record: dict[str, Any] = {
        "result": {**about, **scores},
        "best_step": progress.history[progress.best]["step"],
        "optimizer": trial.optimizer.model_dump(mode="json"),
        "trained_parameters": scorer.num_trained,
        "cost": cost_of(progress, session.accelerator),
        "dev": dev.to_json(),
        "test": None if test is None else test.to_json(),
        "test_evaluations": 0 if test is None else 1,
    }
    leave(session, folder / RESULT_FILE, record)
    shown = "" if test is None else f", test {100 * test.primary:.1f}"
    session.console.print(f"{trial.title}: dev {100 * dev.primary:.1f}{shown}", highlight=False)
    return record


def train_trial(session: Session, trial: Trial, folder: Path | None) -> tuple[Scorer, Progress, EncodedTask]:
    """Train one model, which ends with its best weights; returns also how it went and the task as it was trained on.

    Args:
        session: What it has in common with others.
        trial: The model.
        folder: Folder of its run, empty; None writes nothing.

    Raises:
        DivergedError: The learning rates are too high to train with.
        Preempted: Asked to stop.
    """
    task, method = trial.task, METHODS[trial.method]
    start = session.start.of(method)
    own = {"optimizer": trial.optimizer, "prompt": start.prompt_settings}
    training = session.settings.training.model_copy(update={"seed": trial.seed})
    settings = session.settings.model_copy(update={**own, "training": training})
    encoded = session.inputs.of(task, start.backbone.word_pieces, "train", "dev")
    if trial.shots is not None:
        chosen = sample_indices(task.splits["train"], trial.shots, seed=trial.seed)
        train = select(encoded.splits["train"], np.array(chosen))
        encoded = replace(encoded, splits={**encoded.splits, "train": train})
    scorer = new_scorer(start, encoded, method=method, seed=trial.seed, settings=settings)
    plan = build_plan([encoded], {task.name: 1.0}, settings, tasks_per_step=1, accelerator=session.accelerator)
    more = {"method": trial.method, "shots": trial.shots, "head": settings.head, "init_from": start.origin}
    identity = identity_of(
        scorer.backbone,
        scorer.state.specs,
        [task],
        stage="transfer",
        settings=settings,
        backbone_settings=start.backbone_settings,
        prompt_settings=start.prompt_settings,
        more={**more, "manifest": {"name": session.manifest.name, "sha256": session.manifest.digest}},
    )
    progress = execute(
        scorer,
        [encoded],
        plan,
        settings,
        accelerator=session.accelerator,
        engine=session.engine,
        console=session.console,
        folder=folder,
        identity=identity,
        title=trial.title if session.console.is_terminal else None,
        resumable=False,
    )
    return scorer, progress, encoded


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


def leave(session: Session, path: Path, found: Mapping[str, Any]) -> None:
    """Leave in a file what a later call goes on from; see `written`."""
    with together(session.accelerator):
        if session.accelerator.is_main_process:
            path.parent.mkdir(parents=True, exist_ok=True)
            replace_durable(path, to_json(found))


def _fresh_folder(accelerator: Accelerator, folder: Path) -> None:
    """An empty run folder; a run that was cut off is short enough to be done again from its start."""
    with together(accelerator):
        if accelerator.is_main_process:
            if folder.exists():
                remove_folder(folder)
            folder.mkdir(parents=True)


def tuned(session: Session, task: Task, shots: int | None, method: str, parent: Path) -> tuple[OptimizerSettings, int]:
    """The learning rates with the best dev score; the settings' own when there is nothing to choose.

    Args:
        session: What all trials have in common.
        task: The task.
        shots: Training sentences; None for all.
        method: Name of the method.
        parent: Folder of the method's runs, where the choice is written down and found again.

    Returns:
        The optimizer with them, and how many models were trained to choose them.

    Raises:
        TrainingError: Every pair of rates diverged.
    """
    optimizer, tuning = session.settings.optimizer, session.settings.tuning
    names = session.start.rates(METHODS[method])
    tried = (getattr(tuning, f"{name}_learning_rates") or (getattr(optimizer, _field(name)),) for name in names)
    grid = [{_field(name): value for name, value in zip(names, values, strict=True)} for values in product(*tried)]
    chosen = parent / TUNING_FILE
    if (done := written(session, chosen)) is not None:
        return optimizer.model_copy(update=done["chosen"]), len(done["trials"]) * len(tuning.seeds)
    short = _of_trials(session)
    trials: list[dict[str, float | None]] = []
    for rates in grid if len(grid) > 1 else []:
        candidate = Trial(task=task, shots=shots, method=method, seed=0, optimizer=optimizer.model_copy(update=rates))
        found = [_tuning_score(short, replace(candidate, seed=seed)) for seed in tuning.seeds]
        finite = [score for score in found if score is not None]
        dev = sum(finite) / len(finite) if len(finite) == len(found) else None
        trials.append({**rates, "dev": dev})
        shown = ", ".join(f"{name} {rates[_field(name)]:g}" for name in names)
        came = "diverged" if dev is None else f"dev {100 * dev:.1f}"
        session.console.print(f"tuning {experiment_name(task.name, shots)} {method}: {shown}: {came}", highlight=False)
    if not trials:
        return optimizer, 0
    usable = [(one["dev"], rates) for one, rates in zip(trials, grid, strict=True) if one["dev"] is not None]
    if not usable:
        tuned_by = " and ".join(f"tuning.{name}_learning_rates" for name in names)
        raise TrainingError(f"{parent}: training diverged with every rate of {tuned_by}. Add lower ones")
    rates = max(usable, key=lambda pair: pair[0])[1]
    leave(session, chosen, {"chosen": rates, "trials": trials})
    return optimizer.model_copy(update=rates), len(trials) * len(tuning.seeds)


def _field(rate: RateName) -> str:
    """The setting of a learning rate."""
    return f"{rate}_learning_rate"


def _of_trials(session: Session) -> Session:
    """The same for trials, which may be shorter than the runs that count."""
    settings = session.settings
    training = settings.training.model_copy(update={"steps": settings.tuning.steps or settings.training.steps})
    return replace(session, settings=settings.model_copy(update={"training": training}))


def _tuning_score(session: Session, trial: Trial) -> float | None:
    """Best dev score of a trial; None where it diverged."""
    try:
        _, progress, _ = train_trial(session, trial, None)
    except DivergedError:
        return None
    assert progress.best is not None, "the last step is always evaluated"
    return progress.scores[progress.best]
