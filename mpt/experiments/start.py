"""What all models of a comparison start from: a backbone, the settings of prompts, and a pretrained model, if any.

The head of a target task starts fresh, from rows of the same label, or from one source task.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from mpt.base.errors import CheckpointError, ConfigError, LaunchError, did_you_mean
from mpt.base.settings import (
    BackboneSettings,
    LowRankSettings,
    PartKind,
    PromptSettings,
    PromptTrainingSettings,
    RateName,
)
from mpt.data.encoded import EncodedTask
from mpt.data.tasks import Task
from mpt.experiments.methods import Method
from mpt.experiments.settings import TrialSettings
from mpt.model.backbone.backbone import Backbone
from mpt.model.heads import Head, TokenHead
from mpt.model.language_head import new_heads
from mpt.model.scorer import Scorer
from mpt.model.state.bank import PARTS
from mpt.model.state.starts import StatePlan, fresh_state, restored_state
from mpt.serving.saved import SavedModel
from mpt.training.engines import Engine


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """Where trials start.

    Attributes:
        backbone: The frozen model.
        backbone_settings: How it was loaded.
        prompt_settings: Of every prompt, fresh or pretrained.
        pretrained: Task state and heads to go on from; None starts fresh.
    """

    backbone: Backbone
    backbone_settings: BackboneSettings
    prompt_settings: PromptSettings
    pretrained: SavedModel | None = None

    def of(self, method: Method) -> "Start":
        """The same for one method: positions and prompt as it has them.

        Raises:
            BackboneError: Its prompt leaves too few positions to the text.
        """
        start = self
        if method.shifted:
            settings = start.backbone_settings.model_copy(update={"positions": "shifted"})
            backbone = start.backbone.behind(start.prompt_settings.length)
            start = replace(start, backbone=backbone, backbone_settings=settings)
        own = {"initialisation": method.initialisation, "reparameterisation": method.reparameterisation}
        own = {field: value for field, value in own.items() if value is not None}
        return replace(start, prompt_settings=start.prompt_settings.model_copy(update=own))

    def parts(self, method: Method) -> tuple[PartKind, ...]:
        """Kinds of the parts that a method trains from here."""
        return method.parts if self.pretrained is None else tuple(self.pretrained.state.parts)

    def rates(self, method: Method) -> tuple[RateName, ...]:
        """The learning rates that a method has."""
        return tuple(dict.fromkeys([*(PARTS[kind].rate for kind in self.parts(method)), "head"]))

    @property
    def origin(self) -> dict[str, Any] | None:
        """What an identity says of the pretrained model."""
        if self.pretrained is None:
            return None
        checkpoint, tasks = self.pretrained.checkpoint, list(self.pretrained.tasks)
        return {"stage": checkpoint.identity["stage"], "tasks": tasks, "step": checkpoint.step}


def start_from(saved: SavedModel, prompt: PromptTrainingSettings) -> Start:
    """Start from a pretrained model: its backbone, and its state but for what is trained in a prompt's place."""
    identity = saved.checkpoint.identity
    known = {key: value for key, value in identity["backbone"].items() if key in BackboneSettings.model_fields}
    return Start(
        backbone=saved.scorer.backbone,
        backbone_settings=BackboneSettings.model_validate(known | {"dtype": saved.dtype}),
        prompt_settings=PromptSettings.model_validate(identity["prompt"] | prompt.model_dump(), strict=False),
        pretrained=saved,
    )


def new_scorer(start: Start, encoded: EncodedTask, *, method: Method, seed: int, settings: TrialSettings) -> Scorer:
    """The model for a task that a method starts from; `start` is the method's, see `Start.of`."""
    backbone, task, dropout = start.backbone, encoded.task, settings.training.head_dropout
    if start.pretrained is not None:
        saved = start.pretrained
        head = build_head(saved, task, mode=settings.head, seed=seed, dropout=dropout)
        values = {name: value.detach().cpu() for name, value in saved.state.values().items()}
        prompt, where = start.prompt_settings, str(saved.folder)
        state = restored_state(saved.state.specs, values, backbone, where=where, prompt=prompt, seed=seed)
    else:
        head = new_heads(backbone, [task], seed=seed, dropout=dropout)[task.name]
        plan = plan_of(method, start.prompt_settings, settings.low_rank)
        state = fresh_state(plan, backbone, [encoded.splits["train"]], seed=seed)
    return Scorer(backbone, state, {task.name: head}, backbone_dropout=settings.training.backbone_dropout)


def plan_of(method: Method, prompt: PromptSettings, low_rank: LowRankSettings) -> StatePlan:
    """What a method's fresh task state is made of."""
    updates = low_rank.model_copy(update={"targets": low_rank.targets or method.targets})
    return StatePlan(parts=method.parts, prompt=prompt, low_rank=updates, biases=method.biases)


def require_trainable(
    starts: Mapping[str, tuple[Method, Sequence[PartKind]]], tasks: Sequence[Task], engine: Engine
) -> None:
    """Refuse what cannot be trained here, before anything is.

    Args:
        starts: By name, methods and the kinds of parts that they train from their starts.
        tasks: What is trained on.
        engine: Of the launch.

    Raises:
        ConfigError: A method trains the head alone, and a task has a verbalizer, whose head is not trained; or it
            starts from a state of another method.
        LaunchError: The launch is under an engine that trains what acts on activations only.
    """
    alone = dict.fromkeys(method.name for method, parts in starts.values() if not parts)
    cloze = [task.name for task in tasks if task.spec.cloze is not None]
    problems = []
    if alone and cloze:
        problems.append(
            f"method {', '.join(alone)} trains the head alone, and that of {', '.join(cloze)} is the backbone's own: "
            "verbalizer. Leave out the method or the tasks"
        )
    problems += [
        f"{name}: method {method.name} trains {_listed(method.parts)}, and what it starts from holds {_listed(parts)}. "
        'Take method "transfer", which trains whatever was pretrained, or another pretraining'
        for name, (method, parts) in starts.items()
        if not method.pretrained and set(parts) != set(method.parts)
    ]
    if problems:
        raise ConfigError(problems)
    whole = [name for name, (_, parts) in starts.items() if not all(PARTS[kind].shardable for kind in parts)]
    if whole and (engine.sharding is not None or engine.zero is not None):
        raise LaunchError(
            f"launched under {engine.name}: {', '.join(whole)} train what the backbone computes with, "
            "expected methods with deep prompts, low-rank updates and heads alone. Leave them out, or launch without "
            "an engine (configs/accelerate/)"
        )


def _listed(parts: Sequence[PartKind]) -> str:
    return " and ".join(kind.replace("_", "-") for kind in parts) or "the head alone"


def build_head(saved: SavedModel, task: Task, *, mode: str, seed: int, dropout: float) -> Head:
    """A head for a target task.

    Args:
        saved: The pretrained model.
        task: The target task.
        mode: "fresh" draws it, "by-label" then copies each label's row from the pretrained heads that have a label of
            that name (their mean, letter case aside), "from:TASK" copies the head of one pretrained task. A verbalizer
            is the backbone's own head whatever the mode.
        seed: Names the fresh weights.
        dropout: Of the head.

    Raises:
        CheckpointError: The source task is not in the checkpoint, or its labels are not the target's.
    """
    head = new_heads(saved.scorer.backbone, [task], seed=seed, dropout=dropout)[task.name]
    if not isinstance(head, TokenHead):
        return head
    if mode.startswith("from:"):
        source = _source(saved, task, mode.removeprefix("from:"))
        for label in task.labels:
            head.copy_label(label, [(source, label)])
    elif mode == "by-label":
        for label in task.labels:
            if sources := namesakes(saved, label):
                head.copy_label(label, sources)
    return head


def namesakes(saved: SavedModel, label: str) -> list[tuple[TokenHead, str]]:
    """Trained heads with a label of that name, letter case aside, and how they write it."""
    return [
        (head, theirs)
        for head in saved.scorer.heads().values()
        if isinstance(head, TokenHead)
        for theirs in head.labels
        if theirs.casefold() == label.casefold()
    ]


def _source(saved: SavedModel, task: Task, name: str) -> TokenHead:
    known = list(saved.scorer.heads())
    if name not in known:
        raise CheckpointError(
            f"{saved.folder}: head from:{name}: no such task in the checkpoint, it has {', '.join(known)}."
            f"{did_you_mean(name, known)}"
        )
    source = saved.scorer.head(name)
    if not isinstance(source, TokenHead):
        raise CheckpointError(
            f'{saved.folder}: head from:{name} does not fit task "{task.name}": {name} has a verbalizer, whose head is '
            "the backbone's. Use --head fresh, or give the target a verbalizer"
        )
    missing = [label for label in task.labels if label not in source.labels]
    extra = [label for label in source.labels if label not in task.labels]
    if missing or extra:
        raise CheckpointError(
            f'{saved.folder}: head from:{name} does not fit task "{task.name}": labels differ '
            f"(only in the target: {', '.join(missing) or 'none'}; only in {name}: {', '.join(extra) or 'none'}). "
            "Use --head by-label, which copies the labels that both have"
        )
    return source
