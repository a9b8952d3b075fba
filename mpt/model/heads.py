"""Per-task heads: one linear layer from hidden states to label scores, in float32."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from mpt.seeding import torch_generator


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
        if generator is not None and self.dropout > 0.0:
            kept = torch.rand(hidden_MH.shape, generator=generator) >= self.dropout
            hidden_MH = hidden_MH * kept.to(hidden_MH.device) / (1 - self.dropout)
        return functional.linear(hidden_MH, self.weight, self.bias)

    @torch.no_grad()
    def copy_label(self, label: str, sources: Sequence[tuple["TokenHead", str]]) -> None:
        """Start one label's row from the mean of other heads' rows, given with their names for it."""
        rows = [(head, head.labels.index(theirs)) for head, theirs in sources]
        ours = self.labels.index(label)
        self.weight[ours] = torch.stack([head.weight[row].to(self.weight.device) for head, row in rows]).mean(0)
        self.bias[ours] = torch.stack([head.bias[row].to(self.bias.device) for head, row in rows]).mean(0)
