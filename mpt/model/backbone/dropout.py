"""Dropout whose masks are a function of named streams, and of nothing else.

A backbone's own dropout is off: it is frozen, and what it computes for a text stays the same. Long runs overfit so, and
then it can be on in training. Its modules draw from a stream for each layer, seeded when a pass begins, so that a layer
that is computed again in the backward pass draws the same, in whichever thread that is.

Attention weights have no dropout: fused kernels draw it from the device's one generator.
"""

import threading
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn


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


def dropout_streams(rate: float, num_layers: int, generator: torch.Generator | None) -> DropoutStreams | None:
    """Streams for one pass, out of that of a micro-batch; None outside training and without dropout."""
    if generator is None or rate == 0.0:
        return None
    seeds = torch.randint(2**62, (num_layers + 1,), generator=generator)
    return DropoutStreams(rate=rate, seeds=tuple(seeds.tolist()))


class HiddenDropout(threading.local):
    """The switch of a backbone's dropout modules, in each thread for its own pass.

    Args:
        device: Of the backbone, where masks are drawn.

    Attributes:
        calls: How often modules were asked to drop values, with dropout on or off.
    """

    def __init__(self, device: torch.device) -> None:
        self.calls = 0
        self._device = device
        self._streams: DropoutStreams | None = None
        self._generator: torch.Generator | None = None

    def begin(self, streams: DropoutStreams | None) -> None:
        """Start a pass: what comes before the layers draws from the first stream."""
        self._streams = streams
        self.enter(streams, 0)

    def streams(self) -> DropoutStreams | None:
        """Those of the pass in progress."""
        return self._streams

    def enter(self, streams: DropoutStreams | None, stream: int) -> None:
        """Draw from the beginning of one of the streams: 0 before the layers, n + 1 in layer n."""
        self._streams, self._generator = streams, None
        if streams is not None:
            self._generator = torch.Generator(self._device).manual_seed(streams.seeds[stream])

    def __call__(self, values: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """What a dropout module returns."""
        self.calls += 1
        return dropped(values, 0.0 if self._streams is None else self._streams.rate, self._generator)


def take_over(model: nn.Module, device: torch.device) -> HiddenDropout:
    """Let a backbone's dropout modules draw from streams."""
    dropout = HiddenDropout(device)
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.forward = dropout.__call__  # type: ignore[method-assign]
    return dropout
