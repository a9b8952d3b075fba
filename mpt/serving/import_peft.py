"""An adapter of PEFT as a checkpoint: what evaluates, predicts and transfers like one that was trained here."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from rich.console import Console

from mpt.base.errors import CheckpointError, ConfigError
from mpt.base.files import sha256_file
from mpt.base.settings import BackboneSettings, PromptSettings
from mpt.data.manifest.reading import Manifest, load_manifest
from mpt.data.tasks import Task, chosen_names, load_tasks
from mpt.model.backbone.backbone import Backbone, load_backbone
from mpt.model.backbone.probe import probe
from mpt.model.state.bank import TaskState
from mpt.serving.peft_adapter import (
    ADAPTER_CONFIG,
    ADAPTER_WEIGHTS,
    PeftAdapter,
    foreign_family,
    read_adapter,
    unsupported,
)
from mpt.training.checkpoint import Checkpoint, save_checkpoint
from mpt.training.identity import identity_of
from mpt.training.runlog import tell

UNTRAINED = {"step": 0, "score": None, "stopped_early": False, "history": [], "scores": [], "pieces": 0, "seconds": 0.0}


def import_peft(
    folder: Path,
    out: Path,
    *,
    manifest_path: Path,
    task: str | None,
    labels: Sequence[str],
    reference: str | None,
    revision: str | None,
    dtype: Literal["bfloat16", "float32"],
    console: Console,
) -> Path:
    """Make a run folder with one checkpoint, of step 0, and return the checkpoint's folder.

    Args:
        folder: What PEFT has saved.
        out: Run folder to make.
        manifest_path: Declares the task that the head belongs to.
        task: Its name, where the manifest has several.
        labels: Names of the head's rows, in their order; none stands for those beside the adapter.
        reference: The backbone; None stands for the one that the adapter names.
        revision: Its commit, when it is a hub id; None stands for the adapter's own, unless `reference` is given.
        dtype: Type of the backbone.
        console: Where people read.

    Raises:
        MptError: Of the fitting class; see the modules called.
    """
    if out.exists():
        raise ConfigError(f"{out}: exists already, and nothing is overwritten. Give another folder")
    adapter = read_adapter(folder)
    manifest, loaded, notices = _load_task(manifest_path, task)
    rows = _rows(folder, tuple(labels) or adapter.labels, len(adapter.bias), loaded)
    if (named := reference or adapter.base) is None:
        place = folder / ADAPTER_CONFIG
        raise ConfigError(f"{place}: base_model_name_or_path is empty. Give the model with --backbone")
    commit = revision or (None if reference else adapter.revision)
    positions = "shifted" if adapter.form.shifted else "unshifted"
    settings = BackboneSettings(reference=named, revision=commit, dtype=dtype, positions=positions)
    backbone = _open_backbone(settings, adapter)
    _check_backbone(folder, adapter, backbone)
    state = TaskState([part := adapter.form.read(adapter.config, adapter.tensors, backbone)])
    files = {name: sha256_file(folder / name) for name in (ADAPTER_CONFIG, ADAPTER_WEIGHTS)}
    identity = identity_of(
        backbone,
        state.specs,
        [loaded],
        stage="import",
        settings=None,
        backbone_settings=settings,
        prompt_settings=PromptSettings(length=part.virtual_tokens) if part.virtual_tokens else PromptSettings(),
        more={"manifest": {"name": manifest.name, "sha256": manifest.digest}, "peft": files},
    )
    checkpoint = Checkpoint(
        state={name: value.detach() for name, value in state.values().items()},
        networks={},
        heads={f"{loaded.name}.weight": adapter.weight[rows], f"{loaded.name}.bias": adapter.bias[rows]},
        optimizer={},
        progress=UNTRAINED,
        identity=identity,
    )
    tell(console, notices)
    return save_checkpoint(out / "checkpoints", checkpoint)


def _load_task(path: Path, name: str | None) -> tuple[Manifest, Task, list[str]]:
    """The manifest, the task of the head, and notices."""
    manifest = load_manifest(path)
    names = chosen_names(manifest, None if name is None else [name])
    if len(names) > 1:
        raise ConfigError(f"{path}: has several tasks ({', '.join(names)}). Name the head's with --task")
    if problems := [problem for one in names for problem in foreign_family(one, manifest.spec(one).family)]:
        raise ConfigError([f"{path}: {problem}" for problem in problems])
    (task,), notices = load_tasks(manifest, names=names)
    return manifest, task, notices


def _open_backbone(settings: BackboneSettings, adapter: PeftAdapter) -> Backbone:
    """The backbone, run as PEFT runs it."""
    form = adapter.form
    backbone = load_backbone(
        settings.reference,
        revision=settings.revision,
        dtype=settings.dtype,
        prompt_length=form.virtual_tokens(adapter.config),
        shifted=form.shifted,
        longest_window=settings.longest_window,
    )
    probe(backbone)
    return backbone


def _rows(folder: Path, labels: tuple[str, ...] | None, count: int, task: Task) -> list[int]:
    """The head's rows in the order of the task's labels.

    Raises:
        CheckpointError: The rows have no names, or others than the task's labels.
    """
    if labels is None:
        raise CheckpointError(
            f"{folder}: the names of the head's {count} rows are not in it: PEFT does not save them. Give them in the "
            f"model's order (its config's id2label) with --labels, for example {','.join(task.labels)}"
        )
    if len(labels) != count or sorted(labels) != sorted(task.labels):
        raise CheckpointError(
            f'{folder}: the head does not fit task "{task.name}": it has {count} rows, named {", ".join(labels)}; the '
            f"manifest has {', '.join(task.labels)}. Correct --labels, or the task's labels and label_map"
        )
    return [labels.index(label) for label in task.labels]


def _check_backbone(folder: Path, adapter: PeftAdapter, backbone: Backbone) -> None:
    """Refuse an adapter of a model with other sizes, or over a backbone that acts in another way in PEFT."""
    problems = [f"{folder}: {problem}" for problem in unsupported(adapter.form, backbone)]
    sizes = {
        **adapter.form.sizes(adapter.config, adapter.tensors, backbone),
        "columns of the head": (adapter.weight.shape[1], backbone.hidden_size),
    }
    problems += [
        f'{folder}: {name}: the adapter has {ours}, backbone "{backbone.identity.reference}" {theirs}. Give the model '
        "that it was trained on with --backbone"
        for name, (ours, theirs) in sizes.items()
        if ours != theirs
    ]
    if problems:
        raise CheckpointError(problems)
