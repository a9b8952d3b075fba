"""Shallow prompts: virtual tokens before the input of the first layer, and nothing in the layers above.

While a shallow prompt is trained, a network may stand behind it as behind a deep one (`mpt.model.state.network`).

Sources: Lester et al. 2021, "The Power of Scale for Parameter-Efficient Prompt Tuning", arXiv:2104.08691; with an LSTM
Liu et al. 2021, "GPT Understands, Too" (P-tuning), arXiv:2103.10385.
"""

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from mpt.model.backbone.backbone import Backbone
from mpt.model.backbone.dropout import dropped
from mpt.model.state.network import Reparameterisation


class ShallowPrompt(nn.Module):
    """Embeddings of virtual tokens.

    Args:
        embeddings: As wide as the backbone's word embeddings, in float32.
        dropout: Chance that a value is zeroed in training.
        reparameterisation: What the embeddings come out of, and is trained in their place.
    """

    def __init__(
        self,
        embeddings: Float[Tensor, "P E"],
        *,
        dropout: float = 0.0,
        reparameterisation: Reparameterisation | None = None,
    ) -> None:
        super().__init__()
        self.embeddings = nn.Parameter(embeddings.float().clone())
        self.dropout = dropout
        self.reparameterisation = reparameterisation
        self.fold()

    @torch.no_grad()
    def fold(self) -> None:
        """Fill the embeddings with what a network behind them gives now."""
        if self.reparameterisation is not None:
            self.embeddings.copy_(self.reparameterisation())

    def pass_gradient(self) -> None:
        """Turn the gradient of the embeddings into that of a network behind them."""
        if self.reparameterisation is not None:
            assert self.embeddings.grad is not None, "a step has a gradient of the prompt"
            self.reparameterisation.pass_gradient(self.embeddings.grad)
            self.embeddings.grad = None

    @property
    def length(self) -> int:
        """Virtual tokens."""
        return len(self.embeddings)

    def inputs(
        self, backbone: Backbone, text: Mapping[str, Tensor | None], generator: torch.Generator | None
    ) -> dict[str, Tensor | None]:
        """What a backbone is given: virtual tokens first, on the first positions, and the text behind them.

        Args:
            backbone: Its word embeddings stay frozen.
            text: What it is given of a batch without a prompt.
            generator: Stream of dropout; None outside training.
        """
        ids_BS = text["input_ids"]
        assert ids_BS is not None, "there is always a text"
        rows, columns = ids_BS.shape
        words_BSE = backbone.word_embeddings(ids_BS)
        virtual_PE = dropped(self.embeddings, self.dropout, generator).to(words_BSE.dtype)
        positions = torch.arange(self.length + columns, device=backbone.device) + backbone.first_position
        inputs: dict[str, Tensor | None] = {
            "inputs_embeds": torch.cat([virtual_PE.expand(rows, -1, -1), words_BSE], dim=1),
            "position_ids": positions.expand(rows, -1),
        }
        # Virtual tokens are seen, and in the first segment.
        for name, value in (("attention_mask", True), ("token_type_ids", 0)):
            given = text.get(name)
            if given is not None:
                inputs[name] = functional.pad(given, (self.length, 0), value=value)
        return inputs
