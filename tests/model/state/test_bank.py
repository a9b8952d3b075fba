"""Task states, and rows of several of them in one batch: each row gets the scores that it gets alone."""

from dataclasses import replace

import pytest
import torch
from common.backbones import HIDDEN, KINDS
from common.prompts import (
    in_slots,
    random_batch,
    random_low_rank,
    random_prompt,
    random_states,
    row_numbers,
    rows_of,
    scorer_of,
    scores_of,
)
from torch.nn import functional

from mpt.base.errors import MptError
from mpt.model.state.bank import PARTS, Bank, TaskState
from mpt.model.state.input_prompt import InputPrompt
from mpt.model.state.network import by_token, network_behind
from mpt.model.state.prompt import Prompt
from mpt.model.state.weights import Weights

LENGTHS = (23, 9, 1, 14, 9, 9, 5)
SLOTS = (1, 5, 0, 3, 2, 4, 0)
TOLERANCE = 1e-5  # relative, of a row's scores in float32


def states_of(backbone, targets="all"):
    """Every kind of state that may meet others: of different lengths, ranks and layers, of two parts, and of none."""
    upper = None if backbone.identity.architecture == "AlbertModel" else (1, 2)
    return [
        TaskState([random_prompt(backbone, 5, seed=1)]),
        TaskState([random_low_rank(backbone, 2, targets=targets, seed=2)]),
        TaskState([random_prompt(backbone, 2, (2,), seed=3), random_low_rank(backbone, 4, targets=targets, seed=3)]),
        TaskState(),
        TaskState([random_low_rank(backbone, 1, targets="feed-forward", layers=upper, seed=4)]),
        TaskState([random_prompt(backbone, 7, (0, 1), seed=5)]),
    ]


def targets_of(kind):
    """DeBERTa's attention also projects positions, which are of no row."""
    return "feed-forward" if kind.startswith("deberta") else "all"


@pytest.mark.parametrize("shifted", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_rows_of_all_kinds_of_states_get_the_scores_they_get_alone(load, kind, shifted):
    backbone = load(kind, shifted=shifted, prompt_length=7)
    states = states_of(backbone, targets_of(kind))
    scorer, batch = scorer_of(backbone, *states), in_slots(random_batch(backbone, *LENGTHS), SLOTS)
    with torch.no_grad():
        found = scorer(batch)
        for row, slot in enumerate(SLOTS):
            (alone,) = scorer_of(backbone, states[slot])(rows_of(random_batch(backbone, *LENGTHS), row))
            assert (found[row] - alone).norm() <= TOLERANCE * alone.norm(), (row, slot)


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_states_that_meet_receive_the_gradients_they_receive_alone(load, kind, recompute):
    backbone = load(kind, gradient_checkpointing=recompute)
    states = states_of(backbone, targets_of(kind))
    batch = random_batch(backbone, *LENGTHS)

    def gradients(scorer, batch, rows, of):
        scores, words = scores_of(scorer, batch), torch.isin(row_numbers(batch), torch.tensor(rows))
        labels = random_batch(backbone, *LENGTHS).labels_M
        loss = functional.cross_entropy(scores[words], labels[words], reduction="sum")
        return torch.autograd.grad(loss, list(of.parameters()), materialize_grads=True)

    scorer = scorer_of(backbone, *states)
    for slot, state in enumerate(states):
        if not state.parts:
            continue
        rows = [row for row, own in enumerate(SLOTS) if own == slot]
        # The loss of all rows: what another slot's rows add to this one's gradient is nothing.
        found = gradients(scorer, in_slots(batch, SLOTS), list(range(len(SLOTS))), state)
        expected = gradients(scorer_of(backbone, state), batch, rows, state)
        scale = max(gradient.norm() for gradient in expected)
        for ours, theirs in zip(found, expected, strict=True):
            assert (ours - theirs).norm() <= TOLERANCE * scale, slot


def test_what_others_bring_has_exactly_no_effect(load):
    """The bits of a row depend on the shape of its company and not on what is in it."""
    backbone = load("bert")
    batch, found = in_slots(random_batch(backbone, *LENGTHS), SLOTS), []
    for noise in (0.0, 3.0):
        states = states_of(backbone)
        with torch.no_grad():
            for state in (states[0], states[1], states[2], states[4]):
                for value in state.parameters():
                    value.add_(noise)
            found.append(scorer_of(backbone, *states)(batch))
    for row, slot in enumerate(SLOTS):
        assert torch.equal(found[0][row], found[1][row]) == (slot in (3, 5))


# States that cannot meet


def lonely_states(backbone):
    return {
        "input": TaskState([InputPrompt(torch.zeros((3, HIDDEN)))]),
        "weights": TaskState([Weights(backbone, biases=True)]),
        "prompt and weights": TaskState([random_prompt(backbone, 3), Weights(backbone, biases=True)]),
    }


@pytest.mark.parametrize("name", ["input", "weights", "prompt and weights"])
def test_states_that_all_rows_share_are_refused_beside_others(load, name):
    backbone = load("bert")
    kind = name.removeprefix("prompt and ")
    lonely, another = (lonely_states(backbone)[name] for _ in range(2))
    for states, place in (
        ([TaskState(), lonely], 1),
        ([lonely, *random_states(backbone, 5)], 0),
        ([lonely, another], 0),
    ):
        scorer, batch = scorer_of(backbone, *states), random_batch(backbone, 9, 4, 3)
        with pytest.raises(MptError) as caught:
            scorer(in_slots(batch, [0, 1, 0]))
        assert str(caught.value) == (
            f"the task state in slot {place} has {kind}, which all rows of a batch share, so it cannot meet rows of "
            f"slot {1 - place}. Use a batch for each"
        )
        scorer(in_slots(batch, [place] * 3))


def test_states_that_may_meet_are_not_apart(load):
    backbone = load("bert")
    bank = Bank(states_of(backbone))
    assert bank.apart([0, 1, 2, 3, 4, 5]) is None


# A state


def test_a_state_has_at_most_one_part_of_a_kind(load):
    backbone = load("bert")
    with pytest.raises(AssertionError, match="one part of a kind"):
        TaskState([random_prompt(backbone, 3), random_prompt(backbone, 4)])


def test_what_a_state_says_of_itself(load):
    backbone = load("bert")
    prompt, low_rank = random_prompt(backbone, 5), random_low_rank(backbone, 2, targets="peft", layers=(1,))
    state = TaskState([prompt, low_rank])
    assert list(state.parts) == ["prompt", "low_rank"] and set(PARTS) == {"prompt", "low_rank", "input", "weights"}
    assert state.specs == {"prompt": prompt.spec, "low_rank": low_rank.spec}
    assert state.virtual_tokens == 5 and TaskState().virtual_tokens == 0 == TaskState([low_rank]).virtual_tokens
    names = [f"encoder.layer.1.attention.self.{name}" for name in ("query", "value")]
    ends = ("lora_A.weight", "lora_B.weight")
    expected = ["prompt.values", *(f"low_rank.{name}.{end}" for name in names for end in ends)]
    assert list(state.values()) == expected and state.networks() == {}
    assert [id(leaf) for leaf in state.leaves()] == [id(value) for value in state.values().values()]
    assert [(group.rate, len(group.parameters)) for group in state.groups()] == [("prompt", 1), ("low_rank", 4)]


def test_parts_of_a_state_are_settled_and_passed_gradients(load):
    backbone = load("bert")
    shape = random_prompt(backbone, 3).shape
    start = torch.zeros(shape.tensor_shape)
    network = network_behind(by_token(start), kind="mlp", input_size=4, hidden_size=8, seed=0)
    state = TaskState([Prompt(start, shape, network=network)])
    assert set(state.networks()) == {f"prompt.{name}" for name in network.state_dict()}
    with torch.no_grad():
        network.layers[-1].bias.add_(1)
    state.settle()
    assert (state.parts["prompt"].flat == 1).all()
    state.values()["prompt.values"].grad = torch.ones_like(start)
    state.pass_gradient()
    assert (network.layers[-1].bias.grad == 3).all(), "one of each virtual token"


# A bank


def test_slots_are_numbered_once():
    bank = Bank([TaskState(), TaskState()])
    assert bank.slots == [0, 1] and bank.add(TaskState()) == 2
    bank.remove(0)
    bank.remove(2)
    assert bank.slots == [1] and bank.add(state := TaskState()) == 3
    assert bank.state(3) is state


def test_rows_of_one_slot_share_what_it_brings(load):
    """One set of keys and one update for all of them, not a copy for each row."""
    backbone = load("bert")
    bank = Bank(states_of(backbone))
    forward = bank.forward_pass([2, 2, 2], dtype=torch.float32)
    assert forward.prompts[2].keys.shape[0] == 1 and forward.behind == 2
    assert {update.down.dim() for update in forward.updates.values()} == {2}
    mixed = bank.forward_pass([2, 2, 0], dtype=torch.float32)
    assert mixed.prompts[2].keys.shape[0] == 3 and mixed.behind.tolist() == [2, 2, 5]
    assert {update.down.shape[0] for update in mixed.updates.values()} == {3}


def test_only_slots_in_use_cost_anything(load):
    backbone = load("bert")
    bank = Bank(states_of(backbone))
    forward = bank.forward_pass([0, 3, 0], dtype=torch.float32)
    assert forward.updates == {} and forward.virtual is None and forward.model is None
    assert {prompt.keys.shape[2] for prompt in forward.prompts.values()} == {5}
    assert bank.forward_pass([3, 3], dtype=torch.float32) == bank.forward_pass([], dtype=torch.float32)


@pytest.mark.parametrize("length", [1, 3])
def test_a_slot_alone_has_the_bits_that_it_has_in_a_bank(load, length):
    backbone = load("bert")
    batch = random_batch(backbone, *LENGTHS[:length])
    states = states_of(backbone)
    scorer = scorer_of(backbone, *states)
    for slot, state in enumerate(states):
        placed = replace(batch, rows=(replace(batch.rows[0], slot=slot),))
        assert torch.equal(scores_of(scorer, placed), scores_of(scorer_of(backbone, state), batch))
