"""The frozen trunk: the layers below the first prompt, whose outputs are a fixed function of the text.

With prompts on the upper layers only, the layers below them compute the same numbers for a sentence in every epoch.
Here a forward pass can end at the top of the trunk, to keep its outputs, or begin there, from outputs kept earlier;
`mpt.model.trunk_cache` does the first and keeps them.
"""

import threading
from collections.abc import Callable, Sequence
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from mpt.model.injection import Injection


class Trunk(threading.local):
    """A switch in every layer of a backbone, in each thread for its own batch.

    Attributes:
        depth: Layers of the trunk, counted from the first.
        states: Its output for the current batch; the trunk is then skipped. None computes it.
        capturing: Run the trunk alone and leave its output in `captured`.
        captured: Output of the last forward pass that captured.
    """

    def __init__(self) -> None:
        self.depth = 0
        self.states: Float[Tensor, "B S H"] | None = None
        self.capturing = False
        self.captured: Float[Tensor, "B S H"] | None = None

    def layer(self, index: int, forward: Callable[..., Tensor]) -> Callable[..., Tensor]:
        """Wrap the forward method of layer `index`."""

        def switched(hidden: Tensor, *args: Any, **kwargs: Any) -> Tensor:
            if self.states is not None and index < self.depth:
                return self.states if index == self.depth - 1 else hidden
            if self.capturing and index >= self.depth:
                self.captured = hidden if index == self.depth else self.captured
                return hidden
            return forward(hidden, *args, **kwargs)

        return switched


def install_trunk(model: nn.Module, injection: Injection) -> Trunk | None:
    """Put a switch into every layer of a backbone; None where its layers are not one list of modules."""
    attentions = list(injection.layer_of)
    for layers in model.modules():
        if isinstance(layers, nn.ModuleList) and _holds_layers(layers, attentions):
            trunk = Trunk()
            for index, layer in enumerate(layers):
                layer.forward = trunk.layer(index, layer.forward)
            return trunk
    return None


def _holds_layers(layers: nn.ModuleList, attentions: Sequence[int]) -> bool:
    """Whether the modules of a list hold one attention module each, in the order of the forward pass."""
    return len(layers) == len(attentions) and all(
        any(id(module) == attention for module in layer.modules())
        for layer, attention in zip(layers, attentions, strict=True)
    )
