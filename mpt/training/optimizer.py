"""AdamW over prompts and heads, with learning rates that are a function of the step."""

from collections.abc import Callable, Iterable

import torch
from torch import nn

from mpt.model.tagger import Tagger

Schedule = Callable[[int], float]


def build_optimizer(
    tagger: Tagger, *, prompt_learning_rate: float, head_learning_rate: float, weight_decay: float
) -> torch.optim.AdamW:
    """One parameter group for prompts and one for heads.

    A head whose task is not in the step has no gradient and is skipped whole: neither moments nor weight decay move
    it. Prompts are not decayed: their scale is that of the backbone's keys and values, far from zero.
    """
    groups = [{"params": list(tagger._heads.parameters()), "rate": head_learning_rate, "weight_decay": weight_decay}]
    if tagger.bank is not None:
        groups.append({"params": list(tagger.bank.parameters()), "rate": prompt_learning_rate, "weight_decay": 0.0})
    return torch.optim.AdamW(groups, lr=0.0, foreach=True)


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
