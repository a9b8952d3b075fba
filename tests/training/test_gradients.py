from types import SimpleNamespace

import pytest
import torch
from common.runs import make_parts

from mpt.training.gradients import GradientBuffer


@pytest.fixture
def parts(world):
    return make_parts(world)


def fill(parts, task, value):
    """Give the prompts and one head a gradient of `value` everywhere."""
    for parameter in [*parts.tagger.bank.parameters(), *parts.tagger.head(task).parameters()]:
        parameter.grad = torch.full_like(parameter, value)


def test_a_vector_holds_prompts_head_padding_and_loss(parts):
    buffer = GradientBuffer(parts.tagger, ["people", "places"])
    fill(parts, "people", 2.0)
    buffer.take("people", torch.tensor(0.25))
    (vector,) = buffer.vectors
    prompts = parts.tagger.bank.slots[0].numel()
    head = sum(p.numel() for p in parts.tagger.head("people").parameters())
    largest = sum(p.numel() for p in parts.tagger.head("places").parameters())
    assert head < largest
    assert len(vector) == prompts + largest + 1
    assert (vector[: prompts + head] == 2).all()
    assert (vector[prompts + head : -1] == 0).all()
    assert vector[-1] == 0.25
    assert all(parameter.grad is None for parameter in parts.tagger.parameters()), "nothing is left for the next one"


def test_gradients_come_back_to_where_they_were_taken(parts):
    tasks = ["people", "places", "people"]
    buffer = GradientBuffer(parts.tagger, tasks)
    for value, task in enumerate(tasks, 1):
        fill(parts, task, float(value))
        buffer.take(task, torch.tensor(float(value)))
    vectors = buffer.gather(SimpleNamespace(num_processes=1))
    assert vectors[:, -1].tolist() == [1, 2, 3]
    buffer.assign(vectors)
    assert (parts.tagger.bank.slots[0].grad == 6).all()
    assert all((p.grad == 4).all() for p in parts.tagger.head("people").parameters())
    assert all((p.grad == 2).all() for p in parts.tagger.head("places").parameters())
    assert all(p.grad is None for p in parts.tagger.head("words").parameters())


def test_a_prompt_without_gradient_counts_as_zero(parts):
    buffer = GradientBuffer(parts.tagger, ["people"])
    buffer.take("people", torch.tensor(1.0))
    assert buffer.vectors[0][:-1].abs().sum() == 0


def test_vectors_of_ranks_are_put_into_micro_batch_order(parts):
    """Rank r of 2 computed the micro-batches r and r + 2."""
    buffer = GradientBuffer(parts.tagger, ["people"])
    buffer.vectors = [torch.tensor([0.0, 0.0]), torch.tensor([2.0, 2.0])]
    other = torch.tensor([[[1.0, 1.0], [3.0, 3.0]]])
    accelerator = SimpleNamespace(num_processes=2, gather=lambda own: torch.cat([own, other]))
    assert buffer.gather(accelerator)[:, 0].tolist() == [0, 1, 2, 3]


def test_the_sum_is_taken_in_micro_batch_order(parts):
    """1e8 + 1 - 1e8 is 0 from left to right in float32 and 1 in another order."""
    buffer = GradientBuffer(parts.tagger, ["people"] * 3)
    for value in (1e8, 1.0, -1e8):
        fill(parts, "people", value)
        buffer.take("people", torch.tensor(0.0))
    buffer.assign(buffer.gather(SimpleNamespace(num_processes=1)))
    assert (parts.tagger.bank.slots[0].grad == 0).all()


def test_a_model_without_prompts_has_the_head_alone(world):
    parts = make_parts(world)
    parts.tagger.bank = None
    buffer = GradientBuffer(parts.tagger, ["people"])
    for parameter in parts.tagger.head("people").parameters():
        parameter.grad = torch.ones_like(parameter)
    buffer.take("people", torch.tensor(1.0))
    assert len(buffer.vectors[0]) == sum(p.numel() for p in parts.tagger.head("people").parameters()) + 1
