"""Methods against tasks over seeds: the paper's tables and ablations as data.

Every row of a comparison has the same trainer, data, order and evaluation and is tuned on dev with the same number of
trials; each model that counts is scored on test once.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from rich.console import Console

from mpt.base.errors import ConfigError
from mpt.base.files import replace_durable, to_json
from mpt.base.settings import PromptTrainingSettings
from mpt.base.strict_yaml import dump
from mpt.data.manifest.reading import load_manifest
from mpt.data.tasks import load_tasks
from mpt.experiments.inputs import Inputs, open_backbone
from mpt.experiments.pretrain import pretrain
from mpt.experiments.run_folder import Resume, open_results
from mpt.experiments.settings import CompareSettings, load_pretrain_settings
from mpt.experiments.start import Start, require_trainable, start_from
from mpt.experiments.tables import BESIDE, Run, figure, markdown, to_csv
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
from mpt.experiments.tuning import TUNING_FILE, tuned
from mpt.model.language_head import verbalizer_notices
from mpt.serving.saved import SavedModel, open_saved
from mpt.training.engines import Engine, find_engine
from mpt.training.launch import build_accelerator, describe_launch, settle, speaker, versions
from mpt.training.ranks import require_alike, together
from mpt.training.runlog import tell

PRETRAINED = "pretrained"


def compare(rows: Mapping[str, CompareSettings], folder: Path, *, resume: Resume, console: Console) -> list[Run]:
    """Train and score every row on every task with every seed, and write tables and a figure after each row.

    Args:
        rows: The settings of each row by its name; see `mpt.experiments.settings.load_compare_settings`.
        folder: Folder of the results to make, or to go on with.
        resume: Keep the finished runs of `folder` and do the others: "never", "auto" (if it is there), "must".
        console: Where people read.

    Raises:
        MptError: Of the fitting class; see the modules called.
        Preempted: Asked to stop; the finished runs are kept.
    """
    common = next(iter(rows.values()))
    accelerator = build_accelerator(folder)
    engine = find_engine(accelerator, clip_norm=common.optimizer.clip_norm)
    console = speaker(accelerator, console)
    with together(accelerator):
        manifest = load_manifest(common.manifest)
        tasks, notices = load_tasks(manifest, names=common.tasks or None, splits=("train", "dev", "test"))
        wanted = [(task, count) for task in tasks for count in (common.shots or task.spec.shots or (None,))]
        _check(rows, wanted)
        require_trainable([_method(name, settings) for name, settings in rows.items()], tasks, engine)
        given = {"config.yaml": dump(common).encode(), "manifest.json": to_json(manifest.resolved())}
        notices += settle(accelerator, common.backbone.dtype)
    require_alike(accelerator, {"versions": versions()} | {name: text.decode() for name, text in given.items()})
    tell(console, notices)
    line = describe_launch(accelerator, engine, common.training.micro_batches)
    open_results(accelerator, console, folder, given, line=line, resume=resume)
    pretrained = _pretrained(rows, folder, accelerator, engine, console)
    start = _start(common, pretrained, accelerator, engine)
    with together(accelerator):
        tell(console, verbalizer_notices(start.backbone, tasks))
    inputs, runs = Inputs(), list[Run]()
    for name, settings in rows.items():
        session = Session(
            start=_for_row(start, settings, _method(name, settings)),
            settings=settings,
            manifest=manifest,
            accelerator=accelerator,
            engine=engine,
            console=console,
            folder=folder,
            inputs=inputs,
        )
        runs += _run_row(session, name, settings, wanted)
        with together(accelerator):
            if accelerator.is_main_process:
                _write(folder, common.title, runs)
    console.print(markdown(runs), highlight=False, markup=False, soft_wrap=True)
    console.print(f"results: {folder}", highlight=False, soft_wrap=True)
    accelerator.end_training()
    return runs


def _method(name: str, settings: CompareSettings) -> str:
    return settings.rows[name].method


def _check(rows: Mapping[str, CompareSettings], wanted: Wanted) -> None:
    """Too many shots, or a method without what it needs, are errors before anything is trained."""
    problems = shots_problems(wanted)
    problems += [
        f"rows.{name}: method transfer starts from a pretrained prompt. Give pretrain, a configuration or a run folder"
        for name, settings in rows.items()
        if _method(name, settings) == "transfer" and settings.pretrain is None
    ]
    folders = [folder_name(name) for name in rows]
    problems += [
        f"rows.{name}: the name of its folder is another row's too"
        for name in rows
        if folders.count(folder_name(name)) > 1
    ]
    if problems:
        raise ConfigError(problems)


def _pretrained(
    rows: Mapping[str, CompareSettings], folder: Path, accelerator: Accelerator, engine: Engine, console: Console
) -> SavedModel | None:
    """The model that "transfer" starts from: a given run, or one made here and now."""
    path = next((it.pretrain for name, it in rows.items() if _method(name, it) == "transfer"), None)
    if path is None:
        return None
    if path.is_file():
        pretrain(load_pretrain_settings(path), folder / PRETRAINED, resume="auto", console=console)
        path = folder / PRETRAINED
    return open_saved(path, device=accelerator.device, sharding=engine.sharding)


def _start(common: CompareSettings, pretrained: SavedModel | None, accelerator: Accelerator, engine: Engine) -> Start:
    """The backbone of all rows: that of the pretrained model where there is one, which has to be the declared one."""
    if pretrained is None:
        backbone = open_backbone(
            common.backbone, prompt_length=common.prompt.length, accelerator=accelerator, sharding=engine.sharding
        )
        return Start(backbone=backbone, backbone_settings=common.backbone, prompt_settings=common.prompt)
    start = start_from(pretrained, common.prompt)
    declared, found = (dump(it) for it in (common.backbone, start.backbone_settings))
    if declared != found:
        raise ConfigError(
            f"backbone: {pretrained.folder} was pretrained with other settings of the backbone than this comparison "
            f"declares:\n{found}expected:\n{declared}Make them equal, so that rows differ in their methods alone"
        )
    return start


def _for_row(start: Start, settings: CompareSettings, method: str) -> Start:
    """The same backbone, with the prompt that the row declares; a pretrained one keeps its shape."""
    if method != "transfer":
        return replace(start, prompt_settings=settings.prompt)
    assert start.pretrained is not None, "it was checked"
    trained = {field: getattr(settings.prompt, field) for field in PromptTrainingSettings.model_fields}
    return start_from(start.pretrained, PromptTrainingSettings(**trained))


def _run_row(session: Session, name: str, settings: CompareSettings, wanted: Wanted) -> list[Run]:
    """Tune on dev, then one run for each seed, on every task."""
    method = _method(name, settings)
    runs = []
    for task, shots in wanted:
        experiment = experiment_name(task.name, shots)
        parent = session.folder / "runs" / experiment / folder_name(name)
        optimizer = tuned(session, task, shots, method, parent)
        for seed in settings.seeds:
            trial = Trial(task=task, shots=shots, method=method, seed=seed, optimizer=optimizer)
            folder = parent / f"seed-{seed}"
            if written(session, folder / RESULT_FILE) is None:
                run_trial(session, trial, folder)
            record = written(session, folder / RESULT_FILE)
            assert record is not None, "the trial has just been run"
            tuning = written(session, parent / TUNING_FILE)
            trials = 0 if tuning is None else len(tuning["trials"]) * len(settings.tuning.seeds)
            runs.append(_run(name, experiment, record, trials))
    return runs


def folder_name(row: str) -> str:
    """A row's name as a folder: what is no letter or digit becomes a dash."""
    return "".join(char if char.isalnum() else "-" for char in row)


def _run(name: str, experiment: str, record: Mapping[str, Any], trials: int) -> Run:
    result, cost = record["result"], record["cost"]
    report = record["dev"] if record["test"] is None else record["test"]
    return Run(
        row=name,
        experiment=experiment,
        metric=result["metric"],
        seed=result["seed"],
        dev=result["dev"],
        test=result["test"],
        beside=_beside(result["metric"], report),
        trials=trials,
        trained=record["trained_parameters"],
        seconds=cost["seconds"],
        peak_memory_mib=cost["peak_memory_mib"],
    )


def _beside(metric: str, report: Mapping[str, Any]) -> float | None:
    """What is published beside a score, out of a report."""
    if metric not in BESIDE:
        return None
    found: Any = report
    for key in BESIDE[metric][1]:
        found = found[key]
    return found


def _write(folder: Path, title: str, runs: Sequence[Run]) -> None:
    """Leave the rows so far: a call that is cut off loses the run in progress only."""
    replace_durable(folder / "results.json", to_json({"stage": "compare", "runs": [asdict(run) for run in runs]}))
    replace_durable(folder / "results.csv", to_csv(runs).encode())
    replace_durable(folder / "results.md", f"# {title}\n\n{markdown(runs)}".encode())
    replace_durable(folder / "results.png", figure(runs, title=title))
