"""One measurement of prediction: what a process is asked to do and what it answers; see `job` for the reasons."""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

from job import MPT_ENVIRONMENT, run_script
from mpt.data.example import Sentence

PIPELINE_ARMS = {
    "pipeline_fp32": ("float32", 1),
    "pipeline_bf16": ("bfloat16", 1),
    "pipeline_bf16_8": ("bfloat16", 8),
    "pipeline_bf16_8_sorted": ("bfloat16", 8),
    "pipeline_bf16_32_sorted": ("bfloat16", 32),
}
"""Type of the weights and sentences of a batch."""

ARMS = (*PIPELINE_ARMS, "mpt")

Tag = Callable[[Sequence[Sentence]], object]
"""Tags sentences; what it returns is not looked at."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PredictJob:
    """What a process is asked to do.

    Attributes:
        arm: One of `ARMS`.
        backbone: Reference of the backbone, see `mpt.model.backbone.backbone.load_backbone`.
        sentences: How many to tag.
        prompt_length: Virtual tokens of mpt's prompt.
    """

    arm: str
    backbone: str
    sentences: int
    prompt_length: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PredictAnswer:
    """What a predicting process answers.

    Attributes:
        words: Words that were tagged.
        seconds: From words, or text, to tags of all of them.
        cpu_seconds: Processor time of all threads meanwhile. With one thread it is steady on a busy machine too; with
            several it counts threads that wait for others.
        peak_memory_mib: Most memory that the process held.
        data: What was tagged.
        machine: Device and threads.
    """

    words: int
    seconds: float
    cpu_seconds: float
    peak_memory_mib: int
    data: str
    machine: str

    @property
    def words_per_second(self) -> float:
        """Words tagged in a second."""
        return self.words / self.seconds

    @property
    def words_per_cpu_second(self) -> float:
        """Words tagged in a second of processor time."""
        return self.words / self.cpu_seconds


def measure(job: PredictJob) -> PredictAnswer:
    """Run one job in a process of its own.

    Raises:
        MptError: What the process found wrong with its input.
    """
    environment = MPT_ENVIRONMENT if job.arm == "mpt" else None
    return PredictAnswer(**run_script("predict_arm.py", json.dumps(asdict(job)), environment=environment))
