"""Input prompts: virtual tokens before the input of the first layer, and nothing in the layers above.

Sources: Lester et al. 2021, "The Power of Scale for Parameter-Efficient Prompt Tuning", arXiv:2104.08691; with an LSTM
Liu et al. 2021, "GPT Understands, Too" (P-tuning), arXiv:2103.10385.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from mpt.model.backbone.dropout import dropped
from mpt.model.backbone.forward import ForwardPass
from mpt.model.state.network import Network
from mpt.model.state.part import Part


class InputPrompt(Part):
    """Embeddings of virtual tokens.

    Args:
        embeddings: As wide as the backbone's word embeddings, in float32.
        dropout: Chance that a value is zeroed in training.
        network: See `Part`.
        network_rate: See `Part`.
    """

    kind, rate, meets, shardable = "input", "prompt", False, False

    def __init__(
        self,
        embeddings: Float[Tensor, "P E"],
        *,
        dropout: float = 0.0,
        network: Network | None = None,
        network_rate: float = 1.0,
    ) -> None:
        super().__init__(network, network_rate)
        self.embeddings = nn.Parameter(embeddings.float().clone())
        self.dropout = dropout
        self.settle()

    @property
    def spec(self) -> dict[str, Any]:
        """Its shape."""
        return {"length": len(self.embeddings), "width": self.embeddings.shape[1]}

    @property
    def virtual_tokens(self) -> int:
        """Its length."""
        return len(self.embeddings)

    def values(self) -> dict[str, nn.Parameter]:
        """The embeddings."""
        return {"embeddings": self.embeddings}

    def by_token(self, values: Sequence[Tensor]) -> Float[Tensor, "P V"]:
        """They are kept so."""
        (value,) = values
        return value

    def from_tokens(self, values_PV: Float[Tensor, "P V"]) -> list[Tensor]:
        """They are kept so."""
        return [values_PV]

    @classmethod
    def join(
        cls,
        rows: Sequence[Any],
        forward: ForwardPass,
        *,
        dtype: torch.dtype,
        generator: torch.Generator | None,
    ) -> ForwardPass:
        """The same virtual tokens for all rows."""
        (part,) = rows
        assert part is not None, "some row has such a part"
        return replace(forward, virtual=dropped(part.embeddings, part.dropout, generator).to(dtype)[None])
