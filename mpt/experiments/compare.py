"""Methods against tasks over seeds: the paper's tables and ablations as data.

Every row of a comparison has the same trainer, data, order and evaluation and is tuned on dev with the same number of
trials; each model that counts is scored on test once. A transfer is such a comparison too.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from rich.console import Console

from mpt.base.errors import ConfigError
from mpt.base.files import replace_durable, to_json
from mpt.base.settings import BackboneSettings, PromptTrainingSettings
from mpt.base.strict_yaml import dump
from mpt.data.manifest.reading import Manifest, load_manifest
from mpt.data.tasks import Task, load_tasks
from mpt.experiments.inputs import Inputs, open_backbone
from mpt.experiments.methods import METHODS
from mpt.experiments.pretrain import pretrain
from mpt.experiments.run_folder import Resume, open_results
from mpt.experiments.settings import CompareSettings, TrialSettings, load_pretrain_settings
from mpt.experiments.start import Start, require_trainable, start_from
from mpt.experiments.tables import BESIDE, Result, figure, markdown, to_csv
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
from mpt.model.backbone.backbone import digests, locate
from mpt.model.language_head import verbalizer_notices
from mpt.serving.saved import SavedModel, open_saved
from mpt.training.checkpoint import differences, find_checkpoint, read_json
from mpt.training.engines import Engine, find_engine
from mpt.training.identity import PLACES_AND_COSTS
from mpt.training.launch import build_accelerator, describe_launch, settle, speaker, versions
from mpt.training.ranks import require_alike, together
from mpt.training.runlog import tell

PRETRAINED = "pretrained"


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One row of a comparison, ready to be trained.

    Attributes:
        name: What its tables call it, and its folders.
        method: What is trained.
        settings: Its own.
        start: Where its models start.
    """

    name: str
    method: str
    settings: TrialSettings
    start: Start


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """What all rows of a call have in common.

    Attributes:
        folder: Of the results.
        runs: Folder of the runs, each in EXPERIMENT/ROW/seed-N.
        manifest: Declares the tasks.
        tasks: What is trained on.
        wanted: The same with numbers of training examples.
        notices: What is to be told about the tasks.
        accelerator, engine, console: Of this process.
        inputs: The tasks as word pieces.
    """

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


def compare(rows: Mapping[str, CompareSettings], folder: Path, *, resume: Resume, console: Console) -> list[Result]:
    """Train and score every row on every task with every seed; tables and a figure after each row of each task.

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
    call = open_comparison(
        common, common.manifest, common.tasks, common.shots, folder=folder, runs=folder / "runs", console=console
    )
    with together(call.accelerator):
        sources = _sources(rows)
        _require_backbone(common.backbone, list(dict.fromkeys(sources.values())))
        require_trainable([settings.rows[name].method for name, settings in rows.items()], call.tasks, call.engine)
    begin(call, common, {}, dtype=common.backbone.dtype, resume=resume)
    saved = _pretrained(call, common.pretrain, sources)
    with together(call.accelerator):
        ready = _rows(call, rows, saved)
        require_heads(ready, call.tasks)
        tell(call.console, verbalizer_notices(ready[0].start.backbone, call.tasks))

    def write(results: Sequence[Result]) -> None:
        text = f"# {common.title}\n\n{markdown(results)}"
        write_results(folder, results, title=common.title, text=text, more={"stage": "compare"})

    results = run_rows(call, [(row, it) for row in ready for it in call.wanted], write)
    call.console.print(markdown(results), highlight=False, markup=False, soft_wrap=True)
    call.console.print(f"results: {folder}", highlight=False, soft_wrap=True)
    call.accelerator.end_training()
    return results


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

    Args:
        settings: Of any row, for what all of them share.
        manifest_path: Declares the tasks.
        names: Which of them; none stands for all.
        shots: Numbers of training examples; none stands for each task's own.
        folder: Of the results.
        runs: Of the runs.
        console: Where people read.

    Raises:
        MptError: Of the fitting class, with all problems of the tasks.
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
    call: Comparison,
    settings: TrialSettings,
    given: Mapping[str, bytes],
    *,
    dtype: str,
    notices: Sequence[str] = (),
    resume: Resume,
) -> None:
    """Hold the processes against each other, say how they were launched, and make the folder of results or find it.

    Args:
        call: What is compared.
        settings: What the call was given.
        given: Files that the folder starts with besides settings and manifest.
        dtype: Of the backbone.
        notices: More to tell.
        resume: See `mpt.experiments.run_folder.open_run_folder`.
    """
    with together(call.accelerator):
        own = {"config.yaml": dump(settings).encode(), "manifest.json": to_json(call.manifest.resolved())}
        files = {**own, **given}
        notices = [*call.notices, *notices, *settle(call.accelerator, dtype)]
    facts = {
        "shots": [[task.name, count] for task, count in call.wanted],
        "versions": versions(),
        "files": {task.name: dict(task.digests) for task in call.tasks},
    }
    require_alike(call.accelerator, facts | {name: text.decode() for name, text in files.items()})
    tell(call.console, notices)
    line = describe_launch(call.accelerator, call.engine, settings.training.micro_batches)
    open_results(call.accelerator, call.console, call.folder, files, line=line, resume=resume)


def require_heads(rows: Sequence[Row], tasks: Sequence[Task]) -> None:
    """Refuse a head that cannot be copied, before anything is trained.

    Raises:
        CheckpointError: See `build_head`.
    """
    for row in rows:
        if row.start.pretrained is not None:
            for task in tasks:
                build_head(row.start.pretrained, task, mode=row.settings.head, seed=0, dropout=0.0)


def run_rows(
    call: Comparison,
    order: Sequence[tuple[Row, tuple[Task, int | None]]],
    write: Callable[[Sequence[Result]], None],
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
        beside = record["dev"] if record["test"] is None else record["test"]
        for key in BESIDE[metric][1]:
            beside = beside[key]
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
    runs = [asdict(result) for result in results]
    replace_durable(folder / "results.json", to_json({**more, "runs": runs}))
    replace_durable(folder / "results.csv", to_csv(results).encode())
    replace_durable(folder / "results.md", text.encode())
    replace_durable(folder / "results.png", figure(results, title=title))


def _sources(rows: Mapping[str, CompareSettings]) -> dict[str, Path]:
    """What each row that does not start fresh starts from: a run folder or the configuration of a pretraining.

    Raises:
        ConfigError: A row names none, cannot start from one, or shares its folder's name with another.
    """
    sources: dict[str, Path] = {}
    problems: list[str] = []
    folders = [folder_name(name) for name in rows]
    for name, settings in rows.items():
        row = settings.rows[name]
        path = row.pretrain or settings.pretrain
        if folders.count(folder_name(name)) > 1:
            problems.append(f"rows.{name}: the name of its folder is another row's too")
        if row.pretrained and path is None:
            problems.append(
                f"rows.{name}: method {row.method} starts from a pretrained prompt. Give pretrain, a configuration or "
                "a run folder"
            )
        elif row.pretrained and path is not None:
            sources[name] = path
        if row.pretrained and not METHODS[row.method].pretrained:
            problems.append(f"rows.{name}: method {row.method} has no pretrained state to start from. Use transfer")
    if problems:
        raise ConfigError(problems)
    return sources


def _require_backbone(declared: BackboneSettings, sources: Sequence[Path]) -> None:
    """Refuse pretraining over another backbone than the comparison's, before anything is trained.

    Raises:
        ConfigError: With what differs, both values shown.
    """
    here = _facts(declared)
    problems = []
    for path in sources:
        if path.is_file():  # not trained yet: the same if it is called the same
            found, expected = _facts(load_pretrain_settings(path).backbone), here
        else:
            own = read_json(find_checkpoint(path) / "identity.json")["backbone"]
            known = BackboneSettings.model_validate(
                {key: own[key] for key in BackboneSettings.model_fields & own.keys()}
            )
            content = digests(locate(declared.reference, declared.revision))
            found, expected = _facts(known) | {key: own[key] for key in content}, here | content
            expected |= {key: found[key] for key in ("reference", "revision")}  # it may have moved
        if told := differences(found, expected, names=("there", "here")):
            problems.append(
                f"backbone: {path} was pretrained with other settings of the backbone than this comparison declares: "
                f"{'; '.join(told)}. Make them equal, so that rows differ in their methods alone"
            )
    if problems:
        raise ConfigError(problems)


def _facts(settings: BackboneSettings) -> dict[str, Any]:
    """Settings of a backbone that a pretrained state depends on, and what it is called."""
    return settings.model_dump(mode="json", exclude=PLACES_AND_COSTS - {"reference", "revision"})


def _pretrained(call: Comparison, shared: Path | None, sources: Mapping[str, Path]) -> dict[str, SavedModel]:
    """The model that each row starts from: a given run, or one made here and now, once for all rows that name it."""
    places: dict[Path, Path] = {}
    for name, path in sources.items():
        if path.is_file() and path not in places:
            places[path] = call.folder / (PRETRAINED if path == shared else f"{PRETRAINED}-{folder_name(name)}")
            pretrain(load_pretrain_settings(path), places[path], resume="auto", console=call.console)
    saved: dict[Path, SavedModel] = {}
    with together(call.accelerator):
        for path in dict.fromkeys(sources.values()):
            saved[path] = open_saved(
                places.get(path, path),
                device=call.accelerator.device,
                sharding=call.engine.sharding,
                over=next((it.tagger.backbone for it in saved.values()), None),
            )
    return {name: saved[path] for name, path in sources.items()}


def _rows(call: Comparison, rows: Mapping[str, CompareSettings], saved: Mapping[str, SavedModel]) -> list[Row]:
    """All rows over one backbone in memory: that of a pretrained model where there is one."""
    common = next(iter(rows.values()))
    backbone = next((it.tagger.backbone for it in saved.values()), None) or open_backbone(
        common.backbone, prompt_length=common.prompt.length, accelerator=call.accelerator, sharding=call.engine.sharding
    )
    ready = []
    for name, settings in rows.items():
        if name in saved:
            trained = {field: getattr(settings.prompt, field) for field in PromptTrainingSettings.model_fields}
            start = start_from(saved[name], PromptTrainingSettings(**trained))
        else:
            start = Start(backbone=backbone, backbone_settings=common.backbone, prompt_settings=settings.prompt)
        ready.append(Row(name=name, method=settings.rows[name].method, settings=settings, start=start))
    return ready
