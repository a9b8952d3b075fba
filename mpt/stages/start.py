"""What all models of a comparison start from: a backbone, the settings of prompts, and a pretrained model, if any."""

from dataclasses import dataclass
from typing import Any

from mpt.config import BackboneSettings, PromptSettings, PromptTrainingSettings, TrialSettings
from mpt.data.encoded import EncodedTask
from mpt.evaluation.comparison import TRANSFER
from mpt.model.backbone import Backbone
from mpt.model.heads import TokenHead
from mpt.model.initialisation import initial_prompt
from mpt.model.tagger import Tagger
from mpt.serving.saved import SavedModel
from mpt.stages.assembly import new_bank, prompt_shape
from mpt.stages.target_head import build_head


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """Where trials start.

    Attributes:
        backbone: The frozen model.
        backbone_settings: How it was loaded.
        prompt_settings: Of every deep prompt, fresh or pretrained.
        pretrained: Prompt and heads for the methods that use them; None compares baselines alone.
    """

    backbone: Backbone
    backbone_settings: BackboneSettings
    prompt_settings: PromptSettings
    pretrained: SavedModel | None = None

    @property
    def origin(self) -> dict[str, Any] | None:
        """What an identity says of the pretrained model."""
        if self.pretrained is None:
            return None
        checkpoint = self.pretrained.checkpoint
        return {
            "stage": checkpoint.identity["stage"],
            "tasks": list(checkpoint.identity["tasks"]),
            "step": checkpoint.step,
        }


def start_from(saved: SavedModel, prompt: PromptTrainingSettings) -> Start:
    """Start from a pretrained model: its backbone, and its prompt but for what is trained in its place."""
    identity = saved.checkpoint.identity
    own = identity["backbone"]
    return Start(
        backbone=saved.tagger.backbone,
        backbone_settings=BackboneSettings.model_validate(
            {key: own[key] for key in BackboneSettings.model_fields if key in own}
        ),
        prompt_settings=PromptSettings.model_validate(identity["prompt"] | prompt.model_dump(), strict=False),
        pretrained=saved,
    )


def new_tagger(start: Start, encoded: EncodedTask, *, method: str, seed: int, settings: TrialSettings) -> Tagger:
    """The model that a method starts from."""
    backbone, prompting, task = start.backbone, start.prompt_settings, encoded.task
    dropout = settings.training.head_dropout
    if method == TRANSFER:
        assert start.pretrained is not None, "there is nothing to transfer"
        heads = {task.name: build_head(start.pretrained, task, mode=settings.head, seed=seed, dropout=dropout)}
        pretrained = start.pretrained.tagger.bank
        if pretrained is None:
            return Tagger(backbone, None, heads)
        shape, prompt = pretrained.shapes[0], pretrained.slots[0].detach().cpu()
        return Tagger(backbone, new_bank(prompt, shape, prompting, seed=seed), heads)
    heads = {task.name: TokenHead(backbone.hidden_size, task.labels, seed=seed, task=task.name, dropout=dropout)}
    if method == "head":
        return Tagger(backbone, None, heads)
    shape, texts = prompt_shape(backbone, prompting), [encoded.splits["train"]]
    prompt = initial_prompt(backbone, shape, texts, initialisation=prompting.initialisation, seed=seed)
    return Tagger(backbone, new_bank(prompt, shape, prompting, seed=seed), heads)
