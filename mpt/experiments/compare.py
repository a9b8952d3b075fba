"""Methods and settings against tasks over seeds: the paper's tables and ablations as data."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console

from mpt.base.errors import ConfigError
from mpt.base.settings import BackboneSettings, PartKind, PromptTrainingSettings
from mpt.experiments.comparison import (
    Comparison,
    Row,
    begin,
    conclude,
    folder_name,
    open_comparison,
    require_rows,
    run_rows,
    write_results,
)
from mpt.experiments.execution import open_backbone
from mpt.experiments.methods import METHODS, trained_by
from mpt.experiments.pretrain import pretrain
from mpt.experiments.run_folder import Resume
from mpt.experiments.settings import CompareSettings, load_pretrain_settings
from mpt.experiments.start import Start, require_trainable, start_from
from mpt.experiments.tables import Result, markdown
from mpt.model.backbone.identity import digests, locate
from mpt.model.language_head import verbalizer_notices
from mpt.serving.saved import SavedModel, open_saved
from mpt.training.checkpoint import differences, find_checkpoint, read_json, verify
from mpt.training.identity import PLACES_AND_COSTS
from mpt.training.launch import with_dtype
from mpt.training.ranks import together
from mpt.training.runlog import tell

PRETRAINED = "pretrained"


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
    declared = common.backbone
    backbone, notices = with_dtype(call.accelerator, declared)
    rows = {name: row.model_copy(update={"backbone": backbone}) for name, row in rows.items()}
    common = next(iter(rows.values()))
    call = replace(call, settings=common)
    with together(call.accelerator):
        sources = _sources(rows)
        _require_backbone(declared, list(dict.fromkeys(sources.values())))
        methods = {name: METHODS[row.rows[name].method] for name, row in rows.items()}
        held = {name: _parts(sources[name]) if name in sources else it.parts for name, it in methods.items()}
        require_trainable({name: (methods[name], parts) for name, parts in held.items()}, call.tasks, call.engine)
    begin(call, {}, dtype=backbone.dtype, notices=notices, resume=resume)
    saved = _pretrained(call, common, sources)
    with together(call.accelerator):
        ready = _rows(call, rows, saved)
        require_rows(call, ready)
        tell(call.console, verbalizer_notices(ready[0].start.backbone, call.tasks))

    def write(results: Sequence[Result]) -> None:
        text = f"# {common.title}\n\n{markdown(results)}"
        write_results(folder, results, title=common.title, text=text, more={"stage": "compare"})

    results = run_rows(call, [(row, it) for row in ready for it in call.wanted], write)
    call.console.print(markdown(results), highlight=False, markup=False, soft_wrap=True)
    conclude(call)
    return results


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
        if folders.count(folder_name(name)) > 1:
            problems.append(f"rows.{name}: the name of its folder is another row's too")
        if row.pretrained and (path := row.pretrain or settings.pretrain) is not None:
            sources[name] = path
        elif row.pretrained:
            told = "starts from a pretrained prompt. Give pretrain, a configuration or a run folder"
            problems.append(f"rows.{name}: method {row.method} {told}")
    if problems:
        raise ConfigError(problems)
    return sources


def _require_backbone(declared: BackboneSettings, sources: Sequence[Path]) -> None:
    """Refuse pretraining over another backbone than the comparison's, before anything is trained.

    Raises:
        ConfigError: With what differs, both values shown.
    """
    problems = []
    for path in sources:
        expected = _facts(declared)
        if path.is_file():  # not trained yet: the same if it is called the same
            settings = load_pretrain_settings(path)
            shifted = {"positions": "shifted"} if trained_by(settings.method).shifted else {}
            found = _facts(settings.backbone) | shifted
        else:
            own = read_json(find_checkpoint(path) / "identity.json")["backbone"]
            content = digests(locate(declared.reference, declared.revision))
            known = {key: own[key] for key in BackboneSettings.model_fields & own.keys()}
            found = _facts(BackboneSettings.model_validate(known)) | {key: own[key] for key in content}
            expected |= content | {key: found[key] for key in ("reference", "revision")}  # it may have moved
        if "auto" in (found["dtype"], expected["dtype"]):  # the processor's, whichever that is
            expected |= {"dtype": found["dtype"]}
        if told := differences(found, expected, names=("there", "here")):
            problems.append(
                f"backbone: {path} was pretrained with other settings of the backbone than this comparison declares: "
                f"{'; '.join(told)}. Make them equal, so that rows differ in their methods alone"
            )
    if problems:
        raise ConfigError(problems)


def _parts(path: Path) -> tuple[PartKind, ...]:
    """Kinds of the parts of a pretrained state, or of one that is to be."""
    if path.is_file():
        return trained_by(load_pretrain_settings(path).method).parts
    folder = find_checkpoint(path)
    verify(folder)
    return tuple(read_json(folder / "identity.json")["state"])


def _facts(settings: BackboneSettings) -> dict[str, Any]:
    """Settings of a backbone that a pretrained state depends on, and what it is called."""
    return settings.model_dump(mode="json", exclude=PLACES_AND_COSTS - {"reference", "revision"})


def _pretrained(call: Comparison, common: CompareSettings, sources: Mapping[str, Path]) -> dict[str, SavedModel]:
    """The model that each row starts from: a given run, or one made here and now, once for all rows that name it."""
    places: dict[Path, Path] = {}
    for name, path in sources.items():
        if path.is_file() and path not in places:
            own = "" if path == common.pretrain else f"-{folder_name(name)}"
            places[path] = call.folder / f"{PRETRAINED}{own}"
            pretrain(load_pretrain_settings(path), places[path], resume="auto", console=call.console)
    saved: dict[Path, SavedModel] = {}
    with together(call.accelerator):
        for path in dict.fromkeys(sources.values()):
            saved[path] = open_saved(
                places.get(path, path),
                dtype=common.backbone.dtype,
                device=call.accelerator.device,
                sharding=call.engine.sharding,
                over=next((it.scorer.backbone for it in saved.values()), None),
            )
        tell(call.console, [said for it in saved.values() for said in it.notices])
    return {name: saved[path] for name, path in sources.items()}


def _rows(call: Comparison, rows: Mapping[str, CompareSettings], saved: Mapping[str, SavedModel]) -> list[Row]:
    """All rows over one backbone in memory: that of a pretrained model where there is one."""
    common = next(iter(rows.values()))
    backbone = next((it.scorer.backbone for it in saved.values()), None) or open_backbone(
        common.backbone, prompt_length=common.prompt.length, accelerator=call.accelerator, sharding=call.engine.sharding
    )
    ready = []
    for name, settings in rows.items():
        start = Start(backbone=backbone, backbone_settings=common.backbone, prompt_settings=settings.prompt)
        if name in saved:
            trained = {field: getattr(settings.prompt, field) for field in PromptTrainingSettings.model_fields}
            start = start_from(saved[name], PromptTrainingSettings(**trained))
        ready.append(Row(name=name, method=settings.rows[name].method, settings=settings, start=start))
    return ready
