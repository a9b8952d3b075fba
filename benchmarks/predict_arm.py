"""Tag the sentences of one arm once: the process that `predict_job.measure` starts. JSON comes and leaves."""

import json
import sys
import time
from collections.abc import Callable
from dataclasses import asdict

import torch
from transformers.utils import logging

from clock import describe_machine, peak_memory_mib
from corpus import read_task
from job import answer
from mpt.data.example import sentences_of
from mpt.data.tasks import Task
from predict_job import PIPELINE_ARMS, PredictAnswer, PredictJob, Tag

WARM_UP = 100
"""Sentences that are tagged once before the clock starts."""


def predict_arm(job: PredictJob) -> PredictAnswer:
    """Run a job.

    Raises:
        MptError: Of the fitting class; see the modules called.
    """
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    task, origin = read_task(sentences=job.sentences)
    sentences, device = sentences_of(task.splits["test"]), torch.device("cpu")
    tag = _tagger_of(job.arm)(job, task)
    tag(sentences[:WARM_UP])
    began, cpu_began = time.perf_counter(), time.process_time()
    tag(sentences)
    return PredictAnswer(
        seconds=time.perf_counter() - began,
        cpu_seconds=time.process_time() - cpu_began,
        words=sum(len(sentence.words) for sentence in sentences),
        peak_memory_mib=peak_memory_mib(device),
        data=origin,
        machine=describe_machine(device),
    )


def _tagger_of(arm: str) -> Callable[[PredictJob, Task], Tag]:
    """Imported by the arms that need it, so that the others do not hold it in memory."""
    if arm in PIPELINE_ARMS:
        from pipeline_tagger import pipeline_tagger

        return pipeline_tagger
    from mpt_tagger import mpt_tagger

    return mpt_tagger


if __name__ == "__main__":
    answer(lambda: asdict(predict_arm(PredictJob(**json.loads(sys.argv[1])))))
