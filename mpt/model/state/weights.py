"""Changes to a backbone's own weights, for the methods that train them; the backbone itself is never written to.

An adaptation brings parameters and modules of its own. They stand in the places of the backbone's while it computes for
a tagger that has the adaptation, and the backbone's are put back, the same objects, before it computes for any other.

What is trained is float32. The backbone computes in its own type: where that is bfloat16, with rounded copies of the
trained values, made anew after every change of them, so that its matrix products stay as fast as they were frozen.

The backbone's own dropout is on where `training.backbone_dropout` says so, for all methods.
"""

import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from mpt.base.errors import BackboneError


@dataclass(frozen=True, slots=True, kw_only=True)
class Swap:
    """One place of the backbone.

    Attributes:
        module: Whose attribute it is.
        name: The attribute.
        own: What the backbone has there.
        other: What stands there while an adaptation is in use.
    """

    module: nn.Module
    name: str
    own: nn.Module | nn.Parameter
    other: nn.Module | nn.Parameter


class Adaptation(nn.Module):
    """Trained changes to a backbone.

    Args:
        trained: By name, the float32 parameter and what the backbone computes with: itself, or a copy in another type.
        swaps: Where these stand in the backbone.
    """

    def __init__(self, trained: Mapping[str, tuple[nn.Parameter, nn.Parameter]], swaps: Sequence[Swap]) -> None:
        super().__init__()
        self.keys = {name: name.replace(".", "/") for name in trained}  # names of parameters have no dots
        self.values = nn.ParameterDict()
        for name, (value, _) in trained.items():  # one by one: a dictionary as a whole would be sorted
            self.values[self.keys[name]] = value
        self.swaps = list(swaps)
        self.leaves = [leaf for _, leaf in trained.values()]
        """What the backbone computes with, and gradients are taken of, one for each of `parameters()`."""

    def named_values(self) -> dict[str, nn.Parameter]:
        """The trained parameters by the backbone's names for them."""
        return {name: self.values[key] for name, key in self.keys.items()}

    @torch.no_grad()
    def refresh(self) -> None:
        """Have the backbone compute with the values of now; to be called after every change of them."""
        for value, leaf in zip(self.values.values(), self.leaves, strict=True):
            if leaf is not value:
                leaf.copy_(value)


class Switch:
    """Which adaptation a model computes with, for all threads at once.

    Threads may compute side by side for one tagger, never for several.

    Args:
        model: The backbone's model.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._current: Adaptation | None = None
        self._lock = threading.Lock()

    def to(self, adaptation: Adaptation | None) -> None:
        """Compute with an adaptation, or with the backbone's own weights."""
        if self._current is adaptation:
            return
        with self._lock:
            if self._current is adaptation:  # another thread has done it
                return
            for swap in [] if self._current is None else self._current.swaps:
                setattr(swap.module, swap.name, swap.own)
            for swap in [] if adaptation is None else adaptation.swaps:
                setattr(swap.module, swap.name, swap.other)
            self._current = adaptation


def trained_weights(model: nn.Module, *, biases: bool) -> Adaptation:
    """The backbone's weights, to be trained from what they are.

    Args:
        model: The backbone's model, with its own weights in place.
        biases: Only these: vectors added by linear layers and norms.

    Raises:
        BackboneError: It has none.
    """
    trained: dict[str, tuple[nn.Parameter, nn.Parameter]] = {}
    leaves: dict[nn.Parameter, nn.Parameter] = {}
    swaps = []
    for name, module, attribute, own in _weights(model):
        if biases and not attribute.endswith("bias"):
            continue
        if own not in leaves:  # else two places share a weight
            value = nn.Parameter(own.detach().float().clone())
            leaves[own] = value if own.dtype == value.dtype else nn.Parameter(own.detach().clone())
            trained[name] = (value, leaves[own])
        swaps.append(Swap(module=module, name=attribute, own=own, other=leaves[own]))
    if not swaps:
        raise BackboneError(f'method "bitfit": {type(model).__name__} has no biases to train. Leave the method out')
    return Adaptation(trained, swaps)


def _weights(model: nn.Module) -> Iterator[tuple[str, nn.Module, str, nn.Parameter]]:
    """Name, module, attribute and parameter of every weight."""
    for path, module in model.named_modules():
        for attribute, parameter in module.named_parameters(recurse=False):
            yield f"{path}.{attribute}" if path else attribute, module, attribute, parameter
