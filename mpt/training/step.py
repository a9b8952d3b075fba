"""One optimizer step."""

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from math import isnan

from accelerate import Accelerator
from torch import Tensor

from mpt.base.errors import DivergedError
from mpt.base.seeding import torch_generator
from mpt.data.encoded import EncodedTask
from mpt.data.order.batch import Batch, collate
from mpt.data.order.plan import MicroBatch
from mpt.model.backbone.backbone import Backbone
from mpt.model.losses import summed_loss
from mpt.model.scorer import Scorer
from mpt.training.gradients import GradientVectors
from mpt.training.optimizer import Optimizer, clip_gradients
from mpt.training.ranks import together
from mpt.training.workers import Workers

PLACES_SHOWN = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class StepResult:
    """What a step did, over all ranks.

    Attributes:
        loss: Mean over the step's draws of the task's mean loss per labelled word, in nats.
        task_loss: The same for each task of the step, without loss weights.
        gradient_norm: Total norm before clipping.
        num_pieces: Real word pieces, padding not counted.
    """

    loss: float
    task_loss: Mapping[str, float]
    gradient_norm: float
    num_pieces: int


def train_step(
    step: int,
    micro_batches: Sequence[MicroBatch],
    *,
    scorer: Scorer,
    tasks: Sequence[EncodedTask],
    optimizer: Optimizer,
    accelerator: Accelerator,
    workers: Workers,
    clip_norm: float,
    seed: int,
    ordered: bool = True,
) -> StepResult:
    """Run the micro-batches of one step, sum their gradients and move the weights once.

    Each rank computes every W-th micro-batch. Dropout draws from a stream of the micro-batch, not of the rank. Nothing
    moves when anything is not finite.

    Args:
        step: Steps done before this one; names the random streams.
        micro_batches: From `Plan.step`.
        scorer: The model.
        tasks: Tasks by index, as in the plan.
        optimizer: Its learning rates are set.
        accelerator: Knows the ranks.
        workers: Threads that share this rank's micro-batches.
        clip_norm: Total gradient norm to clip to; 0 does not clip.
        seed: Seed of the run.
        ordered: Sum in micro-batch order on any number of ranks; see `mpt.training.gradients`.

    Raises:
        DivergedError: A loss or gradient is not finite; names the task, the step and the sentences. The weights are
            those of the step before.
        PeerError: Another rank could not compute its share.
    """
    names = [tasks[micro_batch.task].task.name for micro_batch in micro_batches]
    gradients = GradientVectors(scorer, names)

    def compute(number: int) -> Tensor:
        micro_batch = micro_batches[number]
        batch = _batch(micro_batch, tasks, scorer.backbone).to(scorer.backbone.device)
        (scores,) = scorer(batch, torch_generator(seed, "dropout", step, number))
        loss = summed_loss(scores, batch) * micro_batch.weight
        return gradients.vector(names[number], loss)

    own = range(accelerator.process_index, len(micro_batches), accelerator.num_processes)
    scorer.zero_grad(set_to_none=True)
    if accelerator.num_processes == 1:
        losses = gradients.add_up(workers.each(compute, own), accelerator, ordered=ordered).tolist()
    else:
        with nullcontext() if scorer.backbone.sharded else together(accelerator):
            vectors = workers.map(compute, own)
        losses = gradients.add_up(vectors, accelerator, ordered=ordered).tolist()
    _require_finite(step, losses, micro_batches, tasks, scorer)
    norm = _move(scorer, optimizer, workers, clip_norm)
    return StepResult(
        loss=sum(losses),
        task_loss=_task_losses(losses, micro_batches, tasks),
        gradient_norm=norm,
        num_pieces=sum(_num_pieces(micro_batch, tasks) for micro_batch in micro_batches),
    )


def _move(scorer: Scorer, optimizer: Optimizer, workers: Workers, clip_norm: float) -> float:
    """Move the weights by their gradients, those of a network behind a part by the part's; the norm before.

    Networks are computed in a thread like those of micro-batches, so that their bits depend on no number of threads.
    """
    workers.map(lambda state: state.pass_gradient(), [scorer.state])
    norm = clip_gradients(scorer.parameters(), clip_norm)
    optimizer.step()
    workers.map(lambda state: state.settle(), [scorer.state])
    return float(norm)


def _batch(micro_batch: MicroBatch, tasks: Sequence[EncodedTask], backbone: Backbone) -> Batch:
    task = tasks[micro_batch.task]
    split, units = task.part("train", micro_batch.units)
    return collate(split, split.windows_in(units), pad=backbone.word_pieces.pad, tasks=(task.task.name,))


def _num_pieces(micro_batch: MicroBatch, tasks: Sequence[EncodedTask]) -> int:
    """Real word pieces, padding not counted."""
    split, units = tasks[micro_batch.task].part("train", micro_batch.units)
    return int(split.pieces_of(split.windows_in(units)).sum())


def _task_losses(
    losses: Sequence[float], micro_batches: Sequence[MicroBatch], tasks: Sequence[EncodedTask]
) -> dict[str, float]:
    """Mean loss per word of each task: the summed loss is what remains when a micro-batch's weight is taken off."""
    sums: dict[str, float] = {}
    words: dict[str, int] = {}
    for loss, micro_batch in zip(losses, micro_batches, strict=True):
        encoded = tasks[micro_batch.task]
        name = encoded.task.name
        sums[name] = sums.get(name, 0.0) + loss / micro_batch.weight
        split, units = encoded.part("train", micro_batch.units)
        words[name] = words.get(name, 0) + split.terms_of(units)
    return {name: sums[name] / words[name] for name in sums}


def _require_finite(
    step: int,
    losses: Sequence[float],
    micro_batches: Sequence[MicroBatch],
    tasks: Sequence[EncodedTask],
    scorer: Scorer,
) -> None:
    """Refuse to go on when a micro-batch's loss is NaN, which stands for anything that is not finite in it."""
    for loss, micro_batch in zip(losses, micro_batches, strict=True):
        if isnan(loss):
            rates = dict.fromkeys(group.rate for group in scorer.state.groups()) or ("head",)
            raise DivergedError(_not_finite(step, micro_batch, tasks[micro_batch.task], list(rates)))


def _not_finite(step: int, micro_batch: MicroBatch, encoded: EncodedTask, rates: Sequence[str]) -> str:
    lower = " and ".join(f"optimizer.{rate}_learning_rate" for rate in rates)
    places = encoded.places("train", micro_batch.units[:PLACES_SHOWN].tolist())
    return (
        f'step {step + 1}, task "{encoded.task.name}": the loss or a gradient is not finite, so the run stops before '
        f"it reaches the weights. Sentences of the micro-batch: {', '.join(places)}"
        f"{', ...' if len(micro_batch.units) > PLACES_SHOWN else ''}. "
        f"Lower {lower} or raise optimizer.warmup_steps, and start a new run"
    )
