"""Gradients of micro-batches, gathered from all ranks and summed in micro-batch order.

Floating-point sums depend on their order. What is trained here is small, so every rank can afford to see the gradient
of every micro-batch and to add them up in the same fixed order; the trained bits then do not depend on how many ranks
shared the work.

A micro-batch's gradient travels as one vector: what all tasks share (the task state, flat), then the head of its task
padded to the largest head, then its loss. Heads of other tasks are not in it, so their number costs nothing; nor does a
network behind a part, since every rank passes the sum for the flat part on to its own.

Where that is too much to send, every rank sends one sum and the ranks' sums are added in an order of the network's: an
all-reduce, as other trainers have it, with last bits that depend on the number of ranks.
"""

from collections.abc import Iterable, Sequence

import torch
from accelerate import Accelerator
from jaxtyping import Float
from torch import Tensor

from mpt.model.scorer import Scorer
from mpt.training.ranks import contact, gather


class GradientVectors:
    """Gradients of a step's micro-batches as vectors of one width.

    Args:
        scorer: The model.
        tasks: Names of the tasks of this step's micro-batches, over all ranks.
    """

    def __init__(self, scorer: Scorer, tasks: Sequence[str]) -> None:
        self.tasks = list(tasks)
        self.shared = list(scorer.state.values().values())
        self.leaves = scorer.state.leaves()
        self.heads = {task: list(scorer.head(task).parameters()) for task in tasks}
        self.head_size = max(sum(p.numel() for p in head) for head in self.heads.values())

    def vector(self, task: str, loss: Float[Tensor, ""]) -> Float[Tensor, " width"]:
        """Gradient of one micro-batch's loss, and the loss; nothing is accumulated, so threads may call it at once."""
        head = self.heads[task]
        # A layer that no row of the micro-batch prompts has no gradient: zeros.
        gradients = torch.autograd.grad(loss, [*self.leaves, *head], allow_unused=True, materialize_grads=True)
        padding = self.head_size - sum(parameter.numel() for parameter in head)
        parts = [gradient.flatten().float() for gradient in gradients]
        return torch.cat([*parts, loss.new_zeros(padding), loss.detach().reshape(1)])

    def add_up(
        self, vectors: Iterable[Float[Tensor, " width"]], accelerator: Accelerator, *, ordered: bool
    ) -> Float[Tensor, " micro_batches"]:
        """Put the sum over all ranks into `.grad` of what is shared and of the heads that took part.

        Args:
            vectors: Of this rank's micro-batches; one process adds each as it comes.
            accelerator: Knows the ranks.
            ordered: In micro-batch order, whatever the ranks; else by an all-reduce.

        Returns:
            The loss of every micro-batch, in order; NaN where it or a gradient is not finite.
        """
        if not ordered and accelerator.num_processes > 1:
            return self._reduce(list(vectors), accelerator)
        alone = accelerator.num_processes == 1
        return self.assign(vectors if alone else self.gather(list(vectors), accelerator), self.tasks)

    def gather(
        self, vectors: Sequence[Float[Tensor, " width"]], accelerator: Accelerator
    ) -> Float[Tensor, "micro_batches width"]:
        """The vectors of all ranks in micro-batch order; rank r of W computed the micro-batches r, r + W, ..."""
        own = torch.stack(list(vectors))
        if accelerator.num_processes == 1:
            return own
        return gather(accelerator, own[None]).transpose(0, 1).reshape(-1, own.shape[1])

    def assign(
        self, vectors: Iterable[Float[Tensor, " width"]], tasks: Sequence[str]
    ) -> Float[Tensor, " micro_batches"]:
        """Sum the vectors of micro-batches of these tasks, in order, into `.grad`; returns their losses."""
        losses = []
        for task, vector in zip(tasks, vectors, strict=True):
            offset = 0
            for parameter in [*self.shared, *self.heads[task]]:
                gradient = vector[offset : offset + parameter.numel()].view_as(parameter)
                parameter.grad = gradient.clone() if parameter.grad is None else parameter.grad.add_(gradient)
                offset += parameter.numel()
            losses.append(_loss(vector))
        return torch.stack(losses)

    def _reduce(
        self, vectors: Sequence[Float[Tensor, " width"]], accelerator: Accelerator
    ) -> Float[Tensor, " micro_batches"]:
        """Sum this rank's vectors, then the ranks' sums: every trained value once, and a place for each loss."""
        own = slice(accelerator.process_index, None, accelerator.num_processes)
        losses = vectors[0].new_zeros(len(self.tasks))
        losses[own] = self.assign(vectors, self.tasks[own])
        parameters = [*self.shared, *(parameter for head in self.heads.values() for parameter in head)]
        parts = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
        with contact():
            total = accelerator.reduce(torch.cat([part.flatten() for part in [*parts, losses]]), "sum")
        assert isinstance(total, Tensor)
        *sums, losses = total.split([p.numel() for p in [*parameters, losses]])
        for parameter, gradient in zip(parameters, sums, strict=True):
            parameter.grad = gradient.view_as(parameter)
        return losses


def _loss(vector: Float[Tensor, " width"]) -> Float[Tensor, ""]:
    """The loss at a vector's end; NaN for a vector that is not finite."""
    # By its extremes, which are NaN where any value is: many times faster than a truth value for each.
    finite = torch.isfinite(torch.stack(torch.aminmax(vector))).all()
    return torch.where(finite, vector[-1], torch.nan)
