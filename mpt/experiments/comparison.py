"""The stage behind transfers and comparisons: rows of methods against tasks over seeds.

Every row has the same trainer, data, order and evaluation and is tuned on dev with the same number of trials; each
model that counts is scored on test once.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import reduce
from operator import getitem
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from rich.console import Console

from mpt.base.errors import ConfigError
from mpt.base.files import replace_durable, to_json
from mpt.base.strict_yaml import dump
from mpt.data.manifest.reading import Manifest, load_manifest
from mpt.data.tasks import Task, load_tasks
from mpt.experiments.execution import Inputs
from mpt.experiments.methods import METHODS
from mpt.experiments.run_folder import Resume, open_run_folder
from mpt.experiments.settings import TrialSettings
from mpt.experiments.start import Start, build_head, require_trainable
from mpt.experiments.tables import BESIDE, Result, figure, to_csv
from mpt.experiments.trial import (
    RESULT_FILE,
    Session,
    Trial,
    Wanted,
    experiment_name,
    run_trial,
    shots_problems,
    tuned,
    written,
)
from mpt.training.engines import Engine, find_engine
from mpt.training.launch import build_accelerator, describe_launch, settle, speaker, versions
from mpt.training.ranks import require_alike, together
from mpt.training.runlog import tell


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One row of a comparison, ready to be trained: its name in tables and folders, and where its models start."""

    name: str
    method: str
    settings: TrialSettings
    start: Start


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """What all rows of a call have in common.

    Attributes:
        settings: What the call was given; of what rows share, that of any row.
        folder: Of the results.
        runs: Folder of the runs, each in EXPERIMENT/ROW/seed-N.
        manifest: Declares the tasks.
        tasks: What is trained on.
        wanted: The same with numbers of training examples.
        notices: What is to be told about the tasks.
        accelerator, engine, console: Of this process.
        inputs: The tasks as word pieces.
    """

    settings: TrialSettings
    folder: Path
    runs: Path
    manifest: Manifest
    tasks: Sequence[Task]
    wanted: Wanted
    notices: Sequence[str]
    accelerator: Accelerator
    engine: Engine
    console: Console
    inputs: Inputs = field(default_factory=Inputs)


def open_comparison(
    settings: TrialSettings,
    manifest_path: Path,
    names: Sequence[str],
    shots: Sequence[int | None],
    *,
    folder: Path,
    runs: Path,
    console: Console,
) -> Comparison:
    """Join the other processes and read the tasks; nothing is written.

    No `names` stand for all tasks of the manifest, and no `shots` for the numbers of examples that each of them has.
    """
    accelerator = build_accelerator(folder)
    engine = find_engine(accelerator, clip_norm=settings.optimizer.clip_norm)
    with together(accelerator):
        manifest = load_manifest(manifest_path)
        tasks, notices = load_tasks(manifest, names=names or None, splits=("train", "dev", "test"))
        wanted = [(task, count) for task in tasks for count in (shots or task.spec.shots or (None,))]
        if problems := shots_problems(wanted):
            raise ConfigError(problems)
    return Comparison(
        settings=settings,
        folder=folder,
        runs=runs,
        manifest=manifest,
        tasks=tasks,
        wanted=wanted,
        notices=notices,
        accelerator=accelerator,
        engine=engine,
        console=speaker(accelerator, console),
    )


def begin(
    call: Comparison, given: Mapping[str, bytes], *, dtype: str, notices: Sequence[str] = (), resume: Resume
) -> None:
    """Hold the processes against each other, tell, and make the folder of results or find it.

    `given` are files that the folder starts with, besides settings and manifest; `resume` is as in `open_run_folder`.
    """
    with together(call.accelerator):
        own = {"config.yaml": dump(call.settings).encode(), "manifest.json": to_json(call.manifest.resolved())}
        given = {**own, **given}
        notices = [*call.notices, *notices, *settle(call.accelerator, dtype)]
    facts = {
        "shots": [[task.name, count] for task, count in call.wanted],
        "versions": versions(),
        "files": {task.name: dict(task.digests) for task in call.tasks},
    }
    require_alike(call.accelerator, facts | {name: text.decode() for name, text in given.items()})
    tell(call.console, notices)
    line = describe_launch(call.accelerator, call.engine, call.settings.training.micro_batches, dtype)
    call.console.print(line, highlight=False, soft_wrap=True)
    with together(call.accelerator):
        if call.accelerator.is_main_process:
            open_run_folder(call.folder, given, resume=resume)


def require_rows(call: Comparison, rows: Sequence[Row]) -> None:
    """Refuse rows that cannot be trained, or whose heads cannot be copied, before anything is trained.

    Raises:
        MptError: See `require_trainable` and `build_head`.
    """
    starts = {row.name: (METHODS[row.method], row.start.parts(METHODS[row.method])) for row in rows}
    require_trainable(starts, call.tasks, call.engine)
    for row in rows:
        if row.start.pretrained is not None:
            for task in call.tasks:
                build_head(row.start.pretrained, task, mode=row.settings.head, seed=0, dropout=0.0)


def run_rows(
    call: Comparison, order: Sequence[tuple[Row, tuple[Task, int | None]]], write: Callable[[Sequence[Result]], None]
) -> list[Result]:
    """Tune and train, in this order, and leave the results so far after each: a call that is cut off loses one run."""
    results: list[Result] = []
    for row, (task, shots) in order:
        results += _run_row(call, row, task, shots)
        with together(call.accelerator):
            if call.accelerator.is_main_process:
                write(results)
    return results


def _run_row(call: Comparison, row: Row, task: Task, shots: int | None) -> list[Result]:
    """Tune on dev, then one run for each seed."""
    session = Session(
        start=row.start,
        settings=row.settings,
        manifest=call.manifest,
        accelerator=call.accelerator,
        engine=call.engine,
        console=call.console,
        inputs=call.inputs,
    )
    experiment = experiment_name(task.name, shots)
    parent = call.runs / experiment / folder_name(row.name)
    optimizer, trials = tuned(session, task, shots, row.method, parent)
    results = []
    for seed in row.settings.seeds:
        trial = Trial(task=task, shots=shots, method=row.method, seed=seed, optimizer=optimizer)
        folder = parent / f"seed-{seed}"
        record = written(session, folder / RESULT_FILE) or run_trial(session, trial, folder)
        results.append(_result(row.name, experiment, record, trials))
    return results


def folder_name(row: str) -> str:
    """A row's name as a folder: what is no letter or digit becomes a dash."""
    return "".join(char if char.isalnum() else "-" for char in row)


def _result(row: str, experiment: str, record: Mapping[str, Any], trials: int) -> Result:
    beside: Any = None
    if (metric := record["result"]["metric"]) in BESIDE:
        beside = reduce(getitem, BESIDE[metric][1], record["test"] or record["dev"])
    return Result(
        **record["result"],
        row=row,
        experiment=experiment,
        beside=beside,
        trials=trials,
        trained=record["trained_parameters"],
        seconds=record["cost"]["seconds"],
        peak_memory_mib=record["cost"]["peak_memory_mib"],
    )


def write_results(folder: Path, results: Sequence[Result], *, title: str, text: str, more: Mapping[str, Any]) -> None:
    """Leave results as data, as tables and as a figure."""
    replace_durable(folder / "results.json", to_json({**more, "runs": [asdict(result) for result in results]}))
    replace_durable(folder / "results.csv", to_csv(results).encode())
    replace_durable(folder / "results.md", text.encode())
    replace_durable(folder / "results.png", figure(results, title=title))


def conclude(call: Comparison) -> None:
    """Say where the results lie, and end the launch."""
    call.console.print(f"results: {call.folder}", highlight=False, soft_wrap=True)
    call.accelerator.end_training()
