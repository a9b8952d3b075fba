from dataclasses import replace

import pytest
import torch

from mpt.base.seeding import torch_generator
from mpt.model.state.bank import PromptBank, PromptShape

SHAPE = PromptShape(num_layers=4, layers=(1, 3), num_heads=2, length=3, head_dim=5)


def prompt_of(shape, seed=0):
    return torch.randn(shape.tensor_shape, generator=torch.Generator().manual_seed(seed))


def bank_of(*shapes, dropout=0.0):
    return PromptBank([prompt_of(shape, seed) for seed, shape in enumerate(shapes)], shapes, dropout=dropout)


def test_shape():
    assert SHAPE.tensor_shape == (2, 2, 2, 3, 5)  # prompted layers, keys and values, heads, length, size of a head


def test_a_bank_owns_its_prompts_in_float32():
    given = prompt_of(SHAPE).to(torch.bfloat16)
    bank = PromptBank([given], [SHAPE])
    assert [name for name, _ in bank.named_parameters()] == ["slots.0"]
    assert bank.slots[0].dtype == torch.float32 and torch.equal(bank.slots[0], given.float())
    same = prompt_of(SHAPE)
    bank = PromptBank([same], [SHAPE])
    same.zero_()
    assert bank.slots[0].abs().max() > 0


@pytest.mark.parametrize("length", [2, 4])
def test_prompts_of_another_shape_are_refused(length):
    with pytest.raises(AssertionError):
        PromptBank([prompt_of(replace(SHAPE, length=length))], [SHAPE])


def test_slot_0_serves_all_rows_unless_told():
    bank = bank_of(SHAPE)
    prompts = bank.layer_prompts(torch.float32)
    assert [prompt is None for prompt in prompts] == [True, False, True, False]
    for number, layer in enumerate((1, 3)):
        assert prompts[layer].keys.shape == prompts[layer].values.shape == (1, 2, 3, 5)
        assert torch.equal(prompts[layer].keys[0], bank.slots[0][number, 0])
        assert torch.equal(prompts[layer].values[0], bank.slots[0][number, 1])
        assert prompts[layer].mask is None
    assert bank.lengths(None) == 3
    assert {prompt.keys.dtype for prompt in bank.layer_prompts(torch.bfloat16) if prompt} == {torch.bfloat16}


def test_slots_that_meet_are_padded_and_masked():
    shapes = (SHAPE, replace(SHAPE, length=1, layers=(1,)), replace(SHAPE, length=5, layers=(1, 2)))
    bank = bank_of(*shapes)
    rows = torch.tensor([1, 2, 0, 2])
    assert bank.lengths(rows).tolist() == [1, 5, 3, 5]
    prompts = bank.layer_prompts(torch.float32, rows)
    seen = {0: None, 1: [1, 5, 3, 5], 2: [0, 5, 0, 5], 3: [0, 0, 3, 0]}
    for layer, lengths in seen.items():
        if lengths is None:
            assert prompts[layer] is None
            continue
        assert prompts[layer].mask.sum(1).tolist() == lengths
        assert prompts[layer].keys.shape == (4, 2, max(lengths), 5)
        for row, (slot, length) in enumerate(zip(rows.tolist(), lengths, strict=True)):
            if length:
                own = bank.slots[slot][shapes[slot].layers.index(layer)]
                assert torch.equal(prompts[layer].keys[row, :, :length], own[0])
                assert torch.equal(prompts[layer].values[row, :, :length], own[1])
            assert not prompts[layer].keys[row, :, length:].any()


def test_only_slots_in_use_cost_anything():
    bank = bank_of(SHAPE, replace(SHAPE, length=50))
    prompts = bank.layer_prompts(torch.float32, torch.tensor([0, 0]))
    assert prompts[1].keys.shape == (2, 2, 3, 5) and prompts[1].mask is None
    prompts[1].keys.sum().backward()
    assert bank.slots[1].grad is None and bank.slots[0].grad[0, 0].eq(2).all()


@pytest.mark.parametrize("rows", [None, torch.tensor([0, 0, 0])])
def test_dropout_keeps_the_mean(rows):
    shape = replace(SHAPE, length=400, head_dim=20)
    bank = PromptBank([torch.ones(shape.tensor_shape)], [shape], dropout=0.25)
    (_, prompt, _, other) = bank.layer_prompts(torch.float32, rows, torch_generator(0, "dropout"))
    values = torch.stack([prompt.keys[0], prompt.values[0], other.keys[0], other.values[0]])
    assert values.unique().tolist() == [0.0, pytest.approx(4 / 3)]
    assert abs((values == 0).float().mean() - 0.25) < 0.01
    assert abs(values.mean() - 1) < 0.01


def test_dropout_is_off_without_a_stream():
    bank = bank_of(SHAPE, dropout=0.5)
    bank.train()
    assert torch.equal(bank.layer_prompts(torch.float32)[1].keys[0], bank.slots[0][0, 0])


def test_dropout_of_a_stream():
    bank = bank_of(SHAPE, SHAPE, dropout=0.5)

    def keys(*name, rows=None):
        return bank.layer_prompts(torch.float32, rows, torch_generator(*name))[1].keys

    assert torch.equal(keys(0, "a"), keys(0, "a")) and not torch.equal(keys(0, "a"), keys(0, "b"))
    one, other = keys(0, "a", rows=torch.tensor([0, 1])) == 0
    assert not torch.equal(one, other)  # every slot draws for itself
    first, second = keys(0, "a", rows=torch.tensor([1, 1]))
    assert torch.equal(first, second)  # but once for all of its rows
