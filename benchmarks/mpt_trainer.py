"""mpt's own training, as `mpt pretrain` does it with a single task; nothing but the log that keeps time is added."""

from collections.abc import Mapping

import torch
from accelerate import Accelerator
from rich.console import Console

from clock import StepClock, describe_machine, peak_memory_mib
from corpus import read_corpus
from flops import flops_per_piece
from job import ALPHA, LONGEST_WINDOW, RANK, WARM_UP, Answer, Job
from mpt.base.settings import (
    BackboneSettings,
    EvaluationSettings,
    LowRankSettings,
    OptimizerSettings,
    PromptSettings,
    StageSettings,
    TrainingSettings,
)
from mpt.data.encoded import EncodedTask
from mpt.data.order.plan import Plan
from mpt.evaluation.evaluator import evaluate_task
from mpt.experiments.execution import build_plan, encode_tasks, open_backbone
from mpt.model.backbone.backbone import Backbone
from mpt.model.heads import TokenHead
from mpt.model.scorer import Scorer
from mpt.model.state.starts import StatePlan, fresh_state
from mpt.training.loop import Run, train
from mpt.training.runlog import RunLog


class TimedLog(RunLog):
    """A silent log that ticks a clock at the end of every step.

    Args:
        clock: What to tick.
        pieces: Real word pieces of each step.
        accelerator: As for any log.
    """

    def __init__(self, clock: StepClock, pieces: list[int], accelerator: Accelerator) -> None:
        console = Console(quiet=True)
        super().__init__(None, console=console, accelerator=accelerator, steps=len(pieces), step=0, title=None)
        self.clock = clock
        self.pieces = pieces

    def step(self, step: int, metrics: Mapping[str, float]) -> None:
        """Count a training step."""
        super().step(step, metrics)
        self.clock.tick(self.pieces[step - 1], last=step == self.steps)


def train_mpt(job: Job, device: torch.device) -> Answer:
    """Train prompts in all layers, or low-rank updates of all linear layers, and measure it.

    Raises:
        MptError: Of the fitting class; see the modules called.
    """
    accelerator = Accelerator(cpu=device.type == "cpu", mixed_precision="no")
    backbone_settings = BackboneSettings(reference=job.backbone, longest_window=LONGEST_WINDOW)
    backbone = open_backbone(backbone_settings, prompt_length=job.prompt_length, accelerator=accelerator)
    corpus = read_corpus(backbone.word_pieces, pieces=job.pieces)
    [encoded], _ = encode_tasks([corpus.task], backbone)
    rates = {corpus.task.name: 1.0}
    plan = build_plan([encoded], rates, _settings(job, steps=1), tasks_per_step=1, accelerator=accelerator)
    pieces = _pieces_of_steps(plan, encoded, epochs=max(1, round(job.pieces / corpus.pieces)))
    settings = _settings(job, steps=len(pieces))
    clock = StepClock(pieces=sum(pieces), warm_up=WARM_UP, device=device)
    scorer = _new_scorer(job, backbone, encoded, settings)
    run = Run(
        scorer=scorer,
        tasks=[encoded],
        plan=plan,
        settings=settings,
        accelerator=accelerator,
        evaluate=lambda limit: {corpus.task.name: 0.0},  # the last weights count, as with PEFT's trainer
        log=TimedLog(clock, pieces, accelerator),
        folder=None,
        identity={},
    )
    train(run)
    peak = peak_memory_mib(device)
    return Answer(
        trained_pieces=clock.trained_pieces,
        timed_pieces=clock.timed_pieces,
        seconds=clock.seconds,
        peak_memory_mib=peak,
        trained_values=scorer.num_trained,
        flops_per_piece=flops_per_piece(backbone.model) if job.arm == "mpt" else None,
        dev_f1=evaluate_task(scorer, encoded, "dev").primary if job.score_dev else None,
        data=corpus.origin,
        machine=describe_machine(device),
    )


def _settings(job: Job, *, steps: int) -> StageSettings:
    optimizer = OptimizerSettings(prompt_learning_rate=job.learning_rate, low_rank_learning_rate=job.learning_rate)
    return StageSettings(
        optimizer=optimizer.model_copy(update={"warmup_steps": min(optimizer.warmup_steps, steps // 2)}),
        training=TrainingSettings(steps=steps, tokens_per_micro_batch=2048, micro_batches=1, seed=job.seed),
        evaluation=EvaluationSettings(every_steps=steps),
    )


def _pieces_of_steps(plan: Plan, encoded: EncodedTask, *, epochs: int) -> list[int]:
    """Real word pieces of each step of so many epochs."""
    lengths, pieces = encoded.splits["train"].window_pieces, []
    while plan.epoch_of(0, len(pieces)) < epochs:
        pieces.append(sum(int(lengths[batch.units].sum()) for batch in plan.step(len(pieces))))
    return pieces


def _new_scorer(job: Job, backbone: Backbone, encoded: EncodedTask, settings: StageSettings) -> Scorer:
    """A fresh task state and a fresh head."""
    plan = StatePlan(
        parts=("prompt",) if job.arm == "mpt" else ("low_rank",),
        prompt=PromptSettings(length=job.prompt_length),
        low_rank=LowRankSettings(rank=RANK, alpha=ALPHA),
    )
    state, task = fresh_state(plan, backbone, [encoded.splits["train"]], seed=job.seed), encoded.task
    head = TokenHead(
        backbone.hidden_size, task.labels, seed=job.seed, task=task.name, dropout=settings.training.head_dropout
    )
    return Scorer(backbone, state, {task.name: head})
