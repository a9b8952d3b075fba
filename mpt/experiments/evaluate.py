"""Score a trained model on the splits of a manifest."""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float
from rich.console import Console

from mpt.base.errors import CheckpointError, DataError
from mpt.base.files import replace_durable, to_json
from mpt.base.settings import Dtype
from mpt.data.encoded import EncodedTask
from mpt.data.families.of_task import family_of
from mpt.data.manifest.reading import load_manifest
from mpt.data.manifest.task_spec import Split
from mpt.data.tasks import Task, load_tasks
from mpt.evaluation.bootstrap import paired_bootstrap
from mpt.evaluation.evaluator import evaluate_task, predict_split
from mpt.evaluation.report import Report, TaskReport, print_report
from mpt.experiments.execution import encode_tasks
from mpt.experiments.run_folder import make_folder
from mpt.serving.saved import OpenBank, SavedModel, find_device, open_bank, open_saved
from mpt.training.checkpoint import differences
from mpt.training.runlog import tell


def evaluate(
    model: Path,
    manifest_path: Path,
    *,
    tasks: Sequence[str],
    split: Split,
    out: Path | None,
    backbone: str | None,
    against: Path | None = None,
    more: Sequence[Path] = (),
    dtype: Dtype = "auto",
    device: str = "auto",
    console: Console,
) -> Report:
    """Score tasks, print the report and write it as JSON and Markdown.

    Args:
        model: Run folder or checkpoint.
        manifest_path: Declares the data.
        tasks: Names; none stands for every task that manifest and model share.
        split: Split to score.
        out: Folder for `evaluation-SPLIT.json` and `.md`; None writes nothing.
        backbone: Where the backbone lies now, when it has moved.
        against: Another model of the same tasks, to compare with by a paired bootstrap over sentences.
        more: Models of other tasks, which are opened over the same backbone.
        dtype: Of the backbone's weights, see `mpt.serving.saved.open_saved`.
        device: Where to compute, see `mpt.serving.saved.find_device`.
        console: Where people read.

    Raises:
        MptError: Of the fitting class; a task whose labels are not the head's is refused.
    """
    manifest = load_manifest(manifest_path)
    place = find_device(device)
    bank = open_bank([model, *more], reference=backbone, dtype=dtype, device=place, merge=False)
    folders = ", ".join(str(folder) for folder in dict.fromkeys(it.folder for it in bank.tasks.values()))
    names = list(tasks) or [name for name in manifest.tasks if name in bank.tasks]
    if not names:
        raise CheckpointError(
            f"{folders}: no task in common with {manifest_path}: the model has {', '.join(bank.tasks)}, the "
            f"manifest {', '.join(manifest.tasks)}. Rename the task in the manifest if it is the same one"
        )
    loaded, notices = load_tasks(manifest, names=names, splits=(split,))
    _check(bank.model, loaded, split)
    other = None if against is None else open_saved(against, reference=backbone, dtype=dtype, device=place)
    if other is not None:
        _check(lambda task: other, loaded, split)
    encoded, said = encode_tasks(loaded, bank.scorer.backbone)
    tell(console, [*bank.notices, *(other.notices if other else ()), *notices, *said])
    if out is not None:
        make_folder(out)
    reference = bank.scorer.backbone.identity.reference
    report = Report(
        about={"checkpoint": folders, "backbone": reference, "manifest": str(manifest_path)},
        tasks=tuple(_task_report(bank.model(one.task.name), one, split) for one in encoded),
    )
    print_report(report, console)
    if other is not None:
        theirs, _ = encode_tasks(loaded, other.scorer.backbone)
        _print_comparison(bank, zip(encoded, theirs, strict=True), other, split, console)
    if out is not None:
        replace_durable(out / f"evaluation-{split}.json", to_json(report.to_json()))
        replace_durable(out / f"evaluation-{split}.md", report.to_markdown().encode())
    return report


def _check(model: Callable[[str], SavedModel], tasks: Sequence[Task], split: Split) -> None:
    problems = []
    for task in tasks:
        saved = model(task.name)
        saved.head(task.name)
        if found := differences({"labels": saved.tasks[task.name]["labels"]}, {"labels": list(task.labels)}):
            problems.append(
                f'{saved.folder}: task "{task.name}": the label map differs from the manifest\'s: {"; ".join(found)}. '
                "Evaluate on the data it was trained for, or set labels and label_map in the manifest"
            )
    if problems:
        raise CheckpointError(problems)
    if without := [task.name for task in tasks if split not in task.splits]:
        raise DataError(f"no {split} split: {', '.join(without)}. Add files.{split} to the manifest or choose --split")


def _task_report(saved: SavedModel, encoded: EncodedTask, split: Split) -> TaskReport:
    own = encoded.splits[split]
    assert own.labels is not None, "a task's sentences have tags"
    return TaskReport(
        task=encoded.task.name,
        split=split,
        score=evaluate_task(saved.scorer, encoded, split, slot=saved.slot),
        windows=len(own),
        unseen_words=len(own.labels) - len(own.positions),
        digests=encoded.task.digests,
    )


def _print_comparison(
    bank: OpenBank, tasks: Iterable[tuple[EncodedTask, EncodedTask]], other: SavedModel, split: Split, console: Console
) -> None:
    """Both models on the same sentences: the difference, and how far the choice of sentences moves it."""
    console.print(f"\nagainst {other.folder}", highlight=False, soft_wrap=True)
    for mine, yours in tasks:
        counts = _counts(bank.model(mine.task.name), mine, split), _counts(other, yours, split)
        result = paired_bootstrap(*counts, nothing=0.0 if mine.task.spec.metric == "f1" else 1.0)
        console.print(
            f"{mine.task.name}: {100 * result.difference:+.2f} points, {result.confidence:.0%} interval over sentences "
            f"{100 * result.low:+.2f} to {100 * result.high:+.2f}",
            highlight=False,
        )


def _counts(saved: SavedModel, encoded: EncodedTask, split: Split) -> Float[np.ndarray, "N 3"]:
    family = family_of(encoded.task.spec)
    predicted = predict_split(saved.scorer, encoded.task.name, encoded.splits[split], family=family, slot=saved.slot)
    return family.counts(encoded.gold(split, range(len(predicted))), predicted)
