"""One measurement: what a process is asked to do, what it answers, and how it is started.

Every measurement has a process of its own, so that its peak memory is its own. A process that is started inherits the
peak of the one that starts it, hence nothing here imports torch.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mpt.base.errors import MptError

PEFT_ARMS = ("peft_fp32", "peft_bf16", "peft_bf16_grouped", "peft_lora_fp32", "peft_lora_bf16_grouped")
MPT_ARMS = ("mpt", "mpt_low_rank")
ARMS = (*PEFT_ARMS, *MPT_ARMS)
LOW_RANK_ARMS = tuple(arm for arm in ARMS if "lora" in arm or "low_rank" in arm)

RANK, ALPHA = 8, 16
"""Of the low-rank updates of all linear layers."""

LONGEST_WINDOW = 256
"""Word pieces of a window, specials included: leaves room for a prompt; the corpora have none longer."""

WARM_UP = 4096
"""Word pieces whose steps are not timed, a quarter of all at most."""

FOLDER = Path(__file__).parent

MPT_ENVIRONMENT = {"ONEDNN_PRIMITIVE_CACHE_CAPACITY": os.environ.get("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "64")}
"""What mpt's own commands set; other arms run as their users run them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What a process is asked to do.

    Attributes:
        arm: One of `ARMS`.
        backbone: Reference of the backbone, see `mpt.model.backbone.backbone.load_backbone`.
        pieces: Word pieces to train on, rounded to whole epochs of the training slice.
        prompt_length: Virtual tokens.
        device: "cpu" or "cuda".
        seed: Order of the sentences and initial weights.
        learning_rate: Of the prompt or the updates; PEFT's trainer has the same for the head, mpt its own.
        score_dev: Whether to score the dev slice after training.
    """

    arm: str
    backbone: str
    pieces: int
    prompt_length: int
    device: str
    seed: int
    learning_rate: float
    score_dev: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a training process answers.

    Attributes:
        trained_pieces: Real word pieces trained on, `[CLS]` and `[SEP]` counted, padding not.
        timed_pieces: Those of the steps after the warm-up.
        seconds: Time of these steps, from the end of one to the end of the next.
        peak_memory_mib: Most memory held: by the process, or on the device when that is a GPU.
        trained_values: Numbers that the optimizer moves.
        flops_per_piece: Useful floating-point operations of a word piece; None where they are not counted.
        dev_f1: Span F1 of the dev slice in [0, 1]; None when not asked for.
        data: What was trained on.
        machine: Device and threads.
    """

    trained_pieces: int
    timed_pieces: int
    seconds: float
    peak_memory_mib: int
    trained_values: int
    flops_per_piece: int | None
    dev_f1: float | None
    data: str
    machine: str

    @property
    def pieces_per_second(self) -> float:
        """Real word pieces per second of training."""
        return self.timed_pieces / self.seconds


def measure(job: Job) -> Answer:
    """Run one job in a process of its own.

    Raises:
        MptError: What the process found wrong with its input.
    """
    environment = MPT_ENVIRONMENT if job.arm in MPT_ARMS else None
    return Answer(**run_script("arm.py", json.dumps(asdict(job)), environment=environment))


def answer(work: Callable[[], Any]) -> None:
    """Print what this process was started for, as one line of JSON; `run_script` reads it."""
    try:
        print(json.dumps(work()))
    except MptError as problem:
        print(f"error: {problem}", file=sys.stderr)
        sys.exit(2)


def run_script(name: str, *arguments: str, environment: dict[str, str] | None = None) -> Any:
    """Run a script of this folder and read the JSON in its last line.

    Raises:
        MptError: The script ended with status 2, as it does for errors of its input.
    """
    done = subprocess.run(
        [sys.executable, str(FOLDER / name), *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, **(environment or {})},
    )
    if done.returncode == 2 and "error: " in done.stderr:
        raise MptError(done.stderr.rpartition("error: ")[2].strip())
    if done.returncode:
        sys.stderr.write(done.stderr)
        raise subprocess.CalledProcessError(done.returncode, done.args)
    return json.loads(done.stdout.splitlines()[-1])
