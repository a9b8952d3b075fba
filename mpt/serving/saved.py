"""A checkpoint as a model again: backbone found and compared, task state and heads in place."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from mpt.base.errors import BackboneError, CheckpointError, ConfigError, did_you_mean
from mpt.base.settings import Dtype
from mpt.data.manifest.format_specs import task_spec
from mpt.data.manifest.task_spec import TaskSpec
from mpt.data.tasks import make_task
from mpt.model.backbone.backbone import Backbone, load_backbone
from mpt.model.backbone.precision import resolve_dtype
from mpt.model.backbone.probe import probe
from mpt.model.backbone.sharding import Sharding
from mpt.model.language_head import new_heads
from mpt.model.scorer import Scorer
from mpt.model.state.bank import TaskState
from mpt.model.state.starts import restored_state, virtual_tokens
from mpt.training.checkpoint import Checkpoint, find_checkpoint, load_checkpoint, require_same

# What must agree for a prompt to mean the same; where the files lie may differ.
COMPARED = ("architecture", "weights_sha256", "tokenizer_sha256")


@dataclass(frozen=True, slots=True, kw_only=True)
class SavedModel:
    """A model with a trained task state and heads.

    Attributes:
        folder: The checkpoint's folder.
        checkpoint: Its content.
        scorer: The model.
        notices: What a user should know about how it was opened.
    """

    folder: Path
    checkpoint: Checkpoint
    scorer: Scorer
    notices: tuple[str, ...] = ()

    @property
    def state(self) -> TaskState:
        """What was trained besides heads."""
        return self.scorer.state

    @property
    def tasks(self) -> Mapping[str, Any]:
        """What the checkpoint says about each task: family, metric, labels, files, spec."""
        return self.checkpoint.identity["tasks"]

    @property
    def dtype(self) -> str:
        """Type of the backbone's weights as it was opened."""
        return str(self.scorer.backbone.dtype).removeprefix("torch.")

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
        self.scorer.head(task)  # names the known tasks if this is none
        return _spec(self.tasks[task])


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
    specs = checkpoint.identity["state"]
    trained = saved["dtype"]
    opened = resolve_dtype(trained if (dtype, trained) == ("auto", "float32") else dtype, torch.device(device))
    try:
        backbone = over or load_backbone(
            reference or saved["reference"],
            revision=None if reference else saved["revision"],
            dtype=opened,
            prompt_length=virtual_tokens(specs),
            shifted=saved["positions"] == "shifted",
            longest_window=saved["longest_window"],
            word_state=saved.get("word_state", "piece"),
            device=device,
            sharding=sharding,
        )
    except BackboneError as error:
        moved = "" if reference else ". If the backbone has moved, give its place with --backbone"
        raise BackboneError(f"{folder}: {error}{moved}") from error
    current = backbone.identity.to_json()
    require_same(
        {"backbone": {key: saved[key] for key in COMPARED}},
        {"backbone": {key: current[key] for key in COMPARED}},
        folder=folder,
        remedy="A prompt works with the backbone it was trained on only. Give that one's place with --backbone",
    )
    probe(backbone)
    tasks = (
        make_task(name, _spec(facts), labels=facts["labels"], digests={})
        for name, facts in checkpoint.identity["tasks"].items()
    )
    heads = new_heads(backbone, tasks, seed=0)
    scorer = Scorer(backbone, restored_state(specs, checkpoint.state, backbone, where=str(folder)), heads)
    scorer.restore(checkpoint.tensors)
    told = f"{folder}: trained in {trained}, opened in {opened}: scores may differ slightly from those of its training"
    notices = () if opened == trained else (told,)
    return SavedModel(folder=folder, checkpoint=checkpoint, scorer=scorer, notices=notices)


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


def _spec(facts: Mapping[str, Any]) -> TaskSpec:
    return task_spec(facts["spec"])
