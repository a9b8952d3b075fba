"""Stage 2: the pretrained prompt to single tasks, beside baselines at equal steps and equal tuning."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console

from mpt.base.errors import ConfigError
from mpt.base.files import replace_durable, to_json
from mpt.base.strict_yaml import dump
from mpt.data.manifest.reading import Manifest, load_manifest
from mpt.data.tasks import Task, load_tasks
from mpt.experiments.comparison import TRANSFER, Result, comparison_json, comparison_markdown, comparison_table
from mpt.experiments.run_folder import Resume, open_results
from mpt.experiments.settings import TransferSettings
from mpt.experiments.start import require_trainable, start_from
from mpt.experiments.target_head import build_head
from mpt.experiments.trial import (
    RESULT_FILE,
    Session,
    Trial,
    Wanted,
    experiment_name,
    run_trial,
    shots_problems,
    written,
)
from mpt.experiments.tuning import tuned
from mpt.model.language_head import verbalizer_notices
from mpt.serving.saved import SavedModel, open_saved
from mpt.training.checkpoint import verify
from mpt.training.engines import find_engine
from mpt.training.launch import build_accelerator, describe_launch, settle, speaker, versions
from mpt.training.ranks import require_alike, together
from mpt.training.runlog import tell


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
        start = start_from(saved, settings.prompt)
        heads_alone = [] if saved.tagger.bank is not None else ["head"]  # what is left of a transfer without a prompt
        require_trainable([*settings.baselines, *heads_alone], loaded, engine)
        _check_targets(saved, wanted, settings)
        given = _given(settings, manifest, saved)
        notices += verbalizer_notices(start.backbone, loaded) + settle(accelerator, start.backbone_settings.dtype)
    require_alike(accelerator, _facts(given, loaded, shots))
    tell(console, notices)
    line = describe_launch(accelerator, engine, settings.training.micro_batches)
    open_results(accelerator, console, folder, given, line=line, resume=resume)
    session = Session(
        start=start,
        settings=settings,
        manifest=manifest,
        accelerator=accelerator,
        engine=engine,
        console=console,
        folder=folder,
    )
    results = _run_all(session, wanted, settings.baselines)
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


def _run_all(session: Session, wanted: Wanted, baselines: Sequence[str]) -> list[Result]:
    """Every method of every task; a task's results are written when its methods are done, and all shown at the end."""
    results: list[Result] = []
    start = session.start
    pretrained = start.pretrained
    methods = [*baselines, *([] if pretrained is None else [TRANSFER])]
    for task, count in wanted:
        for method in methods:
            results += _run_method(session, task, count, method)
        with together(session.accelerator):
            _write(session, results)
    origin = start.backbone.identity.reference if pretrained is None else pretrained.folder
    session.console.print(comparison_table(results, title=f"from {origin}"))
    return results


def _check_targets(saved: SavedModel, wanted: Wanted, settings: TransferSettings) -> None:
    """Shots that a task does not have, or a head that cannot be copied, are errors before anything is trained."""
    problems = shots_problems(wanted)
    if problems:
        raise ConfigError(problems)
    for task, _ in wanted:
        build_head(saved, task, mode=settings.head, seed=0, dropout=0.0)


def _run_method(session: Session, task: Task, shots: int | None, method: str) -> list[Result]:
    """Tune on dev, then one run for each seed."""
    parent = session.folder / experiment_name(task.name, shots) / method
    optimizer = tuned(session, task, shots, method, parent)
    results = []
    for seed in session.settings.seeds:
        trial = Trial(task=task, shots=shots, method=method, seed=seed, optimizer=optimizer)
        folder = parent / f"seed-{seed}"
        done = written(session, folder / RESULT_FILE)
        results.append(run_trial(session, trial, folder) if done is None else Result(**done["result"]))
    return results


def _write(session: Session, results: Sequence[Result]) -> None:
    """Leave the results so far: a call that is cut off loses the run in progress only."""
    if not session.accelerator.is_main_process:
        return
    saved = session.start.pretrained
    record = {
        "stage": "transfer",
        "init_from": None if saved is None else {"folder": str(saved.folder), "tasks": list(saved.tasks)},
        "experiments": comparison_json(results),
        "runs": [asdict(result) for result in results],
    }
    replace_durable(session.folder / "results.json", to_json(record))
    replace_durable(session.folder / "results.md", comparison_markdown(results).encode())
