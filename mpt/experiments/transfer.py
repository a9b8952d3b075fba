"""Stage 2: the pretrained prompt to single tasks, a comparison with the rows "baselines..., transfer"."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console

from mpt.base.files import to_json
from mpt.base.settings import BackboneSettings
from mpt.experiments.comparison import Row, begin, conclude, open_comparison, require_rows, run_rows, write_results
from mpt.experiments.methods import TRANSFER
from mpt.experiments.run_folder import Resume
from mpt.experiments.settings import TransferSettings
from mpt.experiments.start import start_from
from mpt.experiments.tables import Result, gains_console, gains_json, gains_table, grid
from mpt.model.language_head import verbalizer_notices
from mpt.serving.saved import open_saved
from mpt.training.checkpoint import verify
from mpt.training.launch import with_dtype
from mpt.training.ranks import together


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
    call = open_comparison(settings, manifest_path, tasks, shots, folder=folder, runs=folder, console=console)
    native, said = with_dtype(call.accelerator, BackboneSettings())
    with together(call.accelerator):
        saved = open_saved(
            init_from,
            reference=backbone,
            dtype="float32" if native.dtype == "float32" else "auto",
            device=call.accelerator.device,
            sharding=call.engine.sharding,
        )
        start = start_from(saved, settings.prompt)
        fresh = replace(start, pretrained=None)
        starts = {**dict.fromkeys(settings.baselines, fresh), TRANSFER.name: start}
        rows = [Row(name=name, method=name, settings=settings, start=start) for name, start in starts.items()]
        require_rows(call, rows)
        origin = {"folder": str(saved.folder), "tasks": list(saved.tasks)}
        facts = {"sha256": verify(saved.folder), "tasks": list(saved.tasks), "dtype": saved.dtype}
        notices = [*said, *saved.notices, *verbalizer_notices(start.backbone, call.tasks)]
    given, dtype = {"init_from.json": to_json(facts)}, start.backbone_settings.dtype
    begin(call, given, dtype=dtype, notices=notices, resume=resume)
    title = f"from {saved.folder}"

    def write(results: Sequence[Result]) -> None:
        more: dict[str, Any] = {"stage": "transfer", "init_from": origin, "experiments": gains_json(results)}
        write_results(folder, results, title=title, text=grid(*gains_table(results)), more=more)

    results = run_rows(call, [(row, it) for it in call.wanted for row in rows], write)
    call.console.print(gains_console(results, title=title))
    conclude(call)
    return results
