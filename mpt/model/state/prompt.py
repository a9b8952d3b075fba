"""Deep prompts: keys and values that every prompted layer's attention sees before its own (P-Tuning v2)."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from mpt.model.backbone.dropout import dropped
from mpt.model.backbone.forward import ForwardPass, LayerPrompt
from mpt.model.state.network import Network, by_layer, by_token
from mpt.model.state.part import Part, padded


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


class Prompt(Part):
    """One deep prompt.

    Args:
        values: Of the shape's `tensor_shape`, in float32.
        shape: Its shape.
        dropout: Chance that a value is zeroed in training.
        network: See `Part`.
        network_rate: See `Part`.
    """

    kind, rate, meets, shardable = "prompt", "prompt", True, True

    def __init__(
        self,
        values: Float[Tensor, "L 2 G P D"],
        shape: PromptShape,
        *,
        dropout: float = 0.0,
        network: Network | None = None,
        network_rate: float = 1.0,
    ) -> None:
        super().__init__(network, network_rate)
        assert tuple(values.shape) == shape.tensor_shape, (values.shape, shape)
        self.shape = shape
        self.dropout = dropout
        self.flat = nn.Parameter(values.float().clone())
        self.settle()

    @property
    def spec(self) -> dict[str, Any]:
        """Its shape."""
        return asdict(self.shape) | {"layers": list(self.shape.layers)}

    @property
    def virtual_tokens(self) -> int:
        """Its length."""
        return self.shape.length

    def values(self) -> dict[str, nn.Parameter]:
        """Keys and values of all prompted layers."""
        return {"values": self.flat}

    def by_token(self, values: Sequence[Tensor]) -> Float[Tensor, "P V"]:
        """Each virtual token's key and value in every layer, as P-Tuning v2 and PEFT keep a prompt."""
        (value,) = values
        return by_token(value)

    def from_tokens(self, values_PV: Float[Tensor, "P V"]) -> list[Tensor]:
        """The inverse."""
        return [by_layer(values_PV, num_heads=self.shape.num_heads, head_dim=self.shape.head_dim)]

    @classmethod
    def join(
        cls,
        rows: Sequence[Any],
        forward: ForwardPass,
        *,
        dtype: torch.dtype,
        generator: torch.Generator | None,
    ) -> ForwardPass:
        """One prompt for all rows, or each row's own, shorter ones padded and masked."""
        used = list(dict.fromkeys(part for part in rows if part is not None))
        values = [dropped(part.flat, part.dropout, generator).to(dtype) for part in used]
        if len(rows) == 1:
            layers = zip(used[0].shape.layers, values[0], strict=True)
            prompts = {layer: LayerPrompt(keys=own[0][None], values=own[1][None]) for layer, own in layers}
            return replace(forward, prompts=prompts, behind=used[0].shape.length)
        device = values[0].device
        lengths = torch.tensor([0 if part is None else part.shape.length for part in rows], device=device)
        by_part = {part: value.permute(3, 0, 1, 2, 4) for part, value in zip(used, values, strict=True)}  # P L 2 G D
        if len({part.shape.layers for part in used}) == 1:  # the usual case: all layers are padded at once
            nothing = values[0].new_zeros((0, *by_part[used[0]].shape[1:]))
            everything = padded([nothing if part is None else by_part[part] for part in rows])
            mask = _mask(lengths, everything.shape[1])
            prompts = {
                layer: _layer_prompt(everything[:, :, number], mask)
                for number, layer in enumerate(used[0].shape.layers)
            }
            return replace(forward, prompts=prompts, behind=lengths)
        prompts = {
            layer: _of_rows(layer, rows, by_part)
            for layer in sorted({layer for part in used for layer in part.shape.layers})
        }
        return replace(forward, prompts=prompts, behind=lengths)


def _of_rows(layer: int, rows: Sequence[Prompt | None], values: dict[Prompt, Tensor]) -> LayerPrompt:
    """One layer's prompt of every row, which not all of them have, padded to the longest."""
    own = {
        part: value[:, part.shape.layers.index(layer)] for part, value in values.items() if layer in part.shape.layers
    }
    some = next(iter(own.values()))
    nothing = some.new_zeros((0, *some.shape[1:]))
    chosen = [nothing if part is None else own.get(part, nothing) for part in rows]
    lengths = torch.tensor([len(value) for value in chosen], device=some.device)
    together = padded(chosen)
    return _layer_prompt(together, _mask(lengths, together.shape[1]))


def _layer_prompt(values: Float[Tensor, "B P 2 G D"], mask: Bool[Tensor, "B P"] | None) -> LayerPrompt:
    keys, of_keys = values.permute(2, 0, 3, 1, 4)
    return LayerPrompt(keys=keys, values=of_keys, mask=mask)


def _mask(lengths: Int64[Tensor, " B"], longest: int) -> Bool[Tensor, "B P"] | None:
    """False behind each row's own length; None where all are as long."""
    if int(lengths.min()) == longest:
        return None
    return torch.arange(longest, device=lengths.device) < lengths[:, None]
