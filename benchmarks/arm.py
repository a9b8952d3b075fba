"""Train one arm once: the process that `job.measure` starts. The job comes as JSON, the answer leaves as JSON."""

import json
import sys
from dataclasses import asdict

from transformers.utils import logging

from flops import device_named
from job import PEFT_ARMS, Answer, Job, answer


def train_arm(job: Job) -> Answer:
    """Run a job; each trainer is imported by the arms that need it, so that the others do not hold it in memory.

    Raises:
        MptError: Of the fitting class; see the modules called.
    """
    device = device_named(job.device)
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    if job.arm in PEFT_ARMS:
        from peft_trainer import train_peft

        return train_peft(job, device)
    from mpt_trainer import train_mpt

    return train_mpt(job, device)


if __name__ == "__main__":
    answer(lambda: asdict(train_arm(Job(**json.loads(sys.argv[1])))))
