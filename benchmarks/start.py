"""Come up to the first step of a run once: the process that `startup.py` starts. The answer is one line of JSON."""

import resource
import sys
import time
from pathlib import Path

from accelerate import Accelerator

from job import answer
from mpt.base.settings import BackboneSettings
from mpt.data.manifest.reading import load_manifest
from mpt.data.order.batch import collate
from mpt.experiments.execution import build_plan, open_backbone, open_tasks
from mpt.experiments.settings import PretrainSettings


def start(path: Path, reference: str) -> dict[str, float]:
    """Read a mixture, plan its order and put together the batches of the first step.

    Args:
        path: The manifest.
        reference: The backbone.

    Raises:
        MptError: Of the fitting class; see the modules called.
    """
    settings = PretrainSettings(manifest=path, backbone=BackboneSettings(reference=reference))
    accelerator = Accelerator(cpu=True)
    backbone = open_backbone(settings.backbone, prompt_length=settings.prompt.length, accelerator=accelerator)
    before, began = _anonymous_bytes(), time.perf_counter()
    tasks, _ = open_tasks(load_manifest(path), None, backbone, settings.backbone, accelerator)
    opened = time.perf_counter()
    rates = {one.task.name: 1 / len(tasks) for one in tasks}
    plan = build_plan(tasks, rates, settings, tasks_per_step=1, accelerator=accelerator)
    for micro_batch in plan.step(0):
        collate(tasks[micro_batch.task].splits["train"], micro_batch.units, pad=backbone.word_pieces.pad)
    planned = time.perf_counter()
    sentences = sum(len(split.places) for one in tasks for split in one.splits.values())
    return {
        "sentences": sentences,
        "words": sum(len(split.positions) for one in tasks for split in one.splits.values()),
        "text_seconds": opened - began,
        "plan_seconds": planned - opened,
        "peak_memory_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "held_bytes_per_sentence": (_anonymous_bytes() - before) / sentences,
    }


def _anonymous_bytes() -> int:
    """Memory of this process that is no file's: what it holds beside what is mapped."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon"))


if __name__ == "__main__":
    answer(lambda: start(Path(sys.argv[1]), sys.argv[2]))
