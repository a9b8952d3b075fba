"""A checkpoint as a model again: backbone found and compared, prompts and heads in place."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mpt.base.errors import BackboneError, CheckpointError
from mpt.data.manifest.task_spec import TaskSpec
from mpt.data.tasks import make_task
from mpt.model.backbone.backbone import Backbone, load_backbone
from mpt.model.backbone.probe import probe
from mpt.model.backbone.sharding import Sharding
from mpt.model.language_head import new_heads
from mpt.model.scorer import Tagger
from mpt.model.state.bank import PromptBank, PromptShape
from mpt.model.state.input_prompt import ShallowPrompt
from mpt.model.state.low_rank import new_adaptation
from mpt.training.checkpoint import SHALLOW, Checkpoint, find_checkpoint, load_checkpoint, require_same
from mpt.training.loop import trained_state

# What must agree for a prompt to mean the same; where the files lie may differ.
COMPARED = ("architecture", "weights_sha256", "tokenizer_sha256")


@dataclass(frozen=True, slots=True, kw_only=True)
class SavedModel:
    """A model with trained prompts and heads.

    Attributes:
        folder: The checkpoint's folder.
        checkpoint: Its content.
        tagger: The model.
    """

    folder: Path
    checkpoint: Checkpoint
    tagger: Tagger

    @property
    def tasks(self) -> Mapping[str, Any]:
        """What the checkpoint says about each task: family, metric, labels, files, spec."""
        return self.checkpoint.identity["tasks"]

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
        self.tagger.head(task)  # names the known tasks if this is none
        return _spec(self.tasks[task])


def open_saved(
    path: Path,
    *,
    reference: str | None = None,
    device: torch.device | str = "cpu",
    sharding: Sharding | None = None,
    over: Backbone | None = None,
) -> SavedModel:
    """Load a run's best checkpoint, or a given one, for use.

    Args:
        path: A run folder or a checkpoint folder.
        reference: Where the backbone lies now, when it has moved; its content must be the same.
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
    shapes = [_shape(values) for values in checkpoint.identity["prompts"]]
    shallow = ShallowPrompt(checkpoint.prompts[SHALLOW]) if SHALLOW in checkpoint.prompts else None
    try:
        backbone = over or load_backbone(
            reference or saved["reference"],
            revision=None if reference else saved["revision"],
            dtype=saved["dtype"],
            prompt_length=max((prompt.length for prompt in (*shapes, *([shallow] if shallow else []))), default=0),
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
    _check_shapes(folder, shapes, checkpoint.prompts)
    probe(backbone)
    tasks = (
        make_task(name, _spec(facts), labels=facts["labels"], digests={})
        for name, facts in checkpoint.identity["tasks"].items()
    )
    heads = new_heads(backbone, tasks, seed=0)
    bank = PromptBank([checkpoint.prompts[f"slot{i}"] for i in range(len(shapes))], shapes) if shapes else None
    facts = checkpoint.identity.get("adaptation")
    adaptation = None if facts is None else new_adaptation(backbone, **facts, seed=0)
    tagger = Tagger(backbone, bank, heads, shallow=shallow, adaptation=adaptation)
    tagger.load_state_dict(trained_state(tagger, checkpoint))
    return SavedModel(folder=folder, checkpoint=checkpoint, tagger=tagger)


def _spec(facts: Mapping[str, Any]) -> TaskSpec:
    return TaskSpec.model_validate_json(json.dumps(facts["spec"]))


def _shape(values: Mapping[str, Any]) -> PromptShape:
    return PromptShape(**{**values, "layers": tuple(values["layers"])})


def _check_shapes(folder: Path, shapes: list[PromptShape], prompts: Mapping[str, Tensor]) -> None:
    for index, shape in enumerate(shapes):
        found = tuple(prompts[f"slot{index}"].shape)
        if found != shape.tensor_shape:
            raise CheckpointError(
                f"{folder}: prompt slot{index} has shape {found}, expected {shape.tensor_shape} "
                "[prompted layers, 2, heads, prompt length, head_dim]. The checkpoint was put together from two others"
            )
