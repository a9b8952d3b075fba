from dataclasses import replace

import pytest
import torch

from mpt.base.seeding import torch_generator
from mpt.model.backbone.forward import BARE
from mpt.model.state.prompt import Prompt, PromptShape

SHAPE = PromptShape(num_layers=4, layers=(1, 3), num_heads=2, length=3, head_dim=5)


def values_of(shape, seed=0):
    return torch.randn(shape.tensor_shape, generator=torch.Generator().manual_seed(seed))


def prompts_of(*shapes, dropout=0.0):
    return [Prompt(values_of(shape, seed), shape, dropout=dropout) for seed, shape in enumerate(shapes)]


def joined(*rows, dtype=torch.float32, generator=None):
    return Prompt.join(rows, BARE, dtype=dtype, generator=generator)


def test_shape():
    assert SHAPE.tensor_shape == (2, 2, 2, 3, 5)  # prompted layers, keys and values, heads, length, size of a head


def test_a_prompt_owns_its_values_in_float32():
    given = values_of(SHAPE).to(torch.bfloat16)
    prompt = Prompt(given, SHAPE)
    assert [name for name, _ in prompt.named_parameters()] == ["flat"]
    assert prompt.flat.dtype == torch.float32 and torch.equal(prompt.flat, given.float())
    assert prompt.values() == {"values": prompt.flat} and prompt.leaves() == [prompt.flat]
    same = values_of(SHAPE)
    prompt = Prompt(same, SHAPE)
    same.zero_()
    assert prompt.flat.abs().max() > 0


@pytest.mark.parametrize("length", [2, 4])
def test_values_of_another_shape_are_refused(length):
    with pytest.raises(AssertionError):
        Prompt(values_of(replace(SHAPE, length=length)), SHAPE)


def test_what_a_checkpoint_says_of_it_is_its_shape():
    (prompt,) = prompts_of(SHAPE)
    assert prompt.spec == {"num_layers": 4, "layers": [1, 3], "num_heads": 2, "length": 3, "head_dim": 5}
    assert PromptShape(**{**prompt.spec, "layers": tuple(prompt.spec["layers"])}) == SHAPE
    assert prompt.virtual_tokens == 3


def test_one_prompt_serves_all_rows():
    (prompt,) = prompts_of(SHAPE)
    found = joined(prompt)
    assert sorted(found.prompts) == [1, 3] and found.behind == 3
    for number, layer in enumerate((1, 3)):
        assert found.prompts[layer].keys.shape == found.prompts[layer].values.shape == (1, 2, 3, 5)
        assert torch.equal(found.prompts[layer].keys[0], prompt.flat[number, 0])
        assert torch.equal(found.prompts[layer].values[0], prompt.flat[number, 1])
        assert found.prompts[layer].mask is None
    assert {its.keys.dtype for its in joined(prompt, dtype=torch.bfloat16).prompts.values()} == {torch.bfloat16}


def test_what_other_parts_have_given_stays():
    (prompt,) = prompts_of(SHAPE)
    virtual = torch.zeros((1, 2, 3))
    found = Prompt.join([prompt], replace(BARE, virtual=virtual), dtype=torch.float32, generator=None)
    assert found.virtual is virtual and BARE.prompts == {}


def test_prompts_that_meet_are_padded_and_masked():
    shapes = (SHAPE, replace(SHAPE, length=1, layers=(1,)), replace(SHAPE, length=5, layers=(1, 2)))
    first, short, long = prompts_of(*shapes)
    rows = [short, long, first, None, long]
    found = joined(*rows)
    assert found.behind.tolist() == [1, 5, 3, 0, 5]
    seen = {1: [1, 5, 3, 0, 5], 2: [0, 5, 0, 0, 5], 3: [0, 0, 3, 0, 0]}
    assert sorted(found.prompts) == sorted(seen)
    for layer, lengths in seen.items():
        prompt = found.prompts[layer]
        assert prompt.mask.sum(1).tolist() == lengths
        assert prompt.keys.shape == (5, 2, max(lengths), 5)
        for row, (part, length) in enumerate(zip(rows, lengths, strict=True)):
            if length:
                own = part.flat[part.shape.layers.index(layer)]
                assert torch.equal(prompt.keys[row, :, :length], own[0])
                assert torch.equal(prompt.values[row, :, :length], own[1])
            assert not prompt.keys[row, :, length:].any()


def test_where_all_rows_have_the_same_length_nothing_is_masked():
    one, other = prompts_of(SHAPE, SHAPE)
    assert [prompt.mask for prompt in joined(one, other, one).prompts.values()] == [None, None]


def test_a_prompt_of_several_rows_receives_the_sum_of_their_gradients():
    one, other = prompts_of(SHAPE, replace(SHAPE, length=50))
    found = joined(one, one, other)
    assert found.prompts[1].keys.shape == (3, 2, 50, 5)
    found.prompts[1].keys[:2].sum().backward()
    assert one.flat.grad[0, 0].eq(2).all() and not one.flat.grad[1].any() and not other.flat.grad.any()


@pytest.mark.parametrize("rows", [1, 3])
def test_dropout_keeps_the_mean(rows):
    shape = replace(SHAPE, length=400, head_dim=20)
    part = Prompt(torch.ones(shape.tensor_shape), shape, dropout=0.25)
    found = joined(*[part] * rows, generator=torch_generator(0, "dropout")).prompts
    values = torch.stack([its[0] for prompt in found.values() for its in (prompt.keys, prompt.values)])
    assert values.unique().tolist() == [0.0, pytest.approx(4 / 3)]
    assert abs((values == 0).float().mean() - 0.25) < 0.01
    assert abs(values.mean() - 1) < 0.01


def test_dropout_is_off_without_a_stream():
    (prompt,) = prompts_of(SHAPE, dropout=0.5)
    prompt.train()
    assert torch.equal(joined(prompt).prompts[1].keys[0], prompt.flat[0, 0])


def test_dropout_of_a_stream():
    parts = prompts_of(SHAPE, SHAPE, dropout=0.5)

    def keys(*name, rows=(0,)):
        found = joined(*(parts[row] for row in rows), generator=torch_generator(*name))
        return found.prompts[1].keys

    assert torch.equal(keys(0, "a"), keys(0, "a")) and not torch.equal(keys(0, "a"), keys(0, "b"))
    one, other = keys(0, "a", rows=(0, 1)) == 0
    assert not torch.equal(one, other)  # every slot draws for itself
    first, second, _ = keys(0, "a", rows=(1, 1, 0))
    assert torch.equal(first, second)  # but once for all of its rows
