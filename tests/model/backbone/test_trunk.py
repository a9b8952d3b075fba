from dataclasses import replace

import pytest
import torch
from common.backbones import HIDDEN, KINDS, LAYERS
from common.prompts import random_bank, random_batch, tagger_of
from torch import nn

from mpt.model.backbone.trunk_cache import trunk_states

LENGTHS = (9, 4, 1, 7)
PROMPT = 3


def kept(backbone, batch, depth, *, prompt_length=PROMPT):
    """A batch with the outputs of the lowest layers."""
    with torch.no_grad():
        states = trunk_states(backbone, batch, depth, prompt_length=prompt_length)
    return replace(batch, trunk_depth=depth, trunk_BSH=states)


def loss_and_gradients(tagger, batch):
    """Cross-entropy and the gradient of every trained tensor."""
    loss = nn.functional.cross_entropy(tagger("t", batch), batch.labels_M)
    return loss, dict(
        zip(
            [name for name, _ in tagger.named_parameters()],
            torch.autograd.grad(loss, list(tagger.parameters())),
            strict=True,
        )
    )


@pytest.mark.parametrize("depth", [1, 2])
@pytest.mark.parametrize("kind", KINDS)
def test_going_on_from_kept_outputs_is_the_same_computation(load, kind, depth):
    backbone = load(kind)
    tagger = tagger_of(backbone, random_bank(backbone, (PROMPT, tuple(range(depth, LAYERS)))))
    batch = random_batch(backbone, *LENGTHS)
    loss, gradients = loss_and_gradients(tagger, batch)
    kept_loss, kept_gradients = loss_and_gradients(tagger, kept(backbone, batch, depth))
    assert torch.equal(loss, kept_loss)
    for name, gradient in gradients.items():
        assert torch.equal(gradient, kept_gradients[name]), name
    assert gradients["bank.slots.0"].abs().sum() > 0


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "albert"])  # whose layers are one module
def test_the_lower_layers_do_not_run(load, kind):
    backbone = load(kind)
    tagger = tagger_of(backbone, random_bank(backbone, (PROMPT, (2,))))
    batch = kept(backbone, random_batch(backbone, *LENGTHS), 2)
    expected = tagger.word_states(batch)
    with torch.no_grad():
        for name, parameter in backbone.model.named_parameters():
            if any(f".{layer}." in f".{name}" for layer in (0, 1)):
                parameter.fill_(float("nan"))
    assert torch.equal(tagger.word_states(batch), expected)
    assert not bool(torch.isfinite(tagger.word_states(replace(batch, trunk_BSH=None))).all())


def test_capturing_runs_the_lower_layers_only(load):
    backbone = load("bert")
    batch = random_batch(backbone, *LENGTHS)
    before = kept(backbone, batch, 1).trunk_BSH
    with torch.no_grad():
        for name, parameter in backbone.model.named_parameters():
            if ".layer.1." in name or ".layer.2." in name:
                parameter.fill_(float("nan"))
    assert torch.equal(kept(backbone, batch, 1).trunk_BSH, before)


def test_positions_may_be_shifted(load):
    backbone = load("bert", shifted=True, prompt_length=PROMPT)
    tagger = tagger_of(backbone, random_bank(backbone, (PROMPT, (1, 2))))
    batch = random_batch(backbone, *LENGTHS)
    assert torch.equal(tagger.word_states(kept(backbone, batch, 1)), tagger.word_states(batch))
    other = kept(backbone, batch, 1, prompt_length=PROMPT + 1)
    assert not torch.allclose(tagger.word_states(other), tagger.word_states(batch))


def test_gradients_are_the_same_with_checkpointed_layers(load):
    plain, recomputing = load("bert"), load("bert", gradient_checkpointing=True)
    results = []
    for backbone in (plain, recomputing):
        tagger = tagger_of(backbone, random_bank(backbone, (PROMPT, (1, 2))))
        batch = kept(backbone, random_batch(backbone, *LENGTHS), 1)
        results.append(loss_and_gradients(tagger, batch)[1]["bank.slots.0"])
    torch.testing.assert_close(*results)


def test_nothing_is_left_for_the_next_forward_pass(load):
    backbone = load("bert")
    tagger = tagger_of(backbone, random_bank(backbone, (PROMPT, (1, 2))))
    small, large = random_batch(backbone, 4), random_batch(backbone, *LENGTHS)
    tagger.word_states(kept(backbone, small, 1))
    assert backbone.trunk.states is None
    with torch.no_grad():
        assert backbone.model(input_ids=large.input_ids_BS).last_hidden_state.shape == (4, 9, HIDDEN)


def test_a_prompt_below_kept_outputs_is_a_mistake(load):
    backbone = load("bert")
    batch = kept(backbone, random_batch(backbone, *LENGTHS), 2)
    with pytest.raises(AssertionError, match="prompts below kept outputs"):
        tagger_of(backbone, random_bank(backbone, (PROMPT, (1, 2)))).word_states(batch)
