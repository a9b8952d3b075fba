"""Stage 2: the pretrained prompt to single tasks, beside baselines at equal steps and equal tuning."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from rich.console import Console

from mpt.config import BackboneSettings, OptimizerSettings, PromptSettings, TransferSettings
from mpt.data.encoded import EncodedTask
from mpt.data.manifest import Manifest, load_manifest
from mpt.data.splits import sample_sentences
from mpt.data.tasks import Task, load_tasks
from mpt.errors import ConfigError, DivergedError, TrainingError
from mpt.evaluation.comparison import TRANSFER, Result, comparison_json, comparison_markdown, comparison_table
from mpt.evaluation.evaluator import evaluate_task
from mpt.files import remove_folder, replace_durable, to_json
from mpt.model.initialisation import initial_prompt
from mpt.model.tagger import Tagger
from mpt.serving.saved import SavedModel, open_saved
from mpt.stages.assembly import (
    Resume,
    build_plan,
    encode_tasks,
    execute,
    keep_trunk,
    new_bank,
    open_run_folder,
    sharing,
    tell,
)
from mpt.stages.identity import identity_of
from mpt.stages.launch import build_accelerator, claim_cores, describe_launch, speaker, versions
from mpt.stages.target_head import build_head
from mpt.strict_yaml import dump
from mpt.training.checkpoint import read_json, verify
from mpt.training.engines import Engine, find_engine
from mpt.training.loop import Progress
from mpt.training.ranks import exchange, require_alike, together

RESULT_FILE = "result.json"


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
    """What all trials of a call share."""

    saved: SavedModel
    settings: TransferSettings
    manifest: Manifest
    accelerator: Accelerator
    engine: Engine
    console: Console
    folder: Path


def experiment_name(task: str, shots: int | None) -> str:
    """Folder of a task's runs with a number of training sentences."""
    return task if shots is None else f"{task}-{shots}"


def transfer(
    settings: TransferSettings,
    init_from: Path,
    manifest_path: Path,
    folder: Path,
    *,
    tasks: Sequence[str],
    shots: Sequence[int],
    resume: Resume,
    backbone: str | None,
    console: Console,
) -> list[Result]:
    """Train a model for each task, number of shots, method and seed, and compare.

    Args:
        settings: Training, methods, seeds and tuning.
        init_from: Pretraining run or checkpoint.
        manifest_path: Declares the target tasks.
        folder: Folder of the results to make, or to go on with.
        tasks: Names of target tasks; none stands for all of the manifest.
        shots: Numbers of training sentences; none stands for each task's `shots` in the manifest.
        resume: Keep the finished runs of `folder` and do the others: "never", "auto" (if it is there), "must".
        backbone: Where the backbone lies now, when it has moved.
        console: Where people read.

    Raises:
        MptError: Of the fitting class; see the modules called.
        Preempted: Asked to stop; the finished runs are kept.
    """
    accelerator = build_accelerator(folder)
    engine = find_engine(accelerator, clip_norm=settings.optimizer.clip_norm)
    console = speaker(accelerator, console)
    with together(accelerator):
        manifest = load_manifest(manifest_path)
        loaded, notices = load_tasks(manifest, names=tasks or None, splits=("train", "dev", "test"))
        wanted = [(task, count) for task in loaded for count in (shots or task.spec.shots or (None,))]
        saved = open_saved(init_from, reference=backbone, device=accelerator.device, sharding=engine.sharding)
        _check_targets(saved, wanted, settings)
        given = _given(settings, manifest, saved)
        notices += claim_cores(accelerator)
    require_alike(accelerator, _facts(given, loaded, shots))
    tell(console, notices)
    line = describe_launch(accelerator, engine, settings.training.micro_batches)
    console.print(line, highlight=False, soft_wrap=True)
    with together(accelerator):
        if accelerator.is_main_process:
            open_run_folder(folder, given, resume=resume)
    session = Session(
        saved=saved,
        settings=settings,
        manifest=manifest,
        accelerator=accelerator,
        engine=engine,
        console=console,
        folder=folder,
    )
    results = _run_all(session, wanted)
    console.print(f"results: {folder}", highlight=False)
    accelerator.end_training()
    return results


def _given(settings: TransferSettings, manifest: Manifest, saved: SavedModel) -> dict[str, bytes]:
    """Files that the results folder starts with: what the runs were given."""
    return {
        "config.yaml": dump(settings).encode(),
        "manifest.json": to_json(manifest.resolved()),
        "init_from.json": to_json({"sha256": verify(saved.folder), "tasks": list(saved.tasks)}),
    }


def _facts(given: Mapping[str, bytes], tasks: Sequence[Task], shots: Sequence[int]) -> dict[str, Any]:
    """What must be the same on every rank."""
    facts = {"shots": list(shots), "versions": versions(), "files": {task.name: dict(task.digests) for task in tasks}}
    return facts | {name: content.decode() for name, content in given.items()}


def _run_all(session: Session, wanted: Sequence[tuple[Task, int | None]]) -> list[Result]:
    """Every method of every task; a task's results are written when its methods are done, and all shown at the end."""
    results: list[Result] = []
    for task, count in wanted:
        for method in [*session.settings.baselines, TRANSFER]:
            results += _run_method(session, task, count, method)
        with together(session.accelerator):
            _write(session, results)
    session.console.print(comparison_table(results, title=f"from {session.saved.folder}"))
    return results


def _check_targets(saved: SavedModel, wanted: Sequence[tuple[Task, int | None]], settings: TransferSettings) -> None:
    """Shots that a task does not have, or a head that cannot be copied, are errors before anything is trained."""
    problems = [
        f'task "{task.name}": {count} shots asked for, train has {len(task.splits["train"])} sentences. Ask for fewer'
        for task, count in wanted
        if count is not None and count > len(task.splits["train"])
    ]
    if problems:
        raise ConfigError(problems)
    for task, _ in wanted:
        build_head(saved, task, mode=settings.head, seed=0, dropout=0.0)


def _run_method(session: Session, task: Task, shots: int | None, method: str) -> list[Result]:
    """Tune on dev, then one run for each seed."""
    parent = session.folder / experiment_name(task.name, shots) / method
    optimizer = _tuned(session, task, shots, method, parent)
    results = []
    for seed in session.settings.seeds:
        trial = Trial(task=task, shots=shots, method=method, seed=seed, optimizer=optimizer)
        folder = parent / f"seed-{seed}"
        done = _written(session, folder / RESULT_FILE)
        results.append(_run_trial(session, trial, folder) if done is None else Result(**done["result"]))
    return results


def _written(session: Session, path: Path) -> dict[str, Any] | None:
    """What an earlier call left in a file, as rank 0 sees it; None where it left none."""
    with together(session.accelerator):
        found = read_json(path) if session.accelerator.is_main_process and path.exists() else None
    return exchange(session.accelerator, found)[0]


def _tuned(session: Session, task: Task, shots: int | None, method: str, parent: Path) -> OptimizerSettings:
    """The learning rates with the best dev score; the settings' own when there is nothing to choose."""
    optimizer, tuning = session.settings.optimizer, session.settings.tuning
    prompt_rates = tuning.prompt_learning_rates if method != "head" else ()
    grid = list(
        product(
            prompt_rates or (optimizer.prompt_learning_rate,),
            tuning.head_learning_rates or (optimizer.head_learning_rate,),
        )
    )
    chosen = parent / "tuning.json"
    if (done := _written(session, chosen)) is not None:
        return optimizer.model_copy(update=done["chosen"])
    trials: list[dict[str, float | None]] = []
    for prompt_rate, head_rate in grid if len(grid) > 1 else []:
        rates = {"prompt_learning_rate": prompt_rate, "head_learning_rate": head_rate}
        candidate = optimizer.model_copy(update=rates)
        found = [
            _tuning_score(session, Trial(task=task, shots=shots, method=method, seed=seed, optimizer=candidate))
            for seed in tuning.seeds
        ]
        finite = [score for score in found if score is not None]
        dev = sum(finite) / len(finite) if len(finite) == len(found) else None
        trials.append({**rates, "dev": dev})
        session.console.print(
            f"tuning {experiment_name(task.name, shots)} {method}: prompt {prompt_rate:g}, head {head_rate:g}: "
            + ("diverged" if dev is None else f"dev {100 * dev:.1f}"),
            highlight=False,
        )
    if not trials:
        return optimizer
    usable = [(one["dev"], one) for one in trials if one["dev"] is not None]
    if not usable:
        raise TrainingError(
            f"{parent}: training diverged with every rate of tuning.prompt_learning_rates and "
            "tuning.head_learning_rates. Add lower ones"
        )
    best = max(usable, key=lambda pair: pair[0])[1]
    rates = {name: best[name] for name in ("prompt_learning_rate", "head_learning_rate")}
    with together(session.accelerator):
        if session.accelerator.is_main_process:
            parent.mkdir(parents=True, exist_ok=True)
            replace_durable(chosen, to_json({"chosen": rates, "trials": trials}))
    return optimizer.model_copy(update=rates)


def _tuning_score(session: Session, trial: Trial) -> float | None:
    """Best dev score of a trial; None when its rates are too high to train with."""
    try:
        _, progress, _ = _train(session, trial, None)
    except DivergedError:
        return None
    assert progress.best is not None, "the last step is always evaluated"
    return progress.scores[progress.best]


def _run_trial(session: Session, trial: Trial, folder: Path) -> Result:
    """Train one model that counts, score dev and, once, test, and leave a run folder."""
    _fresh_folder(session.accelerator, folder)
    tagger, progress, encoded = _train(session, trial, folder)
    assert progress.best is not None
    tested = session.settings.test and "test" in encoded.splits
    with sharing(session.settings, session.accelerator, session.engine) as share:
        dev = evaluate_task(tagger, encoded, "dev", share=share)
        test = evaluate_task(tagger, encoded, "test", share=share) if tested else None
    result = Result(
        task=trial.task.name,
        shots=trial.shots,
        method=trial.method,
        seed=trial.seed,
        metric=trial.task.metric,
        dev=dev.primary,
        test=None if test is None else test.primary,
    )
    record: dict[str, Any] = {
        "result": asdict(result),
        "best_step": progress.history[progress.best]["step"],
        "optimizer": trial.optimizer.model_dump(mode="json"),
        "dev": dev.to_json(),
        "test": None if test is None else test.to_json(),
        "test_evaluations": 0 if test is None else 1,
    }
    with together(session.accelerator):
        if session.accelerator.is_main_process:
            replace_durable(folder / RESULT_FILE, to_json(record))
    shown = "" if test is None else f", test {100 * test.primary:.1f}"
    session.console.print(f"{trial.title}: dev {100 * dev.primary:.1f}{shown}", highlight=False)
    return result


def _fresh_folder(accelerator: Accelerator, folder: Path) -> None:
    """An empty run folder; a run that was cut off is short enough to be done again from its start."""
    with together(accelerator):
        if accelerator.is_main_process:
            if folder.exists():
                remove_folder(folder)
            folder.mkdir(parents=True)


def _train(session: Session, trial: Trial, folder: Path | None) -> tuple[Tagger, Progress, EncodedTask]:
    settings = session.settings.model_copy(
        update={
            "optimizer": trial.optimizer,
            "training": session.settings.training.model_copy(update={"seed": trial.seed}),
        }
    )
    task = trial.task
    if trial.shots is not None:
        train = tuple(sample_sentences(task.splits["train"], trial.shots, seed=trial.seed))
        task = replace(task, splits={**task.splits, "train": train})
    (encoded,), _ = encode_tasks([task], session.saved.tagger.backbone)
    tagger = _new_tagger(session.saved, encoded, trial, settings)
    shapes = [] if tagger.bank is None else tagger.bank.shapes
    backbone_settings = _backbone_settings(session.saved)
    (encoded,), notices = keep_trunk([encoded], tagger.backbone, shapes, backbone_settings, session.accelerator)
    tell(session.console, notices)
    plan = build_plan([encoded], {task.name: 1.0}, settings, tasks_per_step=1, accelerator=session.accelerator)
    saved = session.saved.checkpoint.identity
    identity = identity_of(
        tagger.backbone,
        shapes,
        [task],
        stage="transfer",
        settings=settings,
        backbone_settings=backbone_settings,
        prompt_settings=_prompt_settings(session.saved, settings),
        more={
            "method": trial.method,
            "shots": trial.shots,
            "head": settings.head,
            "init_from": {
                "stage": saved["stage"],
                "tasks": list(saved["tasks"]),
                "step": session.saved.checkpoint.step,
            },
            "manifest": {"name": session.manifest.name, "sha256": session.manifest.digest},
        },
    )
    progress = execute(
        tagger,
        [encoded],
        plan,
        settings,
        accelerator=session.accelerator,
        engine=session.engine,
        console=session.console,
        folder=folder,
        identity=identity,
        title=trial.title if session.console.is_terminal else None,
    )
    return tagger, progress, encoded


def _new_tagger(saved: SavedModel, encoded: EncodedTask, trial: Trial, settings: TransferSettings) -> Tagger:
    """The model that a method starts from."""
    backbone, bank = saved.tagger.backbone, saved.tagger.bank
    transferred = trial.method == TRANSFER
    dropout = settings.training.head_dropout
    mode = settings.head if transferred else "fresh"
    head = build_head(saved, encoded.task, mode=mode, seed=trial.seed, dropout=dropout)
    if trial.method == "head" or bank is None:
        return Tagger(backbone, None, {encoded.task.name: head})
    shape, prompting = bank.shapes[0], _prompt_settings(saved, settings)
    prompt = bank.slots[0].detach().cpu()
    if not transferred:
        texts = [encoded.splits["train"]]
        prompt = initial_prompt(backbone, shape, texts, initialisation=prompting.initialisation, seed=trial.seed)
    return Tagger(backbone, new_bank(prompt, shape, prompting, seed=trial.seed), {encoded.task.name: head})


def _prompt_settings(saved: SavedModel, settings: TransferSettings) -> PromptSettings:
    """The pretrained prompt's, but for what is trained in its place."""
    own = saved.checkpoint.identity["prompt"] | settings.prompt.model_dump()
    return PromptSettings.model_validate(own, strict=False)


def _backbone_settings(saved: SavedModel) -> BackboneSettings:
    own = saved.checkpoint.identity["backbone"]
    return BackboneSettings.model_validate({key: own[key] for key in BackboneSettings.model_fields if key in own})


def _write(session: Session, results: Sequence[Result]) -> None:
    """Leave the results so far: a call that is cut off loses the run in progress only."""
    if not session.accelerator.is_main_process:
        return
    identity = session.saved.checkpoint.identity
    record = {
        "stage": "transfer",
        "init_from": {"folder": str(session.saved.folder), "tasks": list(identity["tasks"])},
        "experiments": comparison_json(results),
        "runs": [asdict(result) for result in results],
    }
    replace_durable(session.folder / "results.json", to_json(record))
    replace_durable(session.folder / "results.md", comparison_markdown(results).encode())
