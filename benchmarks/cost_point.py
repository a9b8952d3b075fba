"""Time and memory of a training step at one point of a cost curve: the process that `cost_curves` starts."""

import json
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

from accelerate import Accelerator

from clock import describe_machine, peak_memory_mib
from corpus import PLACES, words_of_one_piece
from flops import device_named
from job import answer
from mpt.data.encoded import EncodedTask
from mpt.data.example import Sentence
from mpt.data.manifest.format_specs import task_spec
from mpt.data.order.plan import Plan
from mpt.data.tasks import Task
from mpt.experiments.execution import build_plan, encode_tasks, open_backbone
from mpt.experiments.settings import PretrainSettings
from mpt.model.heads import TokenHead
from mpt.model.scorer import Scorer
from mpt.model.state.starts import StatePlan, fresh_state
from mpt.training.engines import Engine
from mpt.training.launch import build_workers
from mpt.training.optimizer import WholeOptimizer, build_optimizer
from mpt.training.step import train_step

LABELS = ("O", "B-X", "I-X", "B-Y", "I-Y", "B-Z", "I-Z")
WARM_UP_STEPS = 3
EPOCH_STEPS = 4  # steps that a task alone could fill without a repetition


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """Where on a curve.

    Attributes:
        backbone: Reference of the backbone.
        device: "cpu" or "cuda".
        tasks: Tasks of the mixture; all are drawn equally often.
        sentence_pieces: Word pieces of every sentence, specials included.
        prompt_length: Virtual tokens.
        steps: Steps that are timed.
    """

    backbone: str
    device: str
    tasks: int = 1
    sentence_pieces: int = 32
    prompt_length: int = 16
    steps: int = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """What a step costs there.

    Attributes:
        seconds: Of a step, order and batches included: the median.
        plan_milliseconds: Of finding a step's windows: the median.
        pieces: Real word pieces of a step: the median.
        peak_memory_mib: As `clock.peak_memory_mib` has it.
        machine: Device and threads.
    """

    seconds: float
    plan_milliseconds: float
    pieces: float
    peak_memory_mib: int
    machine: str


def measure_point(point: Point) -> Cost:
    """Train some steps with mpt's defaults on sentences of one length.

    Raises:
        MptError: Of the fitting class; see the modules called.
    """
    device = device_named(point.device)
    accelerator = Accelerator(cpu=device.type == "cpu", mixed_precision="no")
    values = {
        "manifest": Path("synthetic"),
        "backbone": {"reference": point.backbone},
        "prompt": {"length": point.prompt_length},
    }
    settings = PretrainSettings.model_validate(values)
    backbone = open_backbone(settings.backbone, prompt_length=point.prompt_length, accelerator=accelerator)
    tokens = settings.training.tokens_per_micro_batch * settings.training.micro_batches
    count = max(1, EPOCH_STEPS * tokens // point.sentence_pieces)
    tasks, _ = encode_tasks([synthetic_task(i, count, point.sentence_pieces) for i in range(point.tasks)], backbone)
    texts = [encoded.splits["train"] for encoded in tasks]
    what = StatePlan(parts=("prompt",), prompt=settings.prompt, low_rank=settings.low_rank)
    state = fresh_state(what, backbone, texts, seed=0)
    heads = {
        one.task.name: TokenHead(backbone.hidden_size, LABELS, seed=0, task=one.task.name, dropout=0.3) for one in tasks
    }
    scorer = Scorer(backbone, state, heads)
    rates = {one.task.name: 1 / point.tasks for one in tasks}
    draws = min(point.tasks, settings.training.micro_batches)
    plan = build_plan(tasks, rates, settings, tasks_per_step=draws, accelerator=accelerator)
    return _time_steps(point, settings, scorer, tasks, plan, accelerator)


def _time_steps(
    point: Point,
    settings: PretrainSettings,
    scorer: Scorer,
    tasks: list[EncodedTask],
    plan: Plan,
    accelerator: Accelerator,
) -> Cost:
    optimizer = WholeOptimizer(scorer, build_optimizer(scorer, rates=settings.optimizer.rates, weight_decay=0.0))
    optimizer.set_learning_rates(1.0)
    workers = build_workers(settings, accelerator, Engine())
    seconds, planning, pieces = [], [], []
    for step in range(WARM_UP_STEPS + point.steps):
        began = time.perf_counter()
        micro_batches = plan.step(step)
        planned = time.perf_counter()
        result = train_step(
            step,
            micro_batches,
            scorer=scorer,
            tasks=tasks,
            optimizer=optimizer,
            accelerator=accelerator,
            workers=workers,
            clip_norm=1.0,
            seed=0,
        )
        seconds.append(time.perf_counter() - began)
        planning.append(planned - began)
        pieces.append(result.num_pieces)
    workers.close()
    return Cost(
        seconds=median(seconds[WARM_UP_STEPS:]),
        plan_milliseconds=1000 * median(planning[WARM_UP_STEPS:]),
        pieces=median(pieces[WARM_UP_STEPS:]),
        peak_memory_mib=peak_memory_mib(accelerator.device),
        machine=describe_machine(accelerator.device),
    )


def synthetic_task(number: int, sentences: int, pieces: int) -> Task:
    """A task of sentences that all have `pieces` word pieces, specials included."""
    declared = {
        "family": "ner",
        "files": {"train": "-", "dev": "-"},
        "columns": {"word": 0, "tag": 1},
        "scheme": "iob2",
    }
    spec = task_spec(declared)
    words = words_of_one_piece(f"task {number}", sentences * (pieces - 2)).reshape(sentences, -1)
    train = tuple(
        Sentence(
            words=tuple(row),
            tags=tuple(LABELS[1 + 2 * (number % 3)] if word in PLACES.split() else "O" for word in row),
            path=f"synthetic task {number}",
            lines=(line,) * len(row),
        )
        for line, row in enumerate(words.tolist(), start=1)
    )
    return Task(
        name=f"task{number}",
        labels=LABELS,
        splits={"train": train},
        digests={},
        spec=spec,
    )


if __name__ == "__main__":
    answer(lambda: asdict(measure_point(Point(**json.loads(sys.argv[1])))))
