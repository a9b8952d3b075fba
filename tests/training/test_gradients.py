import gc
import weakref
from types import SimpleNamespace

import pytest
import torch
from common.prompts import random_low_rank, random_prompt
from common.runs import make_parts

from mpt.model.state.bank import TaskState
from mpt.training.gradients import GradientVectors


@pytest.fixture
def parts(world):
    return make_parts(world)


def loss_of(parts, task, value):
    """A loss whose gradient is `value` everywhere in the task state and one head."""
    parameters = [*parts.scorer.state.leaves(), *parts.scorer.head(task).parameters()]
    return sum(value * parameter.sum() for parameter in parameters)


def flat(parts):
    return parts.scorer.state.parts["prompt"].flat


ALONE = SimpleNamespace(num_processes=1)


def test_a_vector_holds_state_head_padding_and_loss(parts):
    loss = loss_of(parts, "people", 2.0)
    vector = GradientVectors(parts.scorer, ["people", "places"]).vector("people", loss)
    prompts = flat(parts).numel()
    head = sum(p.numel() for p in parts.scorer.head("people").parameters())
    largest = sum(p.numel() for p in parts.scorer.head("places").parameters())
    assert head < largest
    assert len(vector) == prompts + largest + 1
    assert (vector[: prompts + head] == 2).all()
    assert (vector[prompts + head : -1] == 0).all()
    assert vector[-1] == loss
    assert all(parameter.grad is None for parameter in parts.scorer.parameters()), "nothing is accumulated"


def test_gradients_come_back_to_where_they_were_taken(parts):
    tasks = ["people", "places", "people"]
    gradients = GradientVectors(parts.scorer, tasks)
    vectors = gradients.gather(
        [gradients.vector(task, loss_of(parts, task, float(value))) for value, task in enumerate(tasks, 1)], ALONE
    )
    gradients.assign(vectors, tasks)
    assert (flat(parts).grad == 6).all()
    assert all((p.grad == 4).all() for p in parts.scorer.head("people").parameters())
    assert all((p.grad == 2).all() for p in parts.scorer.head("places").parameters())
    assert all(p.grad is None for p in parts.scorer.head("words").parameters())


def test_a_prompt_without_gradient_counts_as_zero(parts):
    loss = sum(parameter.sum() for parameter in parts.scorer.head("people").parameters())
    vector = GradientVectors(parts.scorer, ["people"]).vector("people", loss)
    assert vector[: flat(parts).numel()].abs().sum() == 0
    assert vector[-2] == 1


def test_vectors_of_ranks_are_put_into_micro_batch_order(parts):
    """Rank r of 2 computed the micro-batches r and r + 2."""
    own = [torch.tensor([0.0, 0.0]), torch.tensor([2.0, 2.0])]
    other = torch.tensor([[[1.0, 1.0], [3.0, 3.0]]])
    accelerator = SimpleNamespace(num_processes=2, gather=lambda stacked: torch.cat([stacked, other]))
    assert GradientVectors(parts.scorer, ["people"]).gather(own, accelerator)[:, 0].tolist() == [0, 1, 2, 3]


def test_the_sum_is_taken_in_micro_batch_order(parts):
    """1e8 + 1 - 1e8 is 0 from left to right in float32 and 1 in another order."""
    gradients = GradientVectors(parts.scorer, ["people"] * 3)
    vectors = [gradients.vector("people", loss_of(parts, "people", value)) for value in (1e8, 1.0, -1e8)]
    gradients.add_up(vectors, ALONE, ordered=True)
    assert (flat(parts).grad == 0).all()


def reduced(parts, tasks, values, rank, reduce):
    """What one of two ranks has after an all-reduce: the losses and all gradients."""
    parts.scorer.zero_grad(set_to_none=True)
    gradients = GradientVectors(parts.scorer, tasks)
    own = range(rank, len(tasks), 2)
    vectors = [gradients.vector(tasks[number], loss_of(parts, tasks[number], values[number])) for number in own]
    accelerator = SimpleNamespace(process_index=rank, num_processes=2, reduce=reduce)
    losses = gradients.add_up(vectors, accelerator, ordered=False)
    return losses, {name: p.grad for name, p in parts.scorer.named_parameters()}


def test_an_all_reduce_sends_every_value_once(parts):
    tasks, sent = ["people", "people", "places", "places"], []
    for rank in (0, 1):
        reduced(parts, tasks, [1.0, 2.0, 3.0, 4.0], rank, lambda own, how: sent.append(own) or own)
    heads = [p.numel() for task in ("people", "places") for p in parts.scorer.head(task).parameters()]
    assert [len(own) for own in sent] == [flat(parts).numel() + sum(heads) + 4] * 2
    losses, gradients = reduced(parts, tasks, [1.0, 2.0, 3.0, 4.0], 0, lambda own, how: own + sent[1])
    assert (gradients["bank._slots.0._parts.prompt.flat"] == 10).all()
    assert (gradients["_heads.slot_0.task_people.weight"] == 3).all()
    assert (gradients["_heads.slot_0.task_places.bias"] == 7).all()
    assert gradients["_heads.slot_0.task_words.weight"] is None, "an idle head stays as it is"
    ordered = GradientVectors(parts.scorer, tasks)
    parts.scorer.zero_grad(set_to_none=True)
    vectors = [ordered.vector(task, loss_of(parts, task, value)) for value, task in enumerate(tasks, 1)]
    assert torch.equal(losses, ordered.add_up(vectors, ALONE, ordered=True))


@pytest.mark.parametrize("ordered", [True, False])
def test_a_micro_batch_that_is_not_finite_has_no_loss(parts, ordered):
    tasks = ["people", "places"]
    gradients = GradientVectors(parts.scorer, tasks)
    vectors = [
        gradients.vector(task, loss_of(parts, task, value)) for task, value in zip(tasks, (1.0, 2.0), strict=True)
    ]
    vectors[1][0] = torch.inf
    losses = gradients.add_up(vectors, ALONE, ordered=ordered)
    assert losses.isnan().tolist() == [False, True]


def test_a_model_without_parts_has_the_head_alone(world):
    parts = make_parts(world, state=lambda backbone: TaskState())
    vector = GradientVectors(parts.scorer, ["people"]).vector("people", loss_of(parts, "people", 1.0))
    assert len(vector) == sum(p.numel() for p in parts.scorer.head("people").parameters()) + 1


def test_a_vector_holds_all_parts_of_a_state(world):
    parts = make_parts(
        world, state=lambda backbone: TaskState([random_prompt(backbone, 3), random_low_rank(backbone, 2)])
    )
    gradients = GradientVectors(parts.scorer, ["people"])
    values = parts.scorer.state.values()
    vector = gradients.vector("people", loss_of(parts, "people", 2.0))
    assert len(vector) == sum(value.numel() for value in values.values()) + gradients.head_size + 1
    gradients.assign([vector], ["people"])
    assert len(values) > 3 and all((value.grad == 2).all() for value in values.values())


def test_a_step_of_one_process_keeps_one_vector_at_a_time(parts):
    """What all micro-batches of a step have would be many times the state: it is added as it comes."""
    tasks, living, held = ["people", "places", "people", "words"], [], []
    gradients = GradientVectors(parts.scorer, tasks)

    def vectors():
        for value, task in enumerate(tasks, 1):
            gc.collect()
            held.append(sum(one() is not None for one in living))
            vector = gradients.vector(task, loss_of(parts, task, float(value)))
            living.append(weakref.ref(vector))
            yield vector
            del vector

    losses = gradients.add_up(vectors(), ALONE, ordered=True)
    assert max(held) <= 1, held
    found = {name: None if p.grad is None else p.grad.clone() for name, p in parts.scorer.named_parameters()}
    parts.scorer.zero_grad(set_to_none=True)
    listed = [gradients.vector(task, loss_of(parts, task, float(value))) for value, task in enumerate(tasks, 1)]
    assert torch.equal(gradients.add_up(listed, ALONE, ordered=True), losses)
    for name, parameter in parts.scorer.named_parameters():
        assert torch.equal(parameter.grad, found[name]), name
