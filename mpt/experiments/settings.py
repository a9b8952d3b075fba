"""Settings of pretraining, transfer and comparisons, and how their files are read.

The path of a manifest is relative to the folder of the configuration file.
"""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal, Self, TypeVar

from pydantic import AfterValidator, Field, JsonValue, model_validator

from mpt.base.errors import ConfigError, did_you_mean
from mpt.base.settings import (
    BackboneSettings,
    EvaluationSettings,
    Positive,
    PromptSettings,
    Rate,
    StageSettings,
    TrainingSettings,
)
from mpt.base.strict_yaml import FieldErrors, Settings, load_model
from mpt.experiments.methods import METHODS, baseline, method, pretrainable

ROW_FIELDS = ("prompt", "low_rank", "lora", "optimizer", "training", "evaluation", "tuning", "head")
"""Settings that may differ between the rows of a comparison."""


Seeds = Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(min_length=1)]


class PretrainSettings(StageSettings):
    """Stage 1: one shared task state, one head for each task of a mixture.

    Attributes:
        manifest: The mixture.
        tasks: Tasks of the manifest to train on; an empty list stands for all. A single one is plain P-Tuning v2.
        method: What is trained; see `mpt.experiments.methods`. "prompt", a deep prompt, is MPT-2.
        backbone: The frozen language model.
        prompt: The shared prompt, where the method has one.
        trackers: Where metrics go besides `metrics.jsonl`, through Accelerate.
    """

    manifest: Path
    tasks: tuple[str, ...] = ()
    method: Annotated[str, AfterValidator(pretrainable)] = "prompt"
    backbone: BackboneSettings = BackboneSettings()
    prompt: PromptSettings = PromptSettings()  # type: ignore[assignment] (settings are frozen)
    trackers: tuple[Literal["tensorboard"], ...] = ()


class TuningSettings(Settings):
    """Learning rates tried on dev before the runs that count; every method has the same trials.

    Attributes:
        prompt_learning_rates, low_rank_learning_rates, backbone_learning_rates, head_learning_rates: A method tries all
            pairs of the rates that it has; an empty list stands for the optimizer's rate.
        seeds: Seeds of the trials; the rates with the best mean are taken. One trial is not enough: scores of a few
            hundred sentences differ more between seeds than between neighbouring rates.
        steps: Steps of a trial, its schedule as much shorter; null stands for those of the runs that count.
    """

    prompt_learning_rates: tuple[Rate, ...] = (0.05, 0.1, 0.2)
    low_rank_learning_rates: tuple[Rate, ...] = (1e-3, 2e-3, 4e-3)
    backbone_learning_rates: tuple[Rate, ...] = (1e-4, 3e-4, 1e-3)
    head_learning_rates: tuple[Rate, ...] = ()
    seeds: Seeds = (1000, 1001)
    steps: Positive | None = None


def _head(value: str) -> str:
    modes = ("fresh", "by-label")
    if value not in modes and not re.fullmatch(r"from:.+", value):
        raise ValueError(f'"{value}" is not one of {", ".join(modes)}, from:TASK.{did_you_mean(value, modes)}')
    return value


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
        tuning: Learning rates tried on dev.
        test: Score the test set, once, for every run that counts.
    """

    # Settings are frozen, so a narrower type is safe.
    training: TransferTrainingSettings = TransferTrainingSettings()  # type: ignore[assignment]
    evaluation: TransferEvaluationSettings = TransferEvaluationSettings()  # type: ignore[assignment]
    seeds: Seeds = (0, 1, 2)
    head: Annotated[str, AfterValidator(_head)] = "by-label"
    tuning: TuningSettings = TuningSettings()
    test: bool = True

    @model_validator(mode="after")
    def _warmup_fits_a_trial(self) -> Self:
        steps, warmup = self.tuning.steps, self.optimizer.warmup_steps
        if steps is not None and warmup >= steps:
            told = f"{steps} is not above optimizer.warmup_steps ({warmup}). Let trials train longer or warm up less."
            raise FieldErrors({"tuning.steps": told})
        return self


class TransferSettings(TrialSettings):
    """Stage 2: the pretrained prompt to single tasks, against baselines at equal steps and equal tuning.

    Backbone and prompt shape are those of the pretrained checkpoint; what is trained in the prompt's place is not, and
    starts at the pretrained prompt.

    Attributes:
        baselines: Methods to compare with, from fresh starts; see `mpt.experiments.methods`.
    """

    baselines: tuple[Annotated[str, AfterValidator(baseline)], ...] = ("scratch",)


class CompareRow(Settings):
    """One row of a comparison's tables.

    Attributes:
        method: What is trained; see `mpt.experiments.methods`.
        start: Where its models start: "fresh", or from the "pretrained" state. null is as the method has it, which is
            pretrained for "transfer" alone.
        pretrain: What it starts from, if not from what the comparison names; see there.
        set: Settings of the comparison that differ in this row, by dotted path, as `--set` takes them.
    """

    method: Annotated[str, AfterValidator(method)]
    start: Literal["fresh", "pretrained"] | None = None
    pretrain: Path | None = None
    set: dict[str, JsonValue] = Field(default_factory=dict)

    @property
    def pretrained(self) -> bool:
        """Whether it starts from a pretrained state."""
        return METHODS[self.method].pretrained if self.start is None else self.start == "pretrained"

    @model_validator(mode="after")
    def _start_fits(self) -> Self:
        if self.start == "fresh" and METHODS[self.method].pretrained:
            raise FieldErrors({"start": f"method {self.method} is a pretrained start. Use scratch for a fresh one."})
        if self.pretrain is not None and not self.pretrained:
            raise FieldErrors({"pretrain": "the row starts fresh. Set start: pretrained, or leave pretrain out."})
        return self


class CompareSettings(TrialSettings):
    """Methods against tasks over seeds, tuned on dev with equal numbers of trials.

    Attributes:
        title: Heading of tables and figure.
        manifest: Declares the tasks.
        tasks: Tasks of the manifest; an empty list stands for all.
        shots: Numbers of training examples, null for all; an empty list stands for each task's own.
        backbone, prompt: Of all rows that do not start from a pretrained prompt.
        pretrain: Configuration of a pretraining run, whose state pretrained rows start from; it is run first, into the
            results folder, once for all rows that name it. A run folder is taken as it is.
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


Placed = TypeVar("Placed", CompareSettings, CompareRow)


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
    if fixed := [field for field in row.set if field.split(".")[0] not in ROW_FIELDS]:
        raise ConfigError(
            f"{path}: rows.{name}.set: {', '.join(fixed)} cannot differ between rows. Those that can begin with "
            f"{', '.join(ROW_FIELDS)}"
        )
    try:
        settings = load_model(path, CompareSettings, error=ConfigError, overrides=[*overrides, *own])
    except ConfigError as error:
        raise ConfigError([f"{path}: rows.{name}.set: {problem}" for problem in error.problems]) from error
    rows = {name: _placed(path, it) for name, it in settings.rows.items()}
    return _placed(path, settings).model_copy(update={"manifest": path.parent / settings.manifest, "rows": rows})


def _placed(path: Path, settings: Placed) -> Placed:
    """The same with what it starts from relative to the current folder, instead of the configuration's."""
    start = settings.pretrain
    return settings if start is None else settings.model_copy(update={"pretrain": path.parent / start})
