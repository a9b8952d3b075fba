from types import SimpleNamespace

import pytest
from common.prompts import random_low_rank, random_prompt
from common.runs import changed, make_parts, transfer_settings

from mpt.base.errors import ConfigError
from mpt.experiments.execution import build_plan, describe_size
from mpt.model.state.bank import TaskState


@pytest.fixture(scope="module")
def parts(world):
    return make_parts(world)


@pytest.mark.parametrize(("micro_batches", "tasks_per_step", "ranks"), [(3, 2, 1), (2, 1, 4), (4, 2, 4), (1, 1, 2)])
def test_micro_batches_are_shared_out_evenly_or_refused(parts, micro_batches, tasks_per_step, ranks):
    settings = changed(transfer_settings(), training__micro_batches=micro_batches)
    rates = {task.task.name: 1 / 3 for task in parts.tasks}
    accelerator = SimpleNamespace(num_processes=ranks)
    with pytest.raises(ConfigError) as caught:
        build_plan(parts.tasks, rates, settings, tasks_per_step=tasks_per_step, accelerator=accelerator)
    least = tasks_per_step * ranks
    assert f"is not a multiple of {tasks_per_step} tasks per step x {ranks} processes" in str(caught.value)
    assert f"Set training.micro_batches={least} or a multiple of it" in str(caught.value)
    settings = changed(settings, training__micro_batches=least)
    build_plan(parts.tasks, rates, settings, tasks_per_step=tasks_per_step, accelerator=accelerator)


def test_size_counts_what_is_trained(parts):
    trained = sum(p.numel() for p in parts.scorer.parameters())
    (prompt,) = parts.scorer.state.values().values()
    prompts = prompt.numel()
    text = describe_size(parts.scorer)
    assert f"{prompts:,} prompt values + {trained - prompts:,} head weights" in text
    assert f"{parts.scorer.backbone.num_parameters:,} frozen" in text


def test_size_names_every_part(world):
    def both(backbone):
        return TaskState([random_prompt(backbone, 3), random_low_rank(backbone, 2)])

    scorer = make_parts(world, state=both).scorer
    values = sum(value.numel() for value in scorer.state.values().values())
    assert f"trained: {values:,} prompt and low-rank values + " in describe_size(scorer)
    bare = make_parts(world, state=lambda backbone: TaskState()).scorer
    assert describe_size(bare).startswith(f"trained: {bare.num_trained:,} head weights = ")
