"""A bank of task states over one backbone: every row of a batch names its slot, and a slot is one state.

Pretraining has one slot that all tasks share; serving has one for each model. Slots may differ in parts, length, rank
and layers; what a row's state has less of than its company is padded, with exactly no effect.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from mpt.base.errors import MptError
from mpt.base.settings import PartKind
from mpt.model.backbone.forward import ForwardPass
from mpt.model.state.input_prompt import InputPrompt
from mpt.model.state.low_rank import LowRank
from mpt.model.state.part import ParameterGroup, Part
from mpt.model.state.prompt import Prompt
from mpt.model.state.weights import Weights

PARTS: Mapping[PartKind, type[Part]] = {part.kind: part for part in (Prompt, LowRank, InputPrompt, Weights)}
"""By kind, in the order in which a pass asks them."""


class TaskState(nn.Module):
    """What a task adds to the backbone besides its head.

    Args:
        parts: At most one of each kind; none leaves the backbone bare (a linear probe).
    """

    def __init__(self, parts: Sequence[Part] = ()) -> None:
        super().__init__()
        assert len({part.kind for part in parts}) == len(parts), "one part of a kind"
        self._parts = nn.ModuleDict({part.kind: part for part in parts})

    @property
    def parts(self) -> Mapping[PartKind, Part]:
        """By kind."""
        return dict(self._parts.items())  # type: ignore[arg-type]

    @property
    def specs(self) -> dict[str, dict[str, Any]]:
        """What a checkpoint says of each part."""
        return {kind: part.spec for kind, part in self.parts.items()}

    @property
    def virtual_tokens(self) -> int:
        """Positions that it takes from a text that starts behind them."""
        return max((part.virtual_tokens for part in self.parts.values()), default=0)

    def values(self) -> dict[str, nn.Parameter]:
        """Its flat tensors as KIND.NAME."""
        return {f"{kind}.{name}": it for kind, part in self.parts.items() for name, it in part.values().items()}

    def networks(self) -> dict[str, Tensor]:
        """Tensors of the networks behind its parts as KIND.NAME."""
        behind = {kind: part.network for kind, part in self.parts.items() if part.network is not None}
        return {f"{kind}.{name}": it for kind, network in behind.items() for name, it in network.state_dict().items()}

    def leaves(self) -> list[nn.Parameter]:
        """What a pass computes with for each of `values`."""
        return [leaf for part in self.parts.values() for leaf in part.leaves()]

    def groups(self) -> list[ParameterGroup]:
        """What an optimizer moves."""
        return [group for part in self.parts.values() for group in part.groups()]

    def pass_gradient(self) -> None:
        """Turn gradients of values that come out of networks into those of the networks."""
        for part in self.parts.values():
            part.pass_gradient()

    def settle(self) -> None:
        """Bring what depends on what is trained up to date; to be called after every change of it."""
        for part in self.parts.values():
            part.settle()


class Bank(nn.Module):
    """Slots of task states.

    Args:
        states: Of slots 0, 1, ...
    """

    def __init__(self, states: Sequence[TaskState]) -> None:
        super().__init__()
        self._slots = nn.ModuleDict({str(slot): state for slot, state in enumerate(states)})
        self._next = len(states)

    @property
    def slots(self) -> list[int]:
        """Numbers of the slots."""
        return [int(key) for key in self._slots]

    def state(self, slot: int) -> TaskState:
        """The state in a slot."""
        return self._slots[str(slot)]  # type: ignore[return-value]

    def put(self, slot: int, state: TaskState) -> None:
        """Put another state into a slot."""
        self._slots[str(slot)] = state

    def add(self, state: TaskState) -> int:
        """Put a state into a slot of its own, which has a new number."""
        slot, self._next = self._next, self._next + 1
        self._slots[str(slot)] = state
        return slot

    def remove(self, slot: int) -> None:
        """Empty a slot; its number is not used again."""
        del self._slots[str(slot)]

    def meets(self, slot: int) -> bool:
        """Whether rows of a slot may be in a batch with rows of others that may."""
        return all(part.meets for part in self.state(slot).parts.values())

    def apart(self, slots: Sequence[int]) -> str | None:
        """Why rows of these slots cannot meet in a batch; None where they can."""
        for slot in dict.fromkeys(slots):
            lonely = [part.kind for part in self.state(slot).parts.values() if not part.meets]
            if lonely:
                others = ", ".join(str(other) for other in dict.fromkeys(slots) if other != slot)
                return (
                    f"the task state in slot {slot} has {' and '.join(lonely)}, which all rows of a batch share, so "
                    f"it cannot meet rows of slot {others}"
                )
        return None

    def forward_pass(
        self, slots: Sequence[int], *, dtype: torch.dtype, generator: torch.Generator | None = None
    ) -> ForwardPass:
        """What a pass gets for rows of these slots.

        Args:
            slots: Slot of each row.
            dtype: Type of the backbone's activations.
            generator: Stream of the parts' dropout; None outside training.

        Raises:
            MptError: Their states cannot meet in a batch.
        """
        used = list(dict.fromkeys(slots))
        if len(used) > 1 and (problem := self.apart(used)) is not None:
            raise MptError(f"{problem}. Use a batch for each")
        rows = [self.state(slot).parts for slot in (slots if len(used) > 1 else used)]
        forward = ForwardPass()
        for kind, part in PARTS.items():
            own: list[Any] = [parts.get(kind) for parts in rows]
            if any(it is not None for it in own):
                forward = part.join(own, forward, dtype=dtype, generator=generator)
        return forward
