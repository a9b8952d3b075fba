from types import SimpleNamespace

import pytest
import torch
from common.runs import make_parts

from mpt.training.gradients import GradientVectors


@pytest.fixture
def parts(world):
    return make_parts(world)


def loss_of(parts, task, value):
    """A loss whose gradient is `value` everywhere in the prompts and one head."""
    parameters = [] if parts.tagger.bank is None else list(parts.tagger.bank.parameters())
    return sum(value * parameter.sum() for parameter in [*parameters, *parts.tagger.head(task).parameters()])


ALONE = SimpleNamespace(num_processes=1)


def test_a_vector_holds_prompts_head_padding_and_loss(parts):
    loss = loss_of(parts, "people", 2.0)
    vector = GradientVectors(parts.tagger, ["people", "places"]).vector("people", loss)
    prompts = parts.tagger.bank.slots[0].numel()
    head = sum(p.numel() for p in parts.tagger.head("people").parameters())
    largest = sum(p.numel() for p in parts.tagger.head("places").parameters())
    assert head < largest
    assert len(vector) == prompts + largest + 1
    assert (vector[: prompts + head] == 2).all()
    assert (vector[prompts + head : -1] == 0).all()
    assert vector[-1] == loss
    assert all(parameter.grad is None for parameter in parts.tagger.parameters()), "nothing is accumulated"


def test_gradients_come_back_to_where_they_were_taken(parts):
    tasks = ["people", "places", "people"]
    gradients = GradientVectors(parts.tagger, tasks)
    vectors = gradients.gather(
        [gradients.vector(task, loss_of(parts, task, float(value))) for value, task in enumerate(tasks, 1)], ALONE
    )
    gradients.assign(vectors, tasks)
    assert (parts.tagger.bank.slots[0].grad == 6).all()
    assert all((p.grad == 4).all() for p in parts.tagger.head("people").parameters())
    assert all((p.grad == 2).all() for p in parts.tagger.head("places").parameters())
    assert all(p.grad is None for p in parts.tagger.head("words").parameters())


def test_a_prompt_without_gradient_counts_as_zero(parts):
    loss = sum(parameter.sum() for parameter in parts.tagger.head("people").parameters())
    vector = GradientVectors(parts.tagger, ["people"]).vector("people", loss)
    assert vector[: parts.tagger.bank.slots[0].numel()].abs().sum() == 0
    assert vector[-2] == 1


def test_vectors_of_ranks_are_put_into_micro_batch_order(parts):
    """Rank r of 2 computed the micro-batches r and r + 2."""
    own = [torch.tensor([0.0, 0.0]), torch.tensor([2.0, 2.0])]
    other = torch.tensor([[[1.0, 1.0], [3.0, 3.0]]])
    accelerator = SimpleNamespace(num_processes=2, gather=lambda stacked: torch.cat([stacked, other]))
    assert GradientVectors(parts.tagger, ["people"]).gather(own, accelerator)[:, 0].tolist() == [0, 1, 2, 3]


def test_the_sum_is_taken_in_micro_batch_order(parts):
    """1e8 + 1 - 1e8 is 0 from left to right in float32 and 1 in another order."""
    gradients = GradientVectors(parts.tagger, ["people"] * 3)
    vectors = [gradients.vector("people", loss_of(parts, "people", value)) for value in (1e8, 1.0, -1e8)]
    gradients.add_up(vectors, ALONE, ordered=True)
    assert (parts.tagger.bank.slots[0].grad == 0).all()


def reduced(parts, tasks, values, rank, reduce):
    """What one of two ranks has after an all-reduce: the losses and all gradients."""
    parts.tagger.zero_grad(set_to_none=True)
    gradients = GradientVectors(parts.tagger, tasks)
    own = range(rank, len(tasks), 2)
    vectors = [gradients.vector(tasks[number], loss_of(parts, tasks[number], values[number])) for number in own]
    accelerator = SimpleNamespace(process_index=rank, num_processes=2, reduce=reduce)
    losses = gradients.add_up(vectors, accelerator, ordered=False)
    return losses, {name: p.grad for name, p in parts.tagger.named_parameters()}


def test_an_all_reduce_sends_every_value_once(parts):
    tasks, sent = ["people", "people", "places", "places"], []
    for rank in (0, 1):
        reduced(parts, tasks, [1.0, 2.0, 3.0, 4.0], rank, lambda own, how: sent.append(own) or own)
    heads = [p.numel() for task in ("people", "places") for p in parts.tagger.head(task).parameters()]
    assert [len(own) for own in sent] == [parts.tagger.bank.slots[0].numel() + sum(heads) + 4] * 2
    losses, gradients = reduced(parts, tasks, [1.0, 2.0, 3.0, 4.0], 0, lambda own, how: own + sent[1])
    assert (gradients["bank.slots.0"] == 10).all()
    assert (gradients["_heads.task_people.weight"] == 3).all()
    assert (gradients["_heads.task_places.bias"] == 7).all()
    assert gradients["_heads.task_words.weight"] is None, "an idle head stays as it is"
    ordered = GradientVectors(parts.tagger, tasks)
    parts.tagger.zero_grad(set_to_none=True)
    vectors = [ordered.vector(task, loss_of(parts, task, value)) for value, task in enumerate(tasks, 1)]
    assert torch.equal(losses, ordered.add_up(vectors, ALONE, ordered=True))


@pytest.mark.parametrize("ordered", [True, False])
def test_a_micro_batch_that_is_not_finite_has_no_loss(parts, ordered):
    tasks = ["people", "places"]
    gradients = GradientVectors(parts.tagger, tasks)
    vectors = [
        gradients.vector(task, loss_of(parts, task, value)) for task, value in zip(tasks, (1.0, 2.0), strict=True)
    ]
    vectors[1][0] = torch.inf
    losses = gradients.add_up(vectors, ALONE, ordered=ordered)
    assert losses.isnan().tolist() == [False, True]


def test_a_model_without_prompts_has_the_head_alone(parts):
    parts.tagger.bank = None
    vector = GradientVectors(parts.tagger, ["people"]).vector("people", loss_of(parts, "people", 1.0))
    assert len(vector) == sum(p.numel() for p in parts.tagger.head("people").parameters()) + 1
