"""A bank of deep prompts over one backbone: every row of a batch names its slot.

A slot is one deep prompt, with its own length and its own prompted layers. Pretraining has one slot that all tasks
share; serving has one for each task. Shorter prompts are padded and masked where slots meet in a batch.

While a slot is trained, a network may stand behind it (`mpt.model.state.network`). The slot is flat all the same:
the gradient that it receives is passed on to the network, and after each step it is filled with the network's output.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn
from torch.nn import functional

from mpt.model.backbone.attention import LayerPrompt
from mpt.model.backbone.dropout import dropped
from mpt.model.state.network import Reparameterisation, by_layer, by_token


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptShape:
    """Shape of one deep prompt.

    Attributes:
        num_layers: Layers of the backbone.
        layers: Indices of the prompted ones, ascending.
        num_heads: Key/value heads of a layer.
        length: Virtual tokens.
        head_dim: Size of a head.
    """

    num_layers: int
    layers: tuple[int, ...]
    num_heads: int
    length: int
    head_dim: int

    @property
    def tensor_shape(self) -> tuple[int, int, int, int, int]:
        """[prompted layers, 2 (keys, values), heads, prompt length, head_dim]."""
        return (len(self.layers), 2, self.num_heads, self.length, self.head_dim)


class PromptBank(nn.Module):
    """Slots of deep prompts.

    Args:
        prompts: One tensor a slot, of its shape's `tensor_shape`, in float32.
        shapes: One shape a slot; all for the same backbone.
        dropout: Chance that a value of a prompt is zeroed in training.
        reparameterisation: What the prompt of the only slot comes out of, and is trained in its place.
    """

    def __init__(
        self,
        prompts: Sequence[Float[Tensor, "L 2 G P D"]],
        shapes: Sequence[PromptShape],
        *,
        dropout: float = 0.0,
        reparameterisation: Reparameterisation | None = None,
    ) -> None:
        super().__init__()
        for prompt, shape in zip(prompts, shapes, strict=True):
            assert tuple(prompt.shape) == shape.tensor_shape, (prompt.shape, shape)
        self.shapes = tuple(shapes)
        self.dropout = dropout
        self.slots = nn.ParameterList([nn.Parameter(prompt.float().clone()) for prompt in prompts])
        assert reparameterisation is None or len(self.slots) == 1, "a reparameterised bank has one slot"
        self.reparameterisation = reparameterisation
        self.fold()

    @torch.no_grad()
    def fold(self) -> None:
        """Fill a reparameterised slot with what its network gives now."""
        if self.reparameterisation is not None:
            shape = self.shapes[0]
            self.slots[0].copy_(by_layer(self.reparameterisation(), num_heads=shape.num_heads, head_dim=shape.head_dim))

    def pass_gradient(self) -> None:
        """Turn the gradient of a reparameterised slot into that of its network."""
        if self.reparameterisation is not None:
            slot = self.slots[0]
            assert slot.grad is not None, "a step has a gradient of the prompt"
            self.reparameterisation.pass_gradient(by_token(slot.grad))
            slot.grad = None

    def lengths(self, slots_B: Int64[Tensor, " B"] | None) -> Int64[Tensor, " B"] | int:
        """Prompt length of every row, or of slot 0 when all rows use it."""
        if slots_B is None:
            return self.shapes[0].length
        return torch.tensor([shape.length for shape in self.shapes], device=slots_B.device)[slots_B]

    def layer_prompts(
        self,
        dtype: torch.dtype,
        slots_B: Int64[Tensor, " B"] | None = None,
        generator: torch.Generator | None = None,
    ) -> list[LayerPrompt | None]:
        """What every layer attends to, for one batch.

        Args:
            dtype: Type of the backbone's activations.
            slots_B: Slot of each row; None when all rows use slot 0.
            generator: Stream of prompt dropout; None outside training.
        """
        used = [0] if slots_B is None else sorted(set(slots_B.tolist()))
        prompts = [dropped(self.slots[slot], self.dropout, generator).to(dtype) for slot in used]
        if slots_B is None:
            by_layer = dict(zip(self.shapes[0].layers, prompts[0], strict=True))
            return [
                LayerPrompt(keys=by_layer[layer][0][None], values=by_layer[layer][1][None])
                if layer in by_layer
                else None
                for layer in range(self.shapes[0].num_layers)
            ]
        rows_B = torch.searchsorted(torch.tensor(used, device=slots_B.device), slots_B)
        return [self._mixed_layer(layer, used, prompts, rows_B) for layer in range(self.shapes[0].num_layers)]

    def _mixed_layer(
        self,
        layer: int,
        used: Sequence[int],
        prompts: Sequence[Float[Tensor, "L 2 G P D"]],
        rows_B: Int64[Tensor, " B"],
    ) -> LayerPrompt | None:
        """One layer's prompts of several slots, padded to the longest and gathered by row."""
        lengths = [self.shapes[slot].length if layer in self.shapes[slot].layers else 0 for slot in used]
        longest = max(lengths)
        if longest == 0:
            return None
        padded: list[Tensor] = []
        for slot, prompt, length in zip(used, prompts, lengths, strict=True):
            shape = self.shapes[slot]
            own = (
                prompt[shape.layers.index(layer)]
                if length
                else prompt.new_zeros((2, shape.num_heads, 0, shape.head_dim))
            )
            padded.append(functional.pad(own, (0, 0, 0, longest - length)))
        gathered = torch.stack(padded)[rows_B]
        mask: Bool[Tensor, "B P"] | None = None
        if min(lengths) < longest:
            columns = torch.arange(longest, device=rows_B.device)
            mask = columns < torch.tensor(lengths, device=rows_B.device)[rows_B][:, None]
        return LayerPrompt(keys=gathered[:, 0], values=gathered[:, 1], mask=mask)
