"""The optimizer under DeepSpeed: ZeRO keeps each rank's share of the moments and moves that share of the weights.

mpt gathers the gradients of all micro-batches and sums them in a fixed order (`mpt.training.gradients`), and clips
them. DeepSpeed takes over from there: its engine gets the sum as the gradient of a linear loss, reduces it to each
rank's share, moves the share with AdamW and gathers the moved weights. So ZeRO trains what a plain launch trains.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from mpt.model.scorer import Scorer
from mpt.training.optimizer import set_learning_rates

MOMENTS = ("exp_avg", "exp_avg_sq")


class ZeroOptimizer:
    """AdamW over task state and heads whose state is spread over the ranks; all ranks call everything side by side.

    Args:
        scorer: What is trained; its tensors must be those to start from.
        adamw: Over its parameters.
        config: DeepSpeed's configuration.
    """

    def __init__(self, scorer: Scorer, adamw: torch.optim.AdamW, config: Mapping[str, Any]) -> None:
        import deepspeed  # type: ignore[import]

        self._names = {parameter: name for name, parameter in scorer.named().items()}
        self._parameters: list[list[nn.Parameter]] = [list(group["params"]) for group in adamw.param_groups]
        self._adamw = adamw
        self._engine: Any = deepspeed.initialize(model=scorer, optimizer=adamw, config=dict(config))[0]
        adamw.register_step_pre_hook(_skip_idle)
        for group in adamw.param_groups:
            (share,) = group["params"]  # now flat, and this rank's alone
            adamw.state[share] = {name: torch.zeros_like(share) for name in MOMENTS} | {"step": torch.tensor(0.0)}

    def set_learning_rates(self, factor: float) -> None:
        """Give every group its base rate times the schedule's factor."""
        set_learning_rates(self._adamw, factor)

    def step(self) -> None:
        """Move the weights by the gradients, which are those of the whole step on every rank."""
        loss = torch.zeros((), device=self._engine.device)
        for group, parameters in zip(self._adamw.param_groups, self._parameters, strict=True):
            group["idle"] = all(parameter.grad is None for parameter in parameters)
            for parameter in parameters:
                gradient = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
                parameter.grad = None
                loss = loss + (parameter * gradient).sum()
        self._engine.backward(loss)
        self._engine.step()

    def tensors(self) -> dict[str, Tensor]:
        """Moments and counts by parameter name, gathered; a head that was never drawn has none."""
        from deepspeed.utils import safe_get_full_optimizer_state  # type: ignore[import]

        tensors: dict[str, Tensor] = {}
        self._link()
        for step, parameter in self._steps():
            moments: dict[str, Any] = {name: safe_get_full_optimizer_state(parameter, name) for name in MOMENTS}
            if step > 0:
                tensors |= {f"{self._names[parameter]}/{name}": value.cpu() for name, value in moments.items()}
                tensors[f"{self._names[parameter]}/step"] = step.clone()
        return tensors

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Put this rank's share of a checkpoint's moments and counts in place."""
        from deepspeed.utils import safe_set_full_optimizer_state  # type: ignore[import]

        self._link()
        for step, parameter in self._steps():
            name = self._names[parameter]
            if f"{name}/step" not in tensors:
                continue
            step.copy_(tensors[f"{name}/step"])
            for moment in MOMENTS:
                value = tensors[f"{name}/{moment}"].to(self._engine.device)
                safe_set_full_optimizer_state(parameter, value, moment)

    def _steps(self) -> list[tuple[Tensor, nn.Parameter]]:
        """Every parameter with the count of its group."""
        return [
            (self._adamw.state[group["params"][0]]["step"], parameter)
            for group, parameters in zip(self._adamw.param_groups, self._parameters, strict=True)
            for parameter in parameters
        ]

    def _link(self) -> None:
        """Have DeepSpeed find the moments, which it does by itself only in a step."""
        self._engine.optimizer._lazy_init_hp_params_optimizer_state()

    def close(self) -> None:
        """Take DeepSpeed's hooks off the parameters."""
        self._engine.destroy()


def _skip_idle(adamw: torch.optim.Optimizer, *_: object) -> None:
    """Leave a head alone whose task is not in the step; by DeepSpeed's zeros its moments would move."""
    for group in adamw.param_groups:
        if group["idle"]:
            group["params"][0].grad = None
