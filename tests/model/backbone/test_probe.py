import pytest
import torch
from common.backbones import KINDS
from common.prompts import random_batch, scorer_of, states_by_row

from mpt.base.errors import BackboneError
from mpt.model.backbone import probe as probing
from mpt.model.backbone.forward import BARE, LayerPrompt, Running
from mpt.model.backbone.probe import probe


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
        hears = Running.prompt.fget
        monkeypatch.setattr(Running, "prompt", property(lambda self: None if self.layer in deaf else hears(self)))

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
    pass_of = probing.ForwardPass

    def detached(prompts, **more):
        cut_off = {n: LayerPrompt(keys=prompts[n].keys.detach(), values=prompts[n].values.detach()) for n in cut}
        return pass_of(prompts={**prompts, **cut_off}, **more)

    monkeypatch.setattr(probing, "ForwardPass", detached)
    with pytest.raises(BackboneError, match=rf"cannot be prompted: no gradient reaches prompts of layers {named}\."):
        probe(load("bert"))


def test_the_probe_leaves_the_backbone_as_it_was(load):
    backbone = load("roberta")
    batch = random_batch(backbone, 9, 4)
    before = states_by_row(scorer_of(backbone), batch)
    state = torch.get_rng_state()
    probe(backbone)
    assert torch.equal(torch.get_rng_state(), state)
    assert backbone.running.forward is BARE
    assert all(parameter.grad is None for parameter in backbone.model.parameters())
    after = backbone.model(input_ids=batch.input_ids_BS, attention_mask=batch.attention_mask_BS).last_hidden_state
    assert torch.equal(after.flatten(0, 1)[batch.words_M], torch.cat(before))


def test_a_failed_probe_leaves_no_prompts_behind(load, ignore_prompts):
    ignore_prompts(0)
    backbone = load("bert")
    with pytest.raises(BackboneError):
        probe(backbone)
    assert backbone.running.forward is BARE
