"""Trained copies of the backbone's own weights, all of them or the biases alone; the backbone is never written to.

A copy of the model computes in the backbone's place. It shares with the backbone whatever is not trained, and its
modules find the pass in progress as the backbone's do.

What is trained is float32. The copy computes in the backbone's type: where that is bfloat16, with rounded copies of the
trained values, made anew after every change of them, so that its matrix products stay as fast as they were frozen.
"""

import copy
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from mpt.base.errors import BackboneError
from mpt.model.backbone.backbone import Backbone
from mpt.model.backbone.forward import ForwardPass
from mpt.model.backbone.stack import LinearLayer
from mpt.model.state.part import ParameterGroup, Part


class Weights(Part):
    """Trained weights of a backbone.

    Args:
        backbone: Trained from what its weights are.
        biases: Only these: vectors added by linear layers and norms (BitFit, arXiv:2106.10199).

    Raises:
        BackboneError: It has none.
    """

    kind, rate, meets, shardable, merges = "weights", "backbone", False, False, True

    def __init__(self, backbone: Backbone, *, biases: bool = False) -> None:
        super().__init__()
        self.biases = biases
        trained: dict[str, nn.Parameter] = {}
        leaf_of: dict[nn.Parameter, nn.Parameter] = {}
        for name, own in backbone.model.named_parameters():  # weights that two places share come once
            if biases and not name.endswith("bias"):
                continue
            value = nn.Parameter(own.detach().float().clone())
            leaf_of[own] = value if own.dtype == value.dtype else nn.Parameter(own.detach().clone())
            trained[name] = value
        if not trained:
            raise BackboneError(
                f'method "bitfit": {backbone.identity.architecture} has no biases to train. Leave the method out'
            )
        self._leaves = list(leaf_of.values())
        # Not as a dictionary: one would be sorted, and names of parameters have no dots.
        self._names = list(trained)
        self.trained = nn.ParameterList(trained.values())
        self._model = [copied(backbone, lambda own: leaf_of.get(own, own))]  # a list, so that it is no submodule

    @property
    def spec(self) -> dict[str, Any]:
        """Which weights."""
        return {"biases": self.biases}

    @property
    def model(self) -> nn.Module:
        """The copy."""
        return self._model[0]

    def values(self) -> dict[str, nn.Parameter]:
        """The trained weights by the backbone's names for them."""
        return dict(zip(self._names, self.trained, strict=True))

    def leaves(self) -> list[nn.Parameter]:
        """Weights of the copy."""
        return self._leaves

    def groups(self) -> list[ParameterGroup]:
        """Matrices are decayed, biases and norms are not."""
        matrices, vectors = [p for p in self.trained if p.dim() > 1], [p for p in self.trained if p.dim() == 1]
        groups = [
            ParameterGroup(parameters=matrices, rate=self.rate, decayed=True, many=True),
            ParameterGroup(parameters=vectors, rate=self.rate),
        ]
        return [group for group in groups if group.parameters]

    @torch.no_grad()
    def settle(self) -> None:
        """Round the trained values to what the copy computes with."""
        for value, leaf in zip(self.trained, self._leaves, strict=True):
            if leaf is not value:
                leaf.copy_(value)

    def merged(self, weight: Callable[[str], Tensor], linears: Sequence[LinearLayer]) -> dict[str, Tensor]:
        """They take the place of the backbone's."""
        return {name: value.detach() for name, value in self.values().items()}

    @classmethod
    def join(
        cls,
        rows: Sequence[Any],
        forward: ForwardPass,
        *,
        dtype: torch.dtype,
        generator: torch.Generator | None,
    ) -> ForwardPass:
        """The copy computes for all rows."""
        (part,) = rows
        assert part is not None, "some row has such a part"
        return replace(forward, model=part.model)


def copied(backbone: Backbone, weight: Callable[[nn.Parameter], nn.Parameter]) -> nn.Module:
    """A copy of a backbone's model with other weights.

    Args:
        backbone: Shares with the copy where the pass in progress is found.
        weight: What the copy has in the place of each of the backbone's weights; may be the same.
    """
    memo: dict[int, Any] = {id(backbone.running): backbone.running}
    memo |= {id(own): weight(own) for own in backbone.model.parameters()}
    return copy.deepcopy(backbone.model, memo)
