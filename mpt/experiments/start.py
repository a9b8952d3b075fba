"""What all models of a comparison start from: a backbone, the settings of prompts, and a pretrained model, if any."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from mpt.base.errors import CheckpointError, ConfigError, LaunchError
from mpt.base.settings import BackboneSettings, PromptSettings, PromptTrainingSettings
from mpt.data.encoded import EncodedTask
from mpt.data.tasks import Task
from mpt.experiments.methods import METHODS, Method
from mpt.experiments.prompts import new_bank, new_network, prompt_shape
from mpt.experiments.settings import LoraSettings, TrialSettings
from mpt.experiments.target_head import build_head
from mpt.model.backbone.backbone import Backbone
from mpt.model.language_head import new_heads
from mpt.model.scorer import Tagger, text_behind
from mpt.model.state.bank import PromptBank
from mpt.model.state.input_prompt import ShallowPrompt
from mpt.model.state.low_rank import new_adaptation, require_peft
from mpt.model.state.start import initial_embeddings, initial_prompt
from mpt.serving.saved import SavedModel
from mpt.training.engines import Engine


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

    def of(self, method: Method) -> "Start":
        """The same for one method: positions and prompt as it has them.

        Raises:
            BackboneError: Its prompt leaves too few positions to the text.
        """
        start = self
        if method.shifted:
            settings = start.backbone_settings.model_copy(update={"positions": "shifted"})
            backbone = text_behind(start.backbone, start.prompt_settings.length)
            start = replace(start, backbone=backbone, backbone_settings=settings)
        own = {"initialisation": method.initialisation, "reparameterisation": method.reparameterisation}
        own = {field: value for field, value in own.items() if value is not None}
        return replace(start, prompt_settings=start.prompt_settings.model_copy(update=own))

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
    """Start from a pretrained model: its backbone, and its prompt but for what is trained in its place.

    Raises:
        CheckpointError: It is one of the baselines that have no deep prompt to start from.
    """
    if saved.tagger.shallow is not None or saved.tagger.adaptation is not None:
        raise CheckpointError(
            f"{saved.folder}: trained by a method without a deep prompt ({saved.checkpoint.identity['method']}), "
            "expected a pretrained prompt. Give the run of a pretraining"
        )
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


def new_tagger(start: Start, encoded: EncodedTask, *, method: Method, seed: int, settings: TrialSettings) -> Tagger:
    """The model that a method starts from.

    Args:
        start: The method's, see `Start.of`.
        encoded: The task.
        method: What is trained.
        seed: Of what is drawn.
        settings: Of the comparison.
    """
    backbone, task, dropout = start.backbone, encoded.task, settings.training.head_dropout
    if method.pretrained:
        assert start.pretrained is not None, "there is nothing to transfer"
        head = build_head(start.pretrained, task, mode=settings.head, seed=seed, dropout=dropout)
    else:
        head = new_heads(backbone, [task], seed=seed, dropout=dropout)[task.name]
    facts = adaptation_facts(method, settings.lora).get("adaptation")
    return Tagger(
        backbone,
        _deep_prompt(start, encoded, method, seed),
        {task.name: head},
        shallow=_shallow_prompt(start, encoded, seed) if method.prompt == "shallow" else None,
        adaptation=None if facts is None else new_adaptation(backbone, **facts, seed=seed),
        backbone_dropout=settings.training.backbone_dropout,
    )


def adaptation_facts(method: Method, settings: LoraSettings) -> dict[str, dict[str, Any]]:
    """What an identity says of a method that trains weights of the backbone, as `new_adaptation` takes it."""
    if method.weights is None:
        return {}
    return {"adaptation": {"weights": method.weights, **(settings.model_dump() if method.weights == "lora" else {})}}


def _deep_prompt(start: Start, encoded: EncodedTask, method: Method, seed: int) -> PromptBank | None:
    if method.prompt != "deep":
        return None
    prompting = start.prompt_settings
    if method.pretrained:
        saved = None if start.pretrained is None else start.pretrained.tagger.bank
        if saved is None:
            return None  # pretrained heads alone
        return new_bank(saved.slots[0].detach().cpu(), saved.shapes[0], prompting, seed=seed)
    shape, texts = prompt_shape(start.backbone, prompting), [encoded.splits["train"]]
    prompt = initial_prompt(start.backbone, shape, texts, initialisation=prompting.initialisation, seed=seed)
    return new_bank(prompt, shape, prompting, seed=seed)


def _shallow_prompt(start: Start, encoded: EncodedTask, seed: int) -> ShallowPrompt:
    prompting, texts = start.prompt_settings, [encoded.splits["train"]]
    embeddings = initial_embeddings(
        start.backbone, prompting.length, texts, initialisation=prompting.initialisation, seed=seed
    )
    network = new_network(embeddings, prompting, input_size=embeddings.shape[1], seed=seed)
    return ShallowPrompt(embeddings, dropout=prompting.dropout, reparameterisation=network)


def require_trainable(methods: Sequence[str], tasks: Sequence[Task], engine: Engine) -> None:
    """Refuse methods that cannot be trained here, before anything is.

    Raises:
        BackboneError: PEFT is needed and not installed.
        ConfigError: A method trains the head alone, and a task has a verbalizer, whose head is not trained.
        LaunchError: The launch is under an engine that trains deep prompts and heads only.
    """
    if any(METHODS[name].weights == "lora" for name in methods):
        require_peft()
    alone = [name for name in methods if METHODS[name].rates == ("head",)]
    cloze = [task.name for task in tasks if task.spec.cloze is not None]
    if alone and cloze:
        raise ConfigError(
            f"method {', '.join(alone)} trains the head alone, and that of {', '.join(cloze)} is the backbone's own: "
            "verbalizer. Leave out the method or the tasks"
        )
    whole = [name for name in methods if METHODS[name].weights or METHODS[name].prompt == "shallow"]
    if whole and (engine.sharding is not None or engine.zero is not None):
        raise LaunchError(
            f"launched under {engine.name}: {', '.join(whole)} train what the backbone computes with, "
            "expected methods with deep prompts and heads alone. Leave them out, or launch without an engine "
            "(configs/accelerate/)"
        )
