"""Learning rates chosen on dev: for every method the same number of trials with the same seeds."""

from dataclasses import replace
from itertools import product
from pathlib import Path

from mpt.base.errors import DivergedError, TrainingError
from mpt.base.files import replace_durable, to_json
from mpt.base.settings import OptimizerSettings, RateName
from mpt.data.tasks import Task
from mpt.experiments.methods import METHODS
from mpt.experiments.trial import Session, Trial, experiment_name, train_trial, written
from mpt.training.ranks import together

TUNING_FILE = "tuning.json"


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
    grid = list(product(*tried))
    chosen = parent / TUNING_FILE
    if (done := written(session, chosen)) is not None:
        return optimizer.model_copy(update=done["chosen"]), len(done["trials"]) * len(tuning.seeds)
    short = _of_trials(session)
    trials: list[dict[str, float | None]] = []
    for values in grid if len(grid) > 1 else []:
        rates = {_field(name): value for name, value in zip(names, values, strict=True)}
        candidate = optimizer.model_copy(update=rates)
        found = [
            _tuning_score(short, Trial(task=task, shots=shots, method=method, seed=seed, optimizer=candidate))
            for seed in tuning.seeds
        ]
        finite = [score for score in found if score is not None]
        dev = sum(finite) / len(finite) if len(finite) == len(found) else None
        trials.append({**rates, "dev": dev})
        session.console.print(
            f"tuning {experiment_name(task.name, shots)} {method}: "
            + ", ".join(f"{name} {value:g}" for name, value in zip(names, values, strict=True))
            + ": "
            + ("diverged" if dev is None else f"dev {100 * dev:.1f}"),
            highlight=False,
        )
    if not trials:
        return optimizer, 0
    usable = [(one["dev"], one) for one in trials if one["dev"] is not None]
    if not usable:
        raise TrainingError(
            f"{parent}: training diverged with every rate of "
            f"{' and '.join(f'tuning.{name}_learning_rates' for name in names)}. Add lower ones"
        )
    best = max(usable, key=lambda pair: pair[0])[1]
    rates = {_field(name): best[_field(name)] for name in names}
    with together(session.accelerator):
        if session.accelerator.is_main_process:
            parent.mkdir(parents=True, exist_ok=True)
            replace_durable(chosen, to_json({"chosen": rates, "trials": trials}))
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
    """Best dev score of a trial; None when its rates are too high to train with."""
    try:
        _, progress, _ = train_trial(session, trial, None)
    except DivergedError:
        return None
    assert progress.best is not None, "the last step is always evaluated"
    return progress.scores[progress.best]
