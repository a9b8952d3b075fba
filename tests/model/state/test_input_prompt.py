"""Virtual tokens before the first layer, beside embeddings that stock models are given."""

from dataclasses import replace

import pytest
import torch
from common.backbones import HIDDEN, tiny_backbone
from common.plain import BATCH, IDS, MASK, assert_equal, gradients, plain_loss, plain_model, scorer_over

from mpt.base.seeding import torch_generator
from mpt.model.backbone.backbone import load_backbone
from mpt.model.backbone.forward import BARE, ForwardPass
from mpt.model.state.input_prompt import InputPrompt

LENGTH = 3


@pytest.mark.parametrize("kind", ["bert", "roberta", "albert", "electra", "gpt2", "deberta-v3"])
def test_an_input_prompt_is_input_embeddings(tmp_path, kind):
    folder = tiny_backbone(tmp_path / kind, kind)
    backbone = load_backbone(str(folder), dtype="float32", longest_window=48).behind(LENGTH)
    width = backbone.word_embeddings.weight.shape[1]
    virtual = torch.randn((LENGTH, width), generator=torch.Generator().manual_seed(0))
    scorer = scorer_over(backbone, InputPrompt(virtual))
    loss, (gradient,), head = gradients(scorer)
    model = plain_model(folder)
    embeddings = virtual.clone().requires_grad_()
    inputs = torch.cat([embeddings.expand(2, -1, -1), model.get_input_embeddings()(IDS)], dim=1)
    mask = torch.cat([torch.ones((2, LENGTH), dtype=torch.bool), MASK], dim=1)
    states = model(inputs_embeds=inputs, attention_mask=mask).last_hidden_state[:, LENGTH:]
    theirs, linear = plain_loss(scorer, states)
    theirs.backward()
    assert loss == pytest.approx(theirs.item(), abs=1e-5)
    assert_equal([gradient], [embeddings.grad])
    assert_equal(head, [linear.weight.grad, linear.bias.grad])


def test_an_unpadded_batch_and_segments_take_an_input_prompt(tmp_path):
    backbone = load_backbone(str(tiny_backbone(tmp_path / "bert", "bert")), dtype="float32", longest_window=48)
    virtual = torch.randn((1, LENGTH, HIDDEN), generator=torch.Generator().manual_seed(0))
    forward = ForwardPass(virtual=virtual)
    bare = replace(BATCH, input_ids_BS=IDS[:1], attention_mask_BS=None)
    first = replace(bare, segments_BS=torch.zeros_like(IDS[:1]))
    second = replace(bare, segments_BS=torch.ones_like(IDS[:1]))
    given, model = [], backbone.model
    handle = model.register_forward_pre_hook(lambda _, args, inputs: given.append(inputs), with_kwargs=True)
    with torch.no_grad():
        states = [backbone(batch, forward) for batch in (bare, first, second)]
    handle.remove()
    assert torch.equal(states[0], states[1])
    assert not torch.allclose(states[0], states[2])
    assert given[2]["token_type_ids"].tolist() == [[0] * LENGTH + [1] * 5]


def test_what_it_is_saved_as():
    part = InputPrompt(torch.ones((LENGTH, 4)))
    assert part.spec == {"length": LENGTH, "width": 4} and part.virtual_tokens == LENGTH
    assert list(part.values()) == ["embeddings"] and part.values()["embeddings"] is part.embeddings


def test_dropout_of_a_stream():
    part = InputPrompt(torch.ones((400, 20)), dropout=0.25)

    def virtual(*name):
        stream = torch_generator(*name) if name else None
        return InputPrompt.join([part], BARE, dtype=torch.float32, generator=stream).virtual

    assert torch.equal(virtual()[0], part.embeddings)
    assert virtual(0, "a").unique().tolist() == [0.0, pytest.approx(4 / 3)]
    assert torch.equal(virtual(0, "a"), virtual(0, "a")) and not torch.equal(virtual(0, "a"), virtual(0, "b"))
