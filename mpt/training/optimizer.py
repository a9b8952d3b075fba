"""AdamW over all that is trained, with learning rates that are a function of the step."""

from collections.abc import Callable, Iterable, Mapping
from typing import Protocol

import torch
from torch import Tensor, nn

from mpt.model.scorer import Tagger

Schedule = Callable[[int], float]


def build_optimizer(
    tagger: Tagger,
    *,
    prompt_learning_rate: float,
    head_learning_rate: float,
    weight_decay: float,
    network_rate: float = 1.0,
    backbone_learning_rate: float | None = None,
) -> torch.optim.AdamW:
    """A group of parameters for each trained head, and some for prompts, what they come out of, and the backbone.

    A head whose task is not in the step has no gradient and is skipped whole: neither moments nor weight decay move
    it. Prompts are not decayed: their scale is that of the backbone's keys and values, far from zero. The weights of a
    network behind a prompt learn at `network_rate` times the prompt's rate. Of the backbone, matrices are decayed,
    biases and norms are not.
    """
    groups = [
        {"params": list(head.parameters()), "rate": head_learning_rate, "weight_decay": weight_decay}
        for head in tagger.heads.values()
        if any(True for _ in head.parameters())
    ]
    network = tagger.network
    flat = tagger.prompts if network is None else network.flat_parameters
    weights = [] if network is None else network.network_parameters
    own = [] if tagger.adaptation is None else list(tagger.adaptation.parameters())
    matrices, vectors = [p for p in own if p.dim() > 1], [p for p in own if p.dim() == 1]
    assert not own or backbone_learning_rate is not None, "who trains the backbone has a rate for it"
    for parameters, rate, decay in (
        (flat, prompt_learning_rate, 0.0),
        (weights, prompt_learning_rate * network_rate, 0.0),
        (matrices, backbone_learning_rate, weight_decay),
        (vectors, backbone_learning_rate, 0.0),
    ):
        if parameters:
            # Fused for the millions of a backbone's weights: on a CPU it takes half the time.
            how = {"fused": True, "foreach": False} if parameters is matrices else {}
            groups.append({"params": parameters, "rate": rate, "weight_decay": decay, **how})
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
        tagger: What is trained.
        adamw: Over its parameters.
    """

    def __init__(self, tagger: Tagger, adamw: torch.optim.Optimizer) -> None:
        self._parameters = dict(tagger.named_parameters())
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
