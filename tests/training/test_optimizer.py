from collections import defaultdict
from types import SimpleNamespace

import pytest
import torch
from common.prompts import random_low_rank, random_prompt, shape_of
from common.runs import make_parts
from torch import nn

from mpt.model.state.bank import TaskState
from mpt.model.state.network import by_token, network_behind
from mpt.model.state.prompt import Prompt
from mpt.model.state.weights import Weights
from mpt.training.optimizer import (
    WholeOptimizer,
    build_optimizer,
    clip_gradients,
    epoch_schedule,
    linear_schedule,
    set_learning_rates,
)


def test_the_linear_schedule_rises_to_one_and_falls_to_zero():
    factor = linear_schedule(warmup_steps=4, steps=10)
    found = [factor(step) for step in range(10)]
    assert found == pytest.approx([0.25, 0.5, 0.75, 1.0, 1.0, 5 / 6, 4 / 6, 3 / 6, 2 / 6, 1 / 6])
    assert factor(10) == 0


def test_the_linear_schedule_without_warm_up_starts_at_the_top():
    factor = linear_schedule(warmup_steps=0, steps=4)
    assert [factor(step) for step in range(5)] == [1.0, 0.75, 0.5, 0.25, 0.0]


def test_the_epoch_schedule_is_exponential_decay_stepped_once_an_epoch():
    parameter = nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=1.0)
    reference = torch.optim.lr_scheduler.ExponentialLR(optimizer, gamma=0.95)
    factor = epoch_schedule(gamma=0.95, steps_per_epoch=3, warmup_steps=0)
    for step in range(12):
        assert factor(step) == pytest.approx(optimizer.param_groups[0]["lr"]), step
        optimizer.step()
        if step % 3 == 2:
            reference.step()


def test_the_epoch_schedule_warms_up():
    factor = epoch_schedule(gamma=0.5, steps_per_epoch=2.0, warmup_steps=4)
    assert [factor(step) for step in range(6)] == pytest.approx([0.25, 0.5, 0.375, 0.5, 0.25, 0.25])


def test_epochs_may_be_a_fraction_of_a_step_long():
    assert epoch_schedule(gamma=0.5, steps_per_epoch=2.5, warmup_steps=0)(5) == 0.25


RATES = {"prompt": 0.2, "low_rank": 0.02, "backbone": 0.002, "head": 0.01}


def groups_of(optimizer):
    """The group of each parameter."""
    return {id(p): group for group in optimizer.param_groups for p in group["params"]}


@pytest.mark.parametrize("kind", ["mlp", "lstm"])
def test_a_network_is_trained_in_the_place_of_its_prompt_at_a_part_of_its_rate(world, kind):
    def behind_network(backbone):
        start = torch.zeros(shape_of(backbone, 3).tensor_shape)
        network = network_behind(by_token(start), kind=kind, input_size=4, hidden_size=8, seed=0)
        return TaskState([Prompt(start, shape_of(backbone, 3), network=network, network_rate=0.1)])

    scorer = make_parts(world, state=behind_network).scorer
    prompt = scorer.state.parts["prompt"]
    groups = groups_of(build_optimizer(scorer, rates=RATES, weight_decay=0.3))
    assert id(prompt.flat) not in groups
    weights = {(groups[id(p)]["rate"], groups[id(p)]["weight_decay"]) for p in prompt.network.parameters()}
    assert weights == {(0.2 * 0.1, 0.0)}
    assert len(groups) == len(list(scorer.parameters())) - 1


def test_every_group_has_its_own_rate_and_prompts_are_not_decayed(world):
    scorer = make_parts(
        world, state=lambda backbone: TaskState([random_prompt(backbone, 3), random_low_rank(backbone, 2)])
    ).scorer
    optimizer = build_optimizer(scorer, rates=RATES, weight_decay=0.3)
    set_learning_rates(optimizer, 0.5)
    groups = groups_of(optimizer)
    for kind, rate in (("prompt", 0.1), ("low_rank", 0.01)):
        for parameter in scorer.state.parts[kind].parameters():
            assert (groups[id(parameter)]["lr"], groups[id(parameter)]["weight_decay"]) == (rate, 0.0)
    for head in scorer.heads().values():
        for parameter in head.parameters():
            assert (groups[id(parameter)]["lr"], groups[id(parameter)]["weight_decay"]) == (0.005, 0.3)
    assert len(groups) == len(list(scorer.parameters())), "and nothing else is trained"


def test_matrices_of_the_backbone_are_decayed_and_its_vectors_not(world):
    scorer = make_parts(world, state=lambda backbone: TaskState([Weights(backbone)])).scorer
    groups = groups_of(build_optimizer(scorer, rates=RATES, weight_decay=0.3))
    for parameter in scorer.state.parameters():
        group = groups[id(parameter)]
        assert (group["rate"], group["weight_decay"]) == (0.002, 0.3 if parameter.dim() > 1 else 0.0)
        assert bool(group["fused"]) == (parameter.dim() > 1), "the kernel that is fast for many values"


def test_a_model_without_parts_has_a_group_for_each_head(world):
    scorer = make_parts(world, state=lambda backbone: TaskState()).scorer
    optimizer = build_optimizer(scorer, rates=RATES, weight_decay=0.0)
    assert len(optimizer.param_groups) == len(scorer.heads())


def with_gradients(*values):
    parameters = [nn.Parameter(torch.zeros(1)) for _ in values]
    for parameter, value in zip(parameters, values, strict=True):
        parameter.grad = None if value is None else torch.tensor([value])
    return parameters


def test_clipping_scales_all_gradients_by_the_total_norm():
    parameters = with_gradients(3.0, None, 4.0)
    assert float(clip_gradients(parameters, 1.0)) == pytest.approx(5.0)
    first, absent, last = (parameter.grad for parameter in parameters)
    assert absent is None
    assert (float(first), float(last)) == pytest.approx((0.6, 0.8), rel=1e-5)


@pytest.mark.parametrize("max_norm", [0, 5.1])
def test_zero_and_a_large_norm_clip_nothing(max_norm):
    parameters = with_gradients(3.0, 4.0)
    assert float(clip_gradients(parameters, max_norm)) == pytest.approx(5.0)
    assert [float(p.grad) for p in parameters] == [3.0, 4.0]


def test_counts_of_the_fused_kernel_are_restored_beside_their_parameters():
    """It reads them there; the plain kernel wants them in main memory. The meta device stands for a GPU."""
    weights = {name: nn.Parameter(torch.zeros(2, device="meta")) for name in ("fused", "plain")}
    groups = [{"params": [weights[name]], "fused": name == "fused"} for name in weights]
    adamw = SimpleNamespace(param_groups=groups, state=defaultdict(dict))
    optimizer = WholeOptimizer(SimpleNamespace(named=lambda: weights), adamw)
    names = [f"{name}/{key}" for name in weights for key in ("step", "exp_avg")]
    optimizer.restore({name: torch.ones(2) for name in names})
    devices = {
        f"{name}/{key}": value.device.type for name in weights for key, value in adamw.state[weights[name]].items()
    }
    assert devices == {name: "cpu" if name == "plain/step" else "meta" for name in names}
