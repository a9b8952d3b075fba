"""What one forward pass adds to the frozen backbone, and where the backbone's modules find it.

A pass is told everything in one immutable object, and nothing is set on the backbone beforehand. Its modules look into
`Running`, which each thread has for itself: the pass in progress and the layer that is being computed. A layer that is
computed again in the backward pass, in whichever thread, puts its own pass and number there first.

Shapes: B rows, G key/value heads, P prompt length, D size of a head, r rank, I and O sizes of a linear layer's input
and output, E width of word embeddings.
"""

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from mpt.model.backbone.dropout import DropoutStreams, dropped


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerPrompt:
    """What one layer attends to before the text.

    Attributes:
        keys: One set of keys for all rows (first dimension 1), or one for each row.
        values: Likewise.
        mask: False on virtual tokens that pad a shorter prompt; None when there are none.
    """

    keys: Float[Tensor, "B G P D"]
    values: Float[Tensor, "B G P D"]
    mask: Bool[Tensor, "B P"] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class LinearUpdate:
    """What is added to the outputs of one linear layer: x A^T B^T times a factor.

    Attributes:
        down: A, one for all rows ([r, I]) or one for each row ([B, r, I]).
        up: B transposed, times the factor: [r, O] or [B, r, O].
    """

    down: Float[Tensor, "*B r I"]
    up: Float[Tensor, "*B r O"]

    def added(self, inputs: Float[Tensor, "*n I"], outputs: Float[Tensor, "*n O"]) -> Float[Tensor, "*n O"]:
        """The outputs with the update.

        Raises:
            ValueError: Rows have updates of their own, and the layer is given something that has no rows.
        """
        if self.down.dim() == 2:
            low = inputs.flatten(0, -2) @ self.down.t()
            return torch.addmm(outputs.flatten(0, -2), low, self.up).view_as(outputs)
        if inputs.dim() != 3 or len(inputs) != len(self.down):
            raise ValueError("a linear layer is called on something else than the rows of a batch")
        return torch.baddbmm(outputs, torch.bmm(inputs, self.down.transpose(1, 2)), self.up)


@dataclass(frozen=True, slots=True, kw_only=True)
class ForwardPass:
    """All that a forward pass adds to the bare backbone.

    Attributes:
        prompts: What layers attend to before the text, by number.
        behind: Virtual tokens of the prompts, of all rows or of each; the text starts behind so many positions where a
            backbone is declared to shift it.
        updates: Of linear layers, by their names in the model.
        virtual: Embeddings before the text's own, in the input of the first layer.
        model: Computes in the place of the backbone's own: a copy that shares what is not trained.
        dropout: Of the backbone's own dropout modules; None keeps all values.
        observe: Called by every layer with its attention module and the (keys, values) of the text.
    """

    prompts: Mapping[int, LayerPrompt] = field(default_factory=dict)
    behind: Int64[Tensor, " B"] | int = 0
    updates: Mapping[str, LinearUpdate] = field(default_factory=dict)
    virtual: Float[Tensor, "B P E"] | None = None
    model: nn.Module | None = None
    dropout: DropoutStreams | None = None
    observe: Callable[[nn.Module, Tensor, Tensor], None] | None = None


BARE = ForwardPass()


class Running(threading.local):
    """The forward pass in progress, in each thread its own.

    Attributes:
        forward: What it adds.
        layer: Number of the layer that is being computed.
        called: Layers that the pass has called so far.
        asked: How often dropout modules were asked to drop values, with dropout on or off.
    """

    def __init__(self) -> None:
        self.forward = BARE
        self.layer = -1
        self.called = 0
        self.asked = 0
        self._generator: torch.Generator | None = None

    def begin(self, forward: ForwardPass, device: torch.device) -> None:
        """Start a pass: what comes before the layers draws from the first stream of dropout."""
        self.called = 0
        self.enter(forward, -1, device)

    def enter(self, forward: ForwardPass, layer: int, device: torch.device) -> None:
        """Compute a layer, the first time or again; dropout begins the layer's stream anew."""
        self.forward, self.layer = forward, layer
        self._generator = None if forward.dropout is None else forward.dropout.generator(layer, device)

    @property
    def prompt(self) -> LayerPrompt | None:
        """Of the layer that is being computed."""
        return self.forward.prompts.get(self.layer)

    def drop(self, values: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
        """What a dropout module returns."""
        self.asked += 1
        dropout = self.forward.dropout
        return dropped(values, 0.0 if dropout is None else dropout.rate, self._generator)


def tie(model: nn.Module, running: Running) -> None:
    """Let a backbone's modules find the pass in progress, and its dropout modules draw from streams."""
    for module in model.modules():
        module.mpt_running = running  # type: ignore[assignment]
        if isinstance(module, nn.Dropout):
            module.forward = running.drop  # type: ignore[method-assign]


def running_of(module: nn.Module) -> Running:
    """The pass in progress of the backbone that a module is part of."""
    return module.mpt_running  # type: ignore[return-value]
