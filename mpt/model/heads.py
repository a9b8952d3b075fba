"""Per-task heads, in float32: a linear layer from hidden states to label scores, or the language model's own head."""

from collections.abc import Callable, Sequence
from typing import TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from mpt.base.seeding import torch_generator
from mpt.model.backbone.dropout import dropped


class TokenHead(nn.Module):
    """Scores every label of one task for every word.

    Args:
        hidden_size: Size of the backbone's hidden states.
        labels: The task's labels, in score order.
        seed: Names the initial weights together with `task`.
        task: Name of the task.
        dropout: Chance that a value of a hidden state is zeroed in training.
    """

    def __init__(
        self, hidden_size: int, labels: tuple[str, ...], *, seed: int, task: str, dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.labels = labels
        self.dropout = dropout
        generator = torch_generator(seed, "head", task)
        # 0.02: the initialiser range of BERT and its descendants.
        self.weight = nn.Parameter(torch.randn((len(labels), hidden_size), generator=generator) * 0.02)
        self.bias = nn.Parameter(torch.zeros(len(labels)))

    def forward(
        self, hidden_MH: Float[Tensor, "M H"], generator: torch.Generator | None = None
    ) -> Float[Tensor, "M C"]:
        """Unnormalised log-scores; `generator` is the stream of dropout, None outside training."""
        return functional.linear(dropped(hidden_MH, self.dropout, generator), self.weight, self.bias)

    @torch.no_grad()
    def copy_label(self, label: str, sources: Sequence[tuple["TokenHead", str]]) -> None:
        """Start one label's row from the mean of other heads' rows, given with their names for it."""
        rows = [(head, head.labels.index(theirs)) for head, theirs in sources]
        ours = self.labels.index(label)
        self.weight[ours] = torch.stack([head.weight[row].to(self.weight.device) for head, row in rows]).mean(0)
        self.bias[ours] = torch.stack([head.bias[row].to(self.bias.device) for head, row in rows]).mean(0)


class VerbalizerHead(nn.Module):
    """Scores a word for every label, as the language model that the backbone was trained as does.

    Nothing of it is trained or saved: it comes out of the backbone's files. There is no dropout before it, which would
    only blur what it was trained on.

    Args:
        labels: The task's labels, in score order.
        transform: What the model does to a hidden state before it compares it with words; no part of this module.
        weight_CE: Output embedding of each label's word.
        bias_C: Bias of each label's word.
    """

    weight: Tensor
    bias: Tensor

    def __init__(
        self,
        labels: tuple[str, ...],
        transform: Callable[[Tensor], Tensor],
        weight_CE: Float[Tensor, "C E"],
        bias_C: Float[Tensor, " C"],
    ) -> None:
        super().__init__()
        self.labels = labels
        self.transform = transform
        self.register_buffer("weight", weight_CE, persistent=False)
        self.register_buffer("bias", bias_C, persistent=False)

    def forward(
        self, hidden_MH: Float[Tensor, "M H"], generator: torch.Generator | None = None
    ) -> Float[Tensor, "M C"]:
        """Unnormalised log-scores of the words; `generator` has no use here."""
        return functional.linear(self.transform(hidden_MH), self.weight, self.bias)


Head: TypeAlias = TokenHead | VerbalizerHead
