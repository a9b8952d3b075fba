"""Low-rank updates merged into a copy of the backbone when a model is opened for use."""

import pytest
import torch
from common.backbones import KINDS
from common.prompts import in_slots, random_batch, random_low_rank, random_prompt, scorer_of, scores_of
from torch import nn

from mpt.base.errors import MptError
from mpt.model.state.bank import Bank, TaskState
from mpt.model.state.merged import merged_state
from mpt.model.state.weights import Weights


def scored(backbone, state, batch):
    with torch.no_grad():
        return scores_of(scorer_of(backbone, state), batch)


def bits(backbone):
    return {name: value.clone() for name, value in backbone.model.named_parameters()}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("prompted", [False, True])
def test_scores_are_those_of_the_updates(load, kind, prompted):
    backbone = load(kind)
    parts = [random_prompt(backbone, 5), random_low_rank(backbone, 3)][not prompted :]
    before, batch, state = bits(backbone), random_batch(backbone, 7, 4), TaskState(parts)
    expected = scored(backbone, state, batch)
    merged = merged_state(state, backbone)
    torch.testing.assert_close(scored(backbone, merged, batch), expected, atol=1e-5, rtol=1e-4)
    assert (scored(backbone, TaskState(parts[:-1]), batch) - expected).abs().max() > 0.01
    assert all(torch.equal(value, before[name]) for name, value in backbone.model.named_parameters()), "left as it was"


def test_scores_in_bfloat16_are_as_close_as_it_keeps_them(load):
    backbone = load("bert", dtype="bfloat16")
    state, batch = TaskState([random_low_rank(backbone, 3)]), random_batch(backbone, 7, 4)
    expected, merged = scored(backbone, state, batch), scored(backbone, merged_state(state, backbone), batch)
    exact = scored(load("bert"), state, batch)
    assert (merged - exact).abs().max() < 2 * (expected - exact).abs().max() < 0.05


def test_no_updates_are_left_and_only_updated_weights_are_copied(load):
    backbone = load("bert")
    state = TaskState([random_prompt(backbone, 5), random_low_rank(backbone, 3, targets="attention", layers=[1])])
    merged = merged_state(state, backbone)
    forward = Bank([merged]).forward_pass([0, 0], dtype=backbone.dtype)
    own, copies = (dict(model.named_parameters()) for model in (backbone.model, forward.model))
    changed = {name for name in own if copies[name] is not own[name]}
    assert changed == {f"{name}.weight" for name in state.parts["low_rank"].names} and len(changed) == 4
    assert not forward.updates and list(merged.parts) == ["prompt", "weights"]
    assert merged.parts["prompt"] is state.parts["prompt"]
    assert not any(isinstance(module, nn.Linear) for module in merged.modules()), "the copy is no part of the state"


def test_there_is_nothing_to_train_or_save_of_it(load):
    backbone = load("bert")
    scorer = scorer_of(backbone, merged_state(TaskState([random_low_rank(backbone, 3)]), backbone))
    assert scorer.state.values() == {} and scorer.state.groups() == []
    with pytest.raises(NotImplementedError):
        _ = scorer.state.specs


def test_its_rows_do_not_meet_those_of_others(load):
    backbone = load("bert")
    states = [TaskState([random_low_rank(backbone, 3)]) for _ in range(2)]
    scorer = scorer_of(backbone, merged_state(states[0], backbone), states[1])
    with pytest.raises(MptError, match="has weights, which all rows of a batch share"):
        scorer(in_slots(random_batch(backbone, 7, 4), [0, 1]))


def test_what_has_no_updates_or_a_copy_already_is_left_alone(load):
    backbone = load("bert")
    prompt, low_rank, weights = random_prompt(backbone, 5), random_low_rank(backbone, 3), Weights(backbone)
    for parts in ([], [prompt], [weights], [low_rank, weights]):
        state = TaskState(parts)
        assert merged_state(state, backbone) is state
