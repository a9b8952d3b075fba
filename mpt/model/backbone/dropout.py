"""Dropout whose masks are a function of named streams, and of nothing else.

A backbone's own dropout is off: it is frozen, and what it computes for a text stays the same. Long runs overfit so, and
then it can be on in training. Its modules draw from a stream for each layer, seeded when a pass begins, so that a layer
that is computed again in the backward pass draws the same, in whichever thread that is.

Attention weights have no dropout: fused kernels draw it from the device's one generator.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor


def dropped(values: Float[Tensor, "..."], rate: float, generator: torch.Generator | None) -> Float[Tensor, "..."]:
    """Zero each value with a chance of `rate` and raise the others; None outside training, where all stay."""
    if generator is None or rate == 0.0:
        return values
    kept = torch.rand(values.shape, generator=generator, device=generator.device) >= rate
    return values * kept.to(values.device) / (1 - rate)


@dataclass(frozen=True, slots=True, kw_only=True)
class DropoutStreams:
    """What a training pass through a backbone drops.

    Attributes:
        rate: Chance that a value is zeroed.
        seeds: Of the stream of what comes before the layers, and of each layer's.
    """

    rate: float
    seeds: tuple[int, ...]

    def generator(self, layer: int, device: torch.device) -> torch.Generator:
        """The beginning of a layer's stream, or with -1 of what comes before the layers."""
        return torch.Generator(device).manual_seed(self.seeds[layer + 1])


def dropout_streams(rate: float, num_layers: int, generator: torch.Generator | None) -> DropoutStreams | None:
    """Streams for one pass, out of that of a micro-batch; None outside training and without dropout."""
    if generator is None or rate == 0.0:
        return None
    seeds = torch.randint(2**62, (num_layers + 1,), generator=generator)
    return DropoutStreams(rate=rate, seeds=tuple(seeds.tolist()))
