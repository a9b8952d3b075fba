"""Checkpoints as models again: backbone found and compared, task states and heads in place, one or many in a bank."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from mpt.base.errors import BackboneError, CheckpointError, ConfigError, did_you_mean
from mpt.base.settings import Dtype
from mpt.data.manifest.format_specs import task_spec
from mpt.data.manifest.task_spec import TaskSpec
from mpt.data.tasks import Task
from mpt.model.backbone.backbone import Backbone, load_backbone
from mpt.model.backbone.precision import resolve_dtype
from mpt.model.backbone.probe import probe
from mpt.model.backbone.sharding import Sharding
from mpt.model.heads import Head
from mpt.model.language_head import new_heads
from mpt.model.scorer import Scorer
from mpt.model.state.bank import TaskState
from mpt.model.state.merged import merged_state
from mpt.model.state.starts import restored_state, virtual_tokens
from mpt.training.checkpoint import Checkpoint, find_checkpoint, load_checkpoint, require_same

COMPARED = ("architecture", "weights_sha256", "tokenizer_sha256")
"""What must agree for a task state to mean the same; where the files lie may differ."""
ALIKE = (*COMPARED, "positions", "longest_window", "word_state")
"""What must agree for models to be open over one backbone in memory."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SavedModel:
    """A model with a trained task state and heads.

    Attributes:
        folder: The checkpoint's folder.
        checkpoint: Its content.
        scorer: Holds the model, in one of its slots.
        slot: Which.
        notices: What a user should know about how it was opened.
    """

    folder: Path
    checkpoint: Checkpoint
    scorer: Scorer
    slot: int = 0
    notices: tuple[str, ...] = ()

    @property
    def state(self) -> TaskState:
        """What was trained besides heads."""
        return self.scorer.bank.state(self.slot)

    @property
    def tasks(self) -> Mapping[str, Any]:
        """What the checkpoint says about each task: family, metric, labels, files, spec."""
        return self.checkpoint.identity["tasks"]

    @property
    def dtype(self) -> str:
        """Type of the backbone's weights as it was opened."""
        return str(self.scorer.backbone.dtype).removeprefix("torch.")

    def head(self, task: str) -> Head:
        """The head of one of its tasks.

        Raises:
            MptError: It has no such task; names those that it has.
        """
        return self.scorer.head(task, self.slot)

    def only_task(self) -> str:
        """The name of its task, when there is one.

        Raises:
            CheckpointError: It has several.
        """
        if len(self.tasks) > 1:
            raise CheckpointError(f"{self.folder}: has several tasks ({', '.join(self.tasks)}). Name one with --task")
        return next(iter(self.tasks))

    def task_spec(self, task: str) -> TaskSpec:
        """The manifest's declaration of a task at training time."""
        self.head(task)  # names the known tasks if this is none
        return task_spec(self.tasks[task]["spec"])


def open_saved(
    path: Path,
    *,
    reference: str | None = None,
    dtype: Dtype = "auto",
    device: torch.device | str = "cpu",
    sharding: Sharding | None = None,
    over: Backbone | None = None,
) -> SavedModel:
    """Load a run's best checkpoint, or a given one, for use.

    Args:
        path: A run folder or a checkpoint folder.
        reference: Where the backbone lies now, when it has moved; its content must be the same.
        dtype: Type of the backbone's weights. "auto" is the one that it was trained in, but float32 where that is
            bfloat16 and the device only emulates it.
        device: Where to put it.
        sharding: Spread the backbone over the ranks; None has all of it on every rank.
        over: The same backbone, which is in memory already; None loads it.

    Raises:
        CheckpointError: Damaged, or the backbone is another one than it was made for.
        BackboneError: The backbone cannot be loaded.
    """
    folder = find_checkpoint(path)
    checkpoint = load_checkpoint(folder)
    saved = checkpoint.identity["backbone"]
    trained = saved["dtype"]
    opened = resolve_dtype(trained if (dtype, trained) == ("auto", "float32") else dtype, torch.device(device))
    try:
        backbone = over or load_backbone(
            reference or saved["reference"],
            revision=None if reference else saved["revision"],
            dtype=opened,
            prompt_length=virtual_tokens(checkpoint.identity["state"]),
            shifted=saved["positions"] == "shifted",
            longest_window=saved["longest_window"],
            word_state=saved.get("word_state", "piece"),
            device=device,
            sharding=sharding,
        )
    except BackboneError as error:
        moved = "" if reference else ". If the backbone has moved, give its place with --backbone"
        raise BackboneError(f"{folder}: {error}{moved}") from error
    _require_backbone(folder, saved, backbone.identity.to_json(), COMPARED)
    probe(backbone)
    scorer = Scorer(backbone, *_contents(folder, checkpoint, backbone))
    return SavedModel(folder=folder, checkpoint=checkpoint, scorer=scorer, notices=_told(folder, trained, backbone))


class OpenBank:
    """Trained models over one backbone in memory, each in a slot of one bank.

    Where a single model is open, its low-rank updates are merged into a copy of the weights that they are of, so that
    they cost nothing.

    Args:
        first: The model that the others join.
        merge: Merge the updates of a single model.
    """

    def __init__(self, first: SavedModel, *, merge: bool = True) -> None:
        self.scorer = first.scorer
        self._models: dict[str, SavedModel] = dict.fromkeys(first.tasks, first)
        self._first, self._unmerged = first, first.state
        if merge:
            self.scorer.bank.put(first.slot, merged_state(first.state, self.scorer.backbone))

    @property
    def tasks(self) -> Mapping[str, SavedModel]:
        """The model of each task."""
        return self._models

    @property
    def notices(self) -> list[str]:
        """What a user should know about how its models were opened."""
        return list(dict.fromkeys(notice for model in self._models.values() for notice in model.notices))

    def model(self, task: str) -> SavedModel:
        """The model of a task.

        Raises:
            CheckpointError: It is not open.
        """
        if task not in self._models:
            known, have = ", ".join(self._models) or "none", "this model has"
            if len(set(self._slots())) > 1:
                have = "these models have"
            raise CheckpointError(f'no head for task "{task}": {have} {known}.{did_you_mean(task, self._models)}')
        return self._models[task]

    def add(self, path: Path) -> SavedModel:
        """Open another model: a run folder or a checkpoint folder.

        Raises:
            CheckpointError: Damaged, made for another backbone, or one of its tasks is open already; nothing changes.
        """
        folder = find_checkpoint(path)
        checkpoint = load_checkpoint(folder)
        backbone, saved = self.scorer.backbone, checkpoint.identity["backbone"]
        here = self._first.checkpoint.identity
        _require_backbone(folder, saved, here["backbone"], ALIKE)
        if backbone.shifted:  # windows are cut for what a prompt leaves of the positions
            lengths = [{"virtual tokens": virtual_tokens(it["state"])} for it in (checkpoint.identity, here)]
            remedy = (
                "Models whose text starts behind prompts are open together where these are as long. Open them apart"
            )
            require_same(lengths[0], lengths[1], folder=folder, remedy=remedy)
        if twice := [name for name in checkpoint.identity["tasks"] if name in self._models]:
            other = self._models[twice[0]].folder
            raise CheckpointError(
                f"{folder}: task {', '.join(twice)} is open already, from {other}. Rename the task in the manifest of "
                "one of them and train it again, or open them apart"
            )
        contents, told = _contents(folder, checkpoint, backbone), _told(folder, saved["dtype"], backbone)
        if self._first.slot in self._slots():
            self.scorer.bank.put(self._first.slot, self._unmerged)
        slot = self.scorer.add(*contents)
        model = SavedModel(folder=folder, checkpoint=checkpoint, scorer=self.scorer, slot=slot, notices=told)
        self._models |= dict.fromkeys(checkpoint.identity["tasks"], model)
        return model

    def remove(self, task: str) -> None:
        """Close a task; the state that it was computed with goes with its last task.

        Raises:
            CheckpointError: It is not open.
        """
        model = self.model(task)
        del self._models[task]
        if model.slot not in self._slots():
            self.scorer.remove(model.slot)

    def _slots(self) -> list[int]:
        return [model.slot for model in self._models.values()]


def open_bank(
    paths: Sequence[Path],
    *,
    reference: str | None = None,
    dtype: Dtype = "auto",
    device: torch.device | str = "cpu",
    merge: bool = True,
) -> OpenBank:
    """Open any number of trained models over one backbone; arguments as of `open_saved` and `OpenBank`.

    Raises:
        CheckpointError: See `OpenBank.add`.
    """
    bank = OpenBank(open_saved(paths[0], reference=reference, dtype=dtype, device=device), merge=merge)
    for path in paths[1:]:
        bank.add(path)
    return bank


def _require_backbone(folder: Path, saved: Mapping[str, Any], here: Mapping[str, Any], names: Sequence[str]) -> None:
    require_same(
        {"backbone": {name: saved.get(name) for name in names}},
        {"backbone": {name: here.get(name) for name in names}},
        folder=folder,
        remedy="A task state works with the backbone it was trained on only. Give that one's place with --backbone",
    )


def _contents(folder: Path, checkpoint: Checkpoint, backbone: Backbone) -> tuple[TaskState, dict[str, Head]]:
    """The task state and the heads of a checkpoint."""
    tasks = [
        Task(name=name, spec=task_spec(facts["spec"]), labels=tuple(facts["labels"]), digests={})
        for name, facts in checkpoint.identity["tasks"].items()
    ]
    heads = new_heads(backbone, tasks, seed=0)
    with torch.no_grad():
        for task, head in heads.items():
            for name, parameter in head.named_parameters():
                parameter.copy_(checkpoint.heads[f"{task}.{name}"])
    return restored_state(checkpoint.identity["state"], checkpoint.state, backbone, where=str(folder)), heads


def _told(folder: Path, trained: str, backbone: Backbone) -> tuple[str, ...]:
    """What a user should know of the type that a model was opened in."""
    opened = str(backbone.dtype).removeprefix("torch.")
    told = f"{folder}: trained in {trained}, opened in {opened}: scores may differ slightly from those of its training"
    return () if opened == trained else (told,)


def find_device(name: str) -> torch.device:
    """The device of this machine that a user names; "auto" is its first GPU, or its processor where it has none.

    Raises:
        ConfigError: There is no such device.
    """
    count = torch.cuda.device_count()
    known = ["auto", "cpu", *["cuda"] * (count > 0), *(f"cuda:{number}" for number in range(count))]
    if name not in known:
        raise ConfigError(f'--device "{name}": this machine has {", ".join(known)}.{did_you_mean(name, known)}')
    return torch.device(name if name != "auto" else "cuda" if count else "cpu")
