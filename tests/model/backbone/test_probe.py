import pytest
import torch
from common.backbones import KINDS
from common.prompts import random_batch, states_by_row, tagger_of

from mpt.base.errors import BackboneError
from mpt.model.backbone import attention as injection
from mpt.model.backbone import stack
from mpt.model.backbone.probe import probe
from mpt.model.state import bank


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("kind", KINDS)
def test_supported_backbones_listen(load, kind, dtype):
    probe(load(kind, dtype=dtype))


@pytest.mark.parametrize("options", [{"gradient_checkpointing": True}, {"shifted": True, "prompt_length": 8}])
@pytest.mark.parametrize("kind", KINDS)
def test_they_listen_in_every_mode(load, kind, options):
    probe(load(kind, **options))


@pytest.fixture
def ignore_prompts(monkeypatch):
    """Makes layers drop their prompt and say nothing, as some models do with past keys and values."""

    def ignore(*deaf):
        run = stack._Layer._with_prompt

        def sometimes(self, prompt, *args, **kwargs):
            number = self.injection.called - 1
            return run(self, None if number in deaf else prompt, *args, **kwargs)

        monkeypatch.setattr(stack._Layer, "_with_prompt", sometimes)

    return ignore


@pytest.mark.parametrize("kind", ["bert", "albert", "deberta-v3", "llama"])
@pytest.mark.parametrize(("deaf", "named"), [((1,), "1"), ((0, 2), "0, 2"), ((0, 1, 2), "0, 1, 2")])
def test_layers_that_ignore_their_prompt_are_named(load, ignore_prompts, kind, deaf, named):
    ignore_prompts(*deaf)
    backbone = load(kind)
    with pytest.raises(BackboneError) as caught:
        probe(backbone)
    message = str(caught.value)
    assert f"the output ignores prompts of layers {named} and no gradient reaches prompts of layers {named}." in message
    assert backbone.identity.reference in message and "Use another backbone" in message


@pytest.mark.parametrize(("cut", "named"), [((2,), "2"), ((0, 1), "0, 1")])
def test_layers_whose_prompt_receives_no_gradient_are_named(load, monkeypatch, cut, named):
    layer_prompts = bank.PromptBank.layer_prompts

    def detached(self, *args):
        prompts = layer_prompts(self, *args)
        return [
            injection.LayerPrompt(keys=p.keys.detach(), values=p.values.detach(), mask=p.mask) if layer in cut else p
            for layer, p in enumerate(prompts)
        ]

    monkeypatch.setattr(bank.PromptBank, "layer_prompts", detached)
    with pytest.raises(BackboneError, match=rf"cannot be prompted: no gradient reaches prompts of layers {named}\."):
        probe(load("bert"))


def test_the_probe_leaves_the_backbone_as_it_was(load):
    backbone = load("roberta")
    batch = random_batch(backbone, 9, 4)
    before = states_by_row(tagger_of(backbone, None), batch)
    state = torch.get_rng_state()
    probe(backbone)
    assert torch.equal(torch.get_rng_state(), state)
    assert backbone.injection.prompts == [None] * 3 and backbone.injection.captured is None
    assert all(parameter.grad is None for parameter in backbone.model.parameters())
    after = backbone.model(input_ids=batch.input_ids_BS, attention_mask=batch.attention_mask_BS).last_hidden_state
    assert torch.equal(after.flatten(0, 1)[batch.words_M], torch.cat(before))


def test_a_failed_probe_leaves_no_prompts_behind(load, ignore_prompts):
    ignore_prompts(0)
    backbone = load("bert")
    with pytest.raises(BackboneError):
        probe(backbone)
    assert backbone.injection.prompts == [None] * 3
