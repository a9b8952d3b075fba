"""The main job on synthetic data, in a few minutes on a laptop: pretrain on a mixture, transfer, compare.

python examples/quickstart.py [--out DIR]
"""

from itertools import count
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from mpt.base.errors import ConfigError
from mpt.base.settings import EvaluationSettings, OptimizerSettings, PromptSettings, TrainingSettings
from mpt.cli import main, terminal
from mpt.experiments.pretrain import pretrain
from mpt.experiments.settings import (
    PretrainSettings,
    TransferEvaluationSettings,
    TransferSettings,
    TransferTrainingSettings,
    TuningSettings,
)
from mpt.experiments.tables import Result
from mpt.experiments.transfer import transfer
from synthetic import write_synthetic

# Small enough for five minutes on two cores; sentences of a dozen words need no more tokens in a step.
SHOTS = 40
SEEDS = (0, 1, 2)
TOKENS = 256


def quickstart(folder: Path, *, console: Console) -> list[Result]:
    """Write synthetic tasks, pretrain on three, transfer to the fourth and print the comparison.

    Args:
        folder: Made; holds `data/`, `pretrain/` and `transfer/` afterwards.
        console: Where people read.

    Raises:
        ConfigError: The folder exists.
    """
    if folder.exists():
        raise ConfigError(f"{folder}: exists already. Remove it, or give another --out")
    data = write_synthetic(folder / "data")
    console.rule("1. pretrain one shared prompt on three synthetic tasks")
    optimizer = {"prompt_learning_rate": 0.05, "head_learning_rate": 0.01, "warmup_steps": 10}
    pretrain_settings = PretrainSettings(
        manifest=data / "mixture.yaml",
        prompt=PromptSettings(length=16),
        optimizer=OptimizerSettings(**optimizer),
        training=TrainingSettings(steps=200, tokens_per_micro_batch=TOKENS),
        evaluation=EvaluationSettings(every_steps=100),
    )
    pretrain(pretrain_settings, folder / "pretrain", resume="never", console=console)
    console.rule(f"2. transfer it to a fourth task with {SHOTS} labelled sentences, and train one from scratch")
    transfer_settings = TransferSettings(
        optimizer=OptimizerSettings(**optimizer),
        training=TransferTrainingSettings(steps=80, tokens_per_micro_batch=TOKENS),
        evaluation=TransferEvaluationSettings(every_steps=20),
        seeds=SEEDS,
        tuning=TuningSettings(prompt_learning_rates=()),
    )
    return transfer(
        transfer_settings,
        folder / "pretrain",
        data / "target.yaml",
        folder / "transfer",
        tasks=(),
        shots=(SHOTS,),
        resume="never",
        backbone=None,
        console=console,
    )


def program(
    out: Annotated[
        Path | None, typer.Option(help="Folder for the data and the runs; runs/quickstart-N if not given.")
    ] = None,
) -> None:
    """Pretrain on three small synthetic tasks, transfer to a fourth, and compare with training from scratch."""
    quickstart(out or unused("runs/quickstart"), console=terminal())


def unused(name: str) -> Path:
    """The first of name, name-2, name-3, ... that does not exist."""
    return next(path for n in count(1) if not (path := Path(name if n == 1 else f"{name}-{n}")).exists())


if __name__ == "__main__":
    main(lambda: typer.run(program))
