"""What a checkpoint's tensors belong to."""

from collections.abc import Mapping, Sequence
from typing import Any

from mpt.base.settings import BackboneSettings, PromptSettings, PromptTrainingSettings, StageSettings
from mpt.data.tasks import Task
from mpt.model.backbone.backbone import Backbone
from mpt.model.state.bank import PromptShape

# No part of an identity: where things lie, what they cost, and how ranks add up and wait.
PLACES_AND_COSTS = {"reference", "revision", "gradient_checkpointing", "trunk_cache_gib", "text_cache_gib"}
BETWEEN_RANKS = {"gradient_sum", "timeout_seconds"}


def identity_of(
    backbone: Backbone,
    shapes: Sequence[PromptShape],
    tasks: Sequence[Task],
    *,
    stage: str,
    settings: StageSettings | None,
    backbone_settings: BackboneSettings,
    prompt_settings: PromptSettings,
    more: Mapping[str, Any],
) -> dict[str, Any]:
    """What a checkpoint's tensors belong to; resuming under another identity is refused.

    Without `settings` nothing was trained here.
    """
    return {
        "stage": stage,
        "backbone": {
            **backbone.identity.to_json(),
            **backbone_settings.model_dump(mode="json", exclude=PLACES_AND_COSTS),
        },
        "prompts": [
            {
                "num_layers": s.num_layers,
                "layers": list(s.layers),
                "num_heads": s.num_heads,
                "length": s.length,
                "head_dim": s.head_dim,
            }
            for s in shapes
        ],
        "prompt": prompt_settings.model_dump(mode="json", exclude=_unused(prompt_settings)),
        "tasks": {
            task.name: {
                "family": task.family,
                "metric": task.metric,
                "labels": list(task.labels),
                "files": dict(task.digests),
                "spec": task.spec.model_dump(
                    mode="json", exclude_defaults=True, exclude={"license", "citation", "sha256"}
                ),
            }
            for task in tasks
        },
        **(_training(settings) if settings else {}),
        **more,
    }


def _training(settings: StageSettings) -> dict[str, Any]:
    return {
        "optimizer": settings.optimizer.model_dump(mode="json"),
        "training": settings.training.model_dump(mode="json", exclude=BETWEEN_RANKS),
        "evaluation": settings.evaluation.model_dump(mode="json"),
    }


def _unused(settings: PromptTrainingSettings) -> set[str]:
    """Settings of a network, where there is none: an identity has none of them then."""
    return set(PromptTrainingSettings.model_fields) if settings.reparameterisation == "none" else set()
