"""What every part of a task state answers.

Four questions, and whoever asks them knows no kind: which tensors the part has (`spec`, `values`, `leaves`), which
groups of an optimizer they form (`groups`), what a forward pass gets for the rows of a batch (`join`), and whether rows
of different slots may meet in a batch (`meets`).

While a part is trained, a network may stand behind it (`mpt.model.state.network`). The part is flat all the same: the
gradient that it receives is passed on to the network, and after each step it is filled with the network's output.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from mpt.base.settings import PartKind, RateName
from mpt.model.backbone.forward import ForwardPass
from mpt.model.backbone.stack import LinearLayer
from mpt.model.state.network import Network


@dataclass(frozen=True, slots=True, kw_only=True)
class ParameterGroup:
    """Parameters that an optimizer moves alike.

    Attributes:
        parameters: At least one.
        rate: Which learning rate they have,
        factor: and in which part of it.
        decayed: Whether weight decay pulls them towards zero.
        many: Millions of values, for which a fused kernel takes half the time on a CPU.
    """

    parameters: list[nn.Parameter]
    rate: RateName
    factor: float = 1.0
    decayed: bool = False
    many: bool = False


class Part(nn.Module):
    """A part of a task state.

    Args:
        network: What its values come out of while it is trained; None trains the values themselves.
        network_rate: Learning rate of the network's weights, in parts of the part's own.
    """

    kind: ClassVar[PartKind]
    rate: ClassVar[RateName]
    meets: ClassVar[bool]
    """Whether rows of slots with other such parts, or without one, may be in the same batch."""
    shardable: ClassVar[bool]
    """Whether it acts on activations alone, so that ranks may share the backbone's weights."""
    merges: ClassVar[bool] = False
    """Whether a backbone with other weights, those of `merged`, does the same without it."""

    def __init__(self, network: Network | None = None, network_rate: float = 1.0) -> None:
        super().__init__()
        self.network = network
        self.network_rate = network_rate

    @property
    def spec(self) -> dict[str, Any]:
        """What a checkpoint says of it; with `values` enough to make it again, see `mpt.model.state.starts`."""
        raise NotImplementedError

    @property
    def virtual_tokens(self) -> int:
        """Positions that it takes from a text that starts behind them."""
        return 0

    def values(self) -> dict[str, nn.Parameter]:
        """Its flat float32 tensors by the names that they are saved under."""
        raise NotImplementedError

    def leaves(self) -> list[nn.Parameter]:
        """What a pass computes with for each of `values`: itself, or its copy in the backbone's type."""
        return list(self.values().values())

    def by_token(self, values: Sequence[Float[Tensor, "..."]]) -> Float[Tensor, "P V"]:
        """Tensors like `values` as a row for each virtual token, which is what a network gives."""
        raise NotImplementedError

    def from_tokens(self, values_PV: Float[Tensor, "P V"]) -> list[Float[Tensor, "..."]]:
        """The inverse of `by_token`."""
        raise NotImplementedError

    def groups(self) -> list[ParameterGroup]:
        """What an optimizer moves."""
        if self.network is None:
            return [ParameterGroup(parameters=list(self.values().values()), rate=self.rate)]
        return [ParameterGroup(parameters=list(self.network.parameters()), rate=self.rate, factor=self.network_rate)]

    def pass_gradient(self) -> None:
        """Turn the gradients of values that come out of a network into those of the network."""
        if self.network is None:
            return
        values = list(self.values().values())
        gradients = [value.grad for value in values]
        assert all(gradient is not None for gradient in gradients), "a step has gradients of all values"
        self.network.pass_gradient(self.by_token([gradient for gradient in gradients if gradient is not None]))
        for value in values:
            value.grad = None

    @torch.no_grad()
    def settle(self) -> None:
        """Bring what depends on what is trained up to date; to be called after every change of it."""
        if self.network is not None:
            for value, output in zip(self.values().values(), self.from_tokens(self.network()), strict=True):
                value.copy_(output)

    def merged(self, weight: Callable[[str], Tensor], linears: Sequence[LinearLayer]) -> dict[str, Tensor]:
        """The weights, in float32 and by name, of a backbone that has no need of the part.

        Args:
            weight: Gives the backbone's own by name.
            linears: The backbone's linear layers.
        """
        raise NotImplementedError

    @classmethod
    def join(
        cls,
        rows: Sequence[Any],
        forward: ForwardPass,
        *,
        dtype: torch.dtype,
        generator: torch.Generator | None,
    ) -> ForwardPass:
        """What a pass gets of parts of this kind.

        Args:
            rows: The part of each row, or a single one for all rows; None where a row's state has none. Not all None.
            forward: What other kinds have given it.
            dtype: Type of the backbone's activations.
            generator: Stream of dropout; None outside training.
        """
        raise NotImplementedError


def padded(values: Sequence[Float[Tensor, "..."]]) -> Float[Tensor, "..."]:
    """Tensors side by side, filled up with zeros to the longest first dimension."""
    same = len({value.shape for value in values}) == 1
    return torch.stack(list(values)) if same else pad_sequence(list(values), batch_first=True)
