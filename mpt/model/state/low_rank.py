"""Low-rank updates of linear layers: x A^T B^T alpha / r is added to the output for x (LoRA, arXiv:2106.09685).

A and B are float32, and cast for the product. They act on activations alone: the backbone's weights are neither copied
nor touched, rows of a batch may have updates of their own, and ranks may share the backbone.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from mpt.base.errors import BackboneError
from mpt.base.seeding import torch_generator
from mpt.model.backbone.backbone import Backbone
from mpt.model.backbone.forward import ForwardPass, LinearUpdate
from mpt.model.backbone.stack import LinearLayer
from mpt.model.state.part import Part, padded

Targets = Literal["all", "attention", "feed-forward", "peft"]
_QUERIES_AND_VALUES = {
    **dict.fromkeys(("bert", "roberta", "xlm-roberta", "electra"), ("query", "value")),
    **dict.fromkeys(("llama", "mistral", "qwen2", "qwen3"), ("q_proj", "v_proj")),
    "deberta-v2": ("query_proj", "value_proj"),
    "deberta": ("in_proj",),
    "gpt2": ("c_attn",),
}
"""What PEFT updates when it is told nothing, by model type, mostly queries and values."""


class LowRank(Part):
    """Low-rank updates of some linear layers of a backbone.

    Args:
        factors: A ([r, in]) and B ([out, r]) of every updated layer by its name in the model, float32.
        alpha: An update is multiplied by alpha / r.
    """

    kind, rate, meets, shardable, merges = "low_rank", "low_rank", True, True, True

    def __init__(
        self, factors: Mapping[str, tuple[Float[Tensor, "r I"], Float[Tensor, "O r"]]], *, alpha: float
    ) -> None:
        super().__init__()
        self.names = list(factors)
        self.alpha = alpha
        self.downs = nn.ParameterList([nn.Parameter(down.float().clone()) for down, _ in factors.values()])
        self.ups = nn.ParameterList([nn.Parameter(up.float().clone()) for _, up in factors.values()])

    @property
    def rank(self) -> int:
        """Of all its updates."""
        return self.downs[0].shape[0]

    @property
    def spec(self) -> dict[str, Any]:
        """Rank, factor and layers."""
        return {"rank": self.rank, "alpha": self.alpha, "layers": self.names}

    def values(self) -> dict[str, nn.Parameter]:
        """A and B by PEFT's names for them."""
        named: dict[str, nn.Parameter] = {}
        for name, down, up in zip(self.names, self.downs, self.ups, strict=True):
            named |= {f"{name}.lora_A.weight": down, f"{name}.lora_B.weight": up}
        return named

    def updates(self) -> dict[str, tuple[nn.Parameter, Tensor]]:
        """A, and B times its factor, by the layer's name."""
        factor = self.alpha / self.rank
        factors = zip(self.names, self.downs, self.ups, strict=True)
        return {name: (down, up * factor) for name, down, up in factors}

    @torch.no_grad()
    def merged(self, weight: Callable[[str], Tensor], linears: Sequence[LinearLayer]) -> dict[str, Tensor]:
        """Updates added to the weights of their layers."""
        transposed = {linear.name for linear in linears if linear.transposed}
        updates = {f"{name}.weight": (name in transposed, up @ down) for name, (down, up) in self.updates().items()}
        return {name: weight(name).to(it) + (it.t() if turned else it) for name, (turned, it) in updates.items()}

    @classmethod
    def join(
        cls,
        rows: Sequence[Any],
        forward: ForwardPass,
        *,
        dtype: torch.dtype,
        generator: torch.Generator | None,
    ) -> ForwardPass:
        """One update of each layer for all rows, or each row's own, lower ranks padded with zeros."""
        used = dict.fromkeys(part for part in rows if part is not None)
        if len(rows) == 1:
            (own,) = (part.updates() for part in used)
            updates = {name: LinearUpdate(down=down.to(dtype), up=up.to(dtype).t()) for name, (down, up) in own.items()}
            return replace(forward, updates=updates)
        factors = {part: dict(zip(part.names, zip(part.downs, part.ups, strict=True), strict=True)) for part in used}
        device = next(iter(used)).downs[0].device
        scales = torch.tensor([0.0 if part is None else part.alpha / part.rank for part in rows], device=device)
        updates = {}
        for name in dict.fromkeys(name for part in used for name in part.names):
            some = next(own[name] for own in factors.values() if name in own)
            nothing = tuple(factor.new_zeros((0, factor.shape[side])) for side, factor in ((1, some[0]), (0, some[1])))
            own = [None if part is None else factors[part].get(name) for part in rows]
            down = padded([nothing[0] if pair is None else pair[0] for pair in own])
            up = padded([nothing[1] if pair is None else pair[1].t() for pair in own]) * scales[:, None, None]
            updates[name] = LinearUpdate(down=down.to(dtype), up=up.to(dtype))
        return replace(forward, updates=updates)


def fresh_low_rank(
    backbone: Backbone, *, rank: int, alpha: float, targets: Targets, layers: Sequence[int], seed: int
) -> LowRank:
    """Updates that are zero at the start.

    Args:
        backbone: Whose linear layers they are of.
        rank: Rank of an update.
        alpha: An update is multiplied by alpha / rank.
        targets: Which linear layers of each layer: "all", those of the "attention" or the "feed-forward" part, or
            those that "peft" takes in this architecture.
        layers: Numbers of the layers.
        seed: Names the random values of A; B starts at zero, and with it the update.

    Raises:
        BackboneError: PEFT has no default for this architecture, or there is no such linear layer.
    """
    factors: dict[str, tuple[Tensor, Tensor]] = {}
    for linear in _targeted(backbone, targets):
        if not set(linear.layers) <= set(layers):
            continue
        down = torch.empty((rank, linear.in_features))
        # As PEFT draws it, from a stream of its own.
        nn.init.kaiming_uniform_(down, a=math.sqrt(5), generator=torch_generator(seed, "lora", linear.name))
        factors[linear.name] = (down, torch.zeros((linear.out_features, rank)))
    if not factors:
        raise BackboneError(
            f'low_rank: backbone "{backbone.identity.reference}" ({backbone.identity.architecture}) has no linear '
            f"layer for targets {targets} in layers {', '.join(map(str, layers))}. Take more layers or targets=all"
        )
    return LowRank(factors, alpha=alpha)


def _targeted(backbone: Backbone, targets: Targets) -> list[LinearLayer]:
    if targets == "all":
        return list(backbone.linears)
    if targets != "peft":
        return [linear for linear in backbone.linears if linear.part == targets]
    model_type: Any = backbone.model.config.model_type  # type: ignore[union-attr]
    endings = _QUERIES_AND_VALUES.get(model_type)
    if endings is None:
        raise BackboneError(
            f"low_rank.targets: PEFT has no default for {backbone.identity.architecture}. Set low_rank.targets=all"
        )
    return [linear for linear in backbone.linears if linear.name.rpartition(".")[2] in endings]
