"""ZeRO's share of the optimizer, beside the optimizer that every rank runs whole."""

import pytest
import torch
from common.engines import engine, environment
from common.ranks import run_ranks
from common.runs import make_parts

from mpt.training.optimizer import WholeOptimizer, build_optimizer

STEPS = 6
ALWAYS, SOMETIMES, NEVER = "people", "places", "words"


def adamw(scorer):
    rates = {"prompt": 0.2, "low_rank": 0.1, "backbone": 0.01, "head": 0.05}
    return build_optimizer(scorer, rates=rates, weight_decay=0.1)


def give_gradients(scorer, step):
    """The same on every rank; one head is in every other step, one in none."""
    generator = torch.Generator().manual_seed(step)
    present = [*scorer.bank.parameters(), *scorer.head(ALWAYS).parameters()]
    present += scorer.head(SOMETIMES).parameters() if step % 2 else []
    for parameter in present:
        parameter.grad = torch.randn(parameter.shape, generator=generator)


def do_steps(scorer, optimizer, steps):
    for step in steps:
        optimizer.set_learning_rates(1 / (step + 1))
        give_gradients(scorer, step)
        optimizer.step()
        scorer.zero_grad(set_to_none=True)


def assert_same(ours, theirs):
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(value, theirs[name]) for name, value in ours.items())


def compare(rank, world, stage):
    """ZeRO's steps, moments and restored moments are those of a whole optimizer, bit for bit."""
    from mpt.training.engines import find_engine, join_launch
    from mpt.training.zero import ZeroOptimizer

    accelerator = join_launch()
    found = find_engine(accelerator, clip_norm=1.0)
    assert found.name == f"DeepSpeed ZeRO-{stage}" and (found.sharding is not None) == (stage == 3)
    whole, shared, resumed = (make_parts(world).scorer for _ in range(3))
    expected = WholeOptimizer(whole, adamw(whole))
    optimizer = ZeroOptimizer(shared, adamw(shared), found.zero)
    assert optimizer.tensors() == {}, "nothing has moved"
    do_steps(whole, expected, range(STEPS))
    do_steps(shared, optimizer, range(STEPS))
    assert_same(shared.state_dict(), whole.state_dict())
    assert_same(optimizer.tensors(), expected.tensors())
    assert not any(NEVER in name for name in optimizer.tensors())
    assert_partitioned(optimizer, accelerator.num_processes)

    state = optimizer.tensors()
    optimizer.close()
    resumed.load_state_dict(shared.state_dict())
    again = ZeroOptimizer(resumed, adamw(resumed), found.zero)
    again.restore(state)
    do_steps(whole, expected, range(STEPS, 2 * STEPS))
    do_steps(resumed, again, range(STEPS, 2 * STEPS))
    assert_same(resumed.state_dict(), whole.state_dict())
    assert_same(again.tensors(), expected.tensors())


def assert_partitioned(optimizer, ranks):
    """DeepSpeed's own optimizer did the steps, and this rank has moments for its share alone."""
    from deepspeed.runtime.zero.stage_1_and_2 import DeepSpeedZeroOptimizer

    assert isinstance(optimizer._engine.optimizer, DeepSpeedZeroOptimizer)
    assert optimizer._engine.global_steps == STEPS
    for group, parameters in zip(optimizer._adamw.param_groups, optimizer._parameters, strict=True):
        (share,) = group["params"]
        whole = sum(parameter.numel() for parameter in parameters)
        for moment in ("exp_avg", "exp_avg_sq"):
            assert optimizer._adamw.state[share][moment].numel() <= whole / ranks + 8, "with padding"


@pytest.mark.parametrize(
    ("name", "ranks"),
    [
        *(pytest.param(*engine(name).values, 2, marks=engine(name).marks) for name in ("zero2", "zero3")),
        *(
            pytest.param(*engine(name).values, ranks, marks=[pytest.mark.distributed, *engine(name).marks])
            for name, ranks in (("zero1", 2), ("zero1", 4), ("zero2", 4), ("zero2", 1))
        ),
    ],
)
def test_zero_moves_what_a_whole_optimizer_moves(name, ranks, world, tmp_path):
    run_ranks(ranks, tmp_path / "out", compare, world, int(name[-1]), environment=environment(name))
