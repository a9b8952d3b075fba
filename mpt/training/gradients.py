"""Gradients of micro-batches, gathered from all ranks and summed in micro-batch order.

Floating-point sums depend on their order. What is trained here is small, so every rank can afford to see the gradient
of every micro-batch and to add them up in the same fixed order; the trained bits then do not depend on how many ranks
shared the work.

A micro-batch's gradient travels as one vector: prompts, then the head of its task padded to the largest head, then its
loss. Heads of other tasks are not in it, so their number costs nothing.
"""

from collections.abc import Sequence

import torch
from accelerate import Accelerator
from jaxtyping import Float
from torch import Tensor, nn

from mpt.model.tagger import Tagger


class GradientVectors:
    """Gradients of a step's micro-batches as vectors of one width.

    Args:
        tagger: The model.
        tasks: Names of the tasks of this step's micro-batches, over all ranks.
    """

    def __init__(self, tagger: Tagger, tasks: Sequence[str]) -> None:
        self.tagger = tagger
        self.tasks = list(tasks)
        self.prompts: list[nn.Parameter] = [] if tagger.bank is None else list(tagger.bank.parameters())
        self.head_size = max(sum(p.numel() for p in tagger.head(task).parameters()) for task in tasks)

    def vector(self, task: str, loss: Float[Tensor, ""]) -> Float[Tensor, " width"]:
        """Gradient of one micro-batch's loss, and the loss; nothing is accumulated, so threads may call it at once."""
        head = list(self.tagger.head(task).parameters())
        parameters = [*self.prompts, *head]
        # A layer that no row of the micro-batch prompts has no gradient: zeros.
        gradients = torch.autograd.grad(loss, parameters, allow_unused=True, materialize_grads=True)
        padding = self.head_size - sum(parameter.numel() for parameter in head)
        parts = [gradient.flatten() for gradient in gradients]
        return torch.cat([*parts, loss.new_zeros(padding), loss.detach().reshape(1)])

    def gather(
        self, vectors: Sequence[Float[Tensor, " width"]], accelerator: Accelerator
    ) -> Float[Tensor, "micro_batches width"]:
        """The vectors of all ranks in micro-batch order; rank r of W computed the micro-batches r, r + W, ..."""
        own = torch.stack(list(vectors))
        if accelerator.num_processes == 1:
            return own
        gathered = accelerator.gather(own[None])
        assert isinstance(gathered, Tensor)
        return gathered.transpose(0, 1).reshape(-1, own.shape[1])

    def assign(self, vectors: Float[Tensor, "micro_batches width"]) -> None:
        """Sum the vectors in order into `.grad` of prompts and of the heads that took part."""
        for task, vector in zip(self.tasks, vectors, strict=True):
            offset = 0
            for parameter in [*self.prompts, *self.tagger.head(task).parameters()]:
                gradient = vector[offset : offset + parameter.numel()].view_as(parameter)
                parameter.grad = gradient.clone() if parameter.grad is None else parameter.grad.add_(gradient)
                offset += parameter.numel()
