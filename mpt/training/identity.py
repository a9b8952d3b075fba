"""What a checkpoint's tensors belong to."""

from collections.abc import Mapping, Sequence
from typing import Any

from mpt.base.settings import BackboneSettings, PromptSettings, PromptTrainingSettings, StageSettings
from mpt.data.tasks import Task
from mpt.model.backbone.backbone import Backbone

# No part of an identity: where things lie, what they cost, and how ranks add up and wait.
PLACES_AND_COSTS = {"reference", "revision", "gradient_checkpointing", "text_cache_gib"}
BETWEEN_RANKS = {"gradient_sum", "timeout_seconds"}


def identity_of(
    backbone: Backbone,
    state: Mapping[str, Mapping[str, Any]],
    tasks: Sequence[Task],
    *,
    stage: str,
    settings: StageSettings | None,
    backbone_settings: BackboneSettings,
    prompt_settings: PromptSettings,
    more: Mapping[str, Any],
) -> dict[str, Any]:
    """What a checkpoint's tensors belong to; resuming under another identity is refused.

    Args:
        backbone: The frozen model.
        state: Parts of the task state, from `TaskState.specs`.
        tasks: Whose heads there are.
        stage: "pretrain", "transfer" or "import".
        settings: How it was trained; None where nothing was trained here.
        backbone_settings: How the backbone was loaded.
        prompt_settings: Of prompts, and what they were trained through.
        more: Whatever else it depends on.
    """
    return {
        "stage": stage,
        "backbone": {
            **backbone.identity.to_json(),
            **backbone_settings.model_dump(mode="json", exclude=PLACES_AND_COSTS),
        },
        "state": state,
        "prompt": prompt_settings.model_dump(mode="json", exclude=_unused(prompt_settings)),
        "tasks": {
            task.name: {
                "family": task.spec.family,
                "metric": task.spec.metric,
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
