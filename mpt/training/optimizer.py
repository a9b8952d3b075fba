"""AdamW over all that is trained, with learning rates that are a function of the step."""

from collections.abc import Callable, Iterable, Mapping
from typing import Protocol

import torch
from torch import Tensor, nn

from mpt.base.settings import RateName
from mpt.model.scorer import Scorer

Schedule = Callable[[int], float]


def build_optimizer(scorer: Scorer, *, rates: Mapping[RateName, float], weight_decay: float) -> torch.optim.AdamW:
    """The groups of every part of the task state, and one for each trained head.

    A head whose task is not in the step has no gradient and is skipped whole: neither moments nor weight decay move
    it. Which other groups are decayed is their part's affair.
    """
    groups = [
        {"params": list(head.parameters()), "rate": rates["head"], "weight_decay": weight_decay}
        for head in scorer.heads().values()
        if any(True for _ in head.parameters())
    ]
    for group in scorer.state.groups():
        how = {"fused": True, "foreach": False} if group.many else {}
        decay = weight_decay if group.decayed else 0.0
        rate = rates[group.rate] * group.factor
        groups.append({"params": group.parameters, "rate": rate, "weight_decay": decay, **how})
    return torch.optim.AdamW(groups, lr=0.0, foreach=True)


class Optimizer(Protocol):
    """What moves the weights, in the same way on every rank; all ranks call everything side by side."""

    def set_learning_rates(self, factor: float) -> None:
        """Give every group its base rate times the schedule's factor."""
        ...

    def step(self) -> None:
        """Move the weights by their gradients."""
        ...

    def tensors(self) -> dict[str, Tensor]:
        """Moments and counts, as PARAMETER/NAME; a head that was never drawn has none."""
        ...

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Put moments and counts in place."""
        ...

    def close(self) -> None:
        """Let go of the parameters."""
        ...


class WholeOptimizer:
    """An optimizer that every rank runs whole.

    Args:
        scorer: What is trained.
        adamw: Over its parameters.
    """

    def __init__(self, scorer: Scorer, adamw: torch.optim.Optimizer) -> None:
        self._parameters = scorer.named()
        self._adamw = adamw

    def set_learning_rates(self, factor: float) -> None:
        """Give every group its base rate times the schedule's factor."""
        set_learning_rates(self._adamw, factor)

    def step(self) -> None:
        """Move the weights by their gradients."""
        self._adamw.step()

    def tensors(self) -> dict[str, Tensor]:
        """Moments and counts, as PARAMETER/NAME; a head that was never drawn has none."""
        return {
            f"{name}/{key}": value.detach().cpu().contiguous()
            for name, parameter in self._parameters.items()
            for key, value in self._adamw.state.get(parameter, {}).items()
        }

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Put moments and counts in place: a count beside its parameter where the fused kernel reads it, else here."""
        fused = {p for group in self._adamw.param_groups if group["fused"] for p in group["params"]}
        for name, value in tensors.items():
            parameter, key = name.rsplit("/", 1)
            place = self._parameters[parameter]
            beside = key != "step" or place in fused
            self._adamw.state[place][key] = value.to(place.device) if beside else value

    def close(self) -> None:
        """Nothing to let go of."""


def set_learning_rates(optimizer: torch.optim.Optimizer, factor: float) -> None:
    """Give every group its base rate times the schedule's factor."""
    for group in optimizer.param_groups:
        group["lr"] = group["rate"] * factor


def linear_schedule(*, warmup_steps: int, steps: int) -> Schedule:
    """Up from zero over the warm-up, then down to zero at the last step."""

    def factor(step: int) -> float:
        if step < warmup_steps:
            return (step + 1) / warmup_steps
        return (steps - step) / max(steps - warmup_steps, 1)

    return factor


def epoch_schedule(*, gamma: float, steps_per_epoch: float, warmup_steps: int) -> Schedule:
    """Times gamma after every epoch.

    Source: `ExponentialLR(gamma=0.95)` stepped once an epoch in the reference implementation of arXiv:2110.07602.
    """

    def factor(step: int) -> float:
        warmup = min((step + 1) / warmup_steps, 1.0) if warmup_steps else 1.0
        return warmup * gamma ** int(step / steps_per_epoch)

    return factor


def clip_gradients(parameters: Iterable[nn.Parameter], max_norm: float) -> torch.Tensor:
    """Scale the gradients down to a total norm of `max_norm` and return the norm before; 0 leaves them alone."""
    present = [parameter for parameter in parameters if parameter.grad is not None]
    if max_norm == 0:
        return nn.utils.get_total_norm([parameter.grad for parameter in present if parameter.grad is not None])
    return nn.utils.clip_grad_norm_(present, max_norm)
