"""What a pass is told, where modules find it, and that a pass leaves nothing behind."""

import threading
from dataclasses import FrozenInstanceError, replace

import pytest
import torch
from common.prompts import random_batch, random_low_rank, random_prompt, random_states, scorer_of
from torch import nn

from mpt.model.backbone.dropout import DropoutStreams
from mpt.model.backbone.forward import BARE, ForwardPass, LayerPrompt, LinearUpdate, Running, running_of, tie
from mpt.model.state.bank import Bank, TaskState

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("made", "field"),
    [
        (BARE, "prompts"),
        (LayerPrompt(keys=torch.zeros(1, 1, 1, 1), values=torch.zeros(1, 1, 1, 1)), "keys"),
        (LinearUpdate(down=torch.zeros(1, 1), up=torch.zeros(1, 1)), "down"),
    ],
)
def test_a_pass_cannot_be_changed(made, field):
    with pytest.raises(FrozenInstanceError):
        setattr(made, field, None)


def test_a_pass_is_what_it_is_told_and_nothing_is_kept(load):
    """No state is set on a backbone beforehand: the same call gives the same, whatever ran before."""
    backbone = load("bert")
    batch = random_batch(backbone, 9, 4)
    state = TaskState([random_prompt(backbone, 3), random_low_rank(backbone, 2)])
    forward = Bank([state]).forward_pass([0], dtype=backbone.dtype)
    with torch.no_grad():
        bare, found = backbone(batch), backbone(batch, forward)
        assert backbone.running.forward is BARE and backbone.running.prompt is None
        assert torch.equal(backbone(batch), bare) and torch.equal(backbone(batch, forward), found)
        assert torch.equal(backbone(batch, ForwardPass()), bare)
        for part in (replace(BARE, prompts=forward.prompts), replace(BARE, updates=forward.updates)):
            assert not torch.allclose(backbone(batch, part), bare)
            assert not torch.allclose(backbone(batch, part), found)


@pytest.mark.parametrize("recompute", [False, True])
def test_a_pass_with_its_gradient_leaves_nothing_behind(load, recompute):
    backbone = load("bert", gradient_checkpointing=recompute)
    scorer = scorer_of(backbone, *random_states(backbone, 3))
    scorer.word_states(random_batch(backbone, 9, 4)).square().sum().backward()
    assert backbone.running.forward is BARE


def test_threads_do_not_share_a_pass():
    running, seen = Running(), []
    mine = ForwardPass(behind=3)
    running.enter(mine, 1, CPU)
    running.called = 2
    thread = threading.Thread(target=lambda: seen.extend([running.forward, running.layer, running.called]))
    thread.start()
    thread.join()
    assert seen == [BARE, -1, 0] and (running.forward, running.layer, running.called) == (mine, 1, 2)


def test_the_prompt_is_that_of_the_layer_that_is_computed():
    running = Running()
    prompt = LayerPrompt(keys=torch.zeros(1, 1, 1, 1), values=torch.zeros(1, 1, 1, 1))
    running.begin(ForwardPass(prompts={1: prompt}), CPU)
    assert running.prompt is None
    for layer, expected in ((0, None), (1, prompt), (2, None)):
        running.enter(running.forward, layer, CPU)
        assert running.prompt is expected


def test_modules_find_the_pass_of_their_own_model():
    one, other = nn.Sequential(nn.Linear(2, 2)), nn.Sequential(nn.Linear(2, 2))
    runs = Running(), Running()
    for model, running in zip((one, other), runs, strict=True):
        tie(model, running)
    assert running_of(one[0]) is running_of(one) is runs[0] and running_of(other[0]) is runs[1]


def test_dropout_modules_draw_from_the_stream_of_their_layer():
    model, running = nn.Sequential(nn.Dropout(0.9)), Running()
    tie(model, running)
    values = torch.ones(1000)
    assert torch.equal(model(values), values), "off outside of training"
    forward = ForwardPass(dropout=DropoutStreams(rate=0.25, seeds=(1, 2, 3)))
    found = []
    for layer in (-1, 0, 1, 0):
        running.enter(forward, layer, CPU)
        found += [model(values), model(values)]
    assert found[0].unique().tolist() == [0.0, pytest.approx(4 / 3)] and running.asked == 9
    before, _, first, second, other, _, again, too = found
    assert torch.equal(first, again) and torch.equal(second, too), "a layer begins its stream anew"
    assert len({tuple(it.tolist()) for it in (before, first, second, other)}) == 4


def test_a_layer_is_called_with_everything_that_the_pass_has(load):
    """Also by `observe`, in the order of the layers."""
    backbone = load("llama")
    seen = []
    forward = ForwardPass(observe=lambda module, keys, values: seen.append((keys.shape, backbone.running.layer)))
    backbone(random_batch(backbone, 9, 4), forward)
    assert seen == [((2, 2, 9, 8), layer) for layer in range(3)]


def test_the_text_starts_behind_each_rows_own_prompt(load):
    backbone = load("bert", shifted=True, prompt_length=5)
    given = []
    handle = backbone.model.register_forward_pre_hook(lambda _, args, inputs: given.append(inputs), with_kwargs=True)
    batch = random_batch(backbone, 3, 2)
    for behind in (0, 5, torch.tensor([1, 4])):
        backbone(batch, ForwardPass(behind=behind))
    handle.remove()
    assert [inputs["position_ids"].tolist() for inputs in given] == [
        [[0, 1, 2]] * 2,
        [[5, 6, 7]] * 2,
        [[1, 2, 3], [4, 5, 6]],
    ]
