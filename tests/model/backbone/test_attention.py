import inspect
from dataclasses import replace

import pytest
import torch
from common.backbones import KINDS
from common.prompts import random_batch, random_states, rows_of, scorer_of, states_by_row
from torch.nn import functional
from transformers import AutoModel, DynamicCache

from mpt.base.errors import BackboneError
from mpt.model.backbone import attention as injection
from mpt.model.backbone.attention import matmul_attention, prompted_attention, sdpa_attention
from mpt.model.backbone.forward import BARE, LayerPrompt, Running, tie

CACHED = ("bert", "roberta", "xlm-roberta", "electra", "glm", "llama", "qwen2", "qwen3", "gpt2")
"""Kinds whose stock code takes prompts as past keys and values, at positions before the text's."""
REGISTRY = tuple(kind for kind in KINDS if not kind.startswith("deberta"))
"""Kinds whose stock code calls torch's attention kernel; test_exactness.py has the others too."""

LENGTHS = (23, 9, 1, 14)
PROMPT = 5


def stock(folder):
    """The model as transformers runs it, without anything of mpt."""
    return AutoModel.from_pretrained(folder, dtype=torch.float32).eval()


def keys_and_values(state, rows):
    """By layer: (keys, values) of the prompt for all rows, or None."""
    prompt = state.parts["prompt"]
    found = [None] * prompt.shape.num_layers
    for number, layer in enumerate(prompt.shape.layers):
        found[layer] = tuple(part.detach().expand(rows, -1, -1, -1) for part in prompt.flat[number])
    return found


def close(actual, expected, tolerance=2e-5):
    torch.testing.assert_close(actual, expected, atol=tolerance, rtol=1e-4)


# The same as what others compute


@pytest.mark.parametrize("kind", CACHED)
def test_shifted_equals_past_keys_and_values(load, tiny_folder, kind):
    """What the reference implementation and PEFT do: a cache of P positions before the text."""
    backbone = load(kind, shifted=True, prompt_length=PROMPT)
    (state,), batch = random_states(backbone, PROMPT), random_batch(backbone, *LENGTHS)
    rows, columns = batch.input_ids_BS.shape
    first = 2 if "roberta" in kind else 0  # RoBERTa's positions start behind its padding index
    cache = DynamicCache()
    for layer, (keys, values) in enumerate(keys_and_values(state, rows)):
        cache.update(keys, values, layer)
    model = stock(tiny_folder(kind))
    name = "cache" if "cache" in inspect.signature(model.forward).parameters else "past_key_values"  # before 5.24
    with torch.no_grad():
        hidden = model(
            input_ids=batch.input_ids_BS,
            attention_mask=torch.cat([torch.ones(rows, PROMPT, dtype=torch.long), batch.attention_mask_BS], dim=1),
            position_ids=(first + PROMPT + torch.arange(columns)).expand(rows, -1),
            **{name: cache},
        ).last_hidden_state
    states = torch.cat(states_by_row(scorer_of(backbone, state), batch))
    close(states, hidden.flatten(0, 1)[batch.words_M])
    unshifted = torch.cat(states_by_row(scorer_of(load(kind), state), batch))
    assert (states - unshifted).abs().max() > 0.01  # positions matter


def hooked_states(monkeypatch, folder, prompts, batch, causal):
    """The stock model with a prompt put before the keys and values that reach torch's attention kernel."""
    kernel, calls = functional.scaled_dot_product_attention, []
    columns = batch.input_ids_BS.shape[1]

    def hooked(query, key, value, attn_mask=None, dropout_p=0.0, is_causal=False, scale=None, enable_gqa=False):
        prompt = prompts[len(calls)]
        calls.append(prompt)
        look = torch.ones(len(query), 1, columns, columns, dtype=torch.bool)
        look = look.tril() if is_causal else look if attn_mask is None else attn_mask.expand(-1, 1, columns, columns)
        if prompt is not None:
            keys, values = (part.repeat_interleave(query.shape[1] // part.shape[1], dim=1) for part in prompt)
            key = key.repeat_interleave(query.shape[1] // key.shape[1], dim=1)
            value = value.repeat_interleave(query.shape[1] // value.shape[1], dim=1)
            key, value = torch.cat([keys, key], dim=2), torch.cat([values, value], dim=2)
            look = functional.pad(look, (keys.shape[2], 0), value=True)
        return kernel(query, key, value, attn_mask=look, scale=scale, enable_gqa=enable_gqa)

    monkeypatch.setattr(functional, "scaled_dot_product_attention", hooked)
    with torch.no_grad():
        hidden = stock(folder)(input_ids=batch.input_ids_BS, attention_mask=batch.attention_mask_BS).last_hidden_state
    monkeypatch.undo()
    assert len(calls) == len(prompts)
    return hidden.flatten(0, 1)[batch.words_M]


@pytest.mark.parametrize("layers", [(0, 1, 2), (1,), (1, 2)])
@pytest.mark.parametrize("lengths", [LENGTHS, (11, 11)])
@pytest.mark.parametrize("kind", REGISTRY)
def test_unshifted_equals_keys_and_values_before_the_texts(load, tiny_folder, monkeypatch, kind, lengths, layers):
    backbone = load(kind)
    (state,), batch = random_states(backbone, (PROMPT, layers)), random_batch(backbone, *lengths)
    prompts = keys_and_values(state, len(lengths))
    expected = hooked_states(monkeypatch, tiny_folder(kind), prompts, batch, backbone.word_pieces.last_piece)
    close(torch.cat(states_by_row(scorer_of(backbone, state), batch)), expected)


@pytest.mark.parametrize("kind", KINDS)
def test_without_a_prompt_it_is_the_stock_model(load, tiny_folder, kind):
    backbone = load(kind)
    batch = random_batch(backbone, *LENGTHS)
    with torch.no_grad():
        mask = batch.attention_mask_BS.long()  # DeBERTa-v2's own convolution takes no bool
        hidden = stock(tiny_folder(kind))(input_ids=batch.input_ids_BS, attention_mask=mask).last_hidden_state
    close(torch.cat(states_by_row(scorer_of(backbone), batch)), hidden.flatten(0, 1)[batch.words_M])


@pytest.mark.parametrize("kind", KINDS)
def test_a_slot_without_prompted_layers_is_the_bare_backbone_exactly(load, kind):
    backbone = load(kind)
    batch = random_batch(backbone, *LENGTHS)
    bare = torch.cat(states_by_row(scorer_of(backbone), batch))
    nothing = random_states(backbone, (PROMPT, ()))
    assert torch.equal(torch.cat(states_by_row(scorer_of(backbone, *nothing), batch)), bare)
    prompted = torch.cat(states_by_row(scorer_of(backbone, *random_states(backbone, PROMPT)), batch))
    assert (prompted - bare).abs().max() > 0.05


# The attention function


def attention_inputs(heads=4, groups=2, rows=3, columns=7, seed=0):
    generator = torch.Generator().manual_seed(seed)
    query = torch.randn(rows, heads, columns, 8, generator=generator, requires_grad=True)
    keys, values = (torch.randn(rows, groups, columns, 8, generator=generator, requires_grad=True) for _ in range(2))
    return query, keys, values


def masks(rows, columns):
    padding = (torch.arange(columns) < torch.tensor([columns, columns - 3, 1])[:, None])[:, None, None, :]
    causal = torch.ones(columns, columns, dtype=torch.bool).tril()
    return {"none": None, "padding": padding, "causal and padding": causal & padding}


@pytest.mark.parametrize("mask", ["none", "padding", "causal and padding"])
def test_the_kernels_agree(mask):
    mask = masks(3, 7)[mask]
    results = []
    for kernel in (matmul_attention, sdpa_attention):
        inputs = attention_inputs(heads=2)
        out = kernel(*inputs, mask, 0.3)
        out.pow(2).sum().backward()
        results.append([out, *(tensor.grad for tensor in inputs)])
    for ours, theirs in zip(*results, strict=True):
        close(ours, theirs)


@pytest.mark.parametrize("kind", KINDS)
def test_the_kernels_agree_in_a_whole_model(load, monkeypatch, kind):
    backbone = load(kind)
    scorer = scorer_of(backbone, *random_states(backbone, PROMPT, (2, (1, 2))))
    batch, slots = random_batch(backbone, *LENGTHS), [0, 1, 1, 0]
    expected = states_by_row(scorer, batch, slots)
    calls = []
    monkeypatch.setattr(injection, "matmul_attention", lambda *args: calls.append(args) or sdpa_attention(*args))
    for ours, theirs in zip(states_by_row(scorer, batch, slots), expected, strict=True):
        close(ours, theirs)
    assert len(calls) == backbone.num_layers


def attend(inputs, prompt, mask=None, **more):
    """One layer's attention with a prompt, outside of any model."""
    module, running = torch.nn.Module(), Running()
    tie(module, running)
    running.enter(BARE if prompt is None else replace(BARE, prompts={0: prompt}), 0, torch.device("cpu"))
    return prompted_attention(module, *inputs, mask, **more)[0]


@pytest.mark.parametrize("mask", ["none", "padding", "causal and padding"])
def test_a_masked_virtual_token_has_exactly_no_effect(mask):
    inputs, mask = attention_inputs(), masks(3, 7)[mask]
    generator = torch.Generator().manual_seed(1)
    keys, values = (torch.randn(3, 2, 5, 8, generator=generator) for _ in range(2))
    seen = torch.arange(5) < torch.tensor([5, 2, 0])[:, None]
    results = []
    for noise in (0.0, 1.0, 1e4):
        junk = noise * torch.randn(3, 2, 5, 8, generator=generator)
        prompt = LayerPrompt(
            keys=torch.where(seen[:, None, :, None], keys, junk).requires_grad_(),
            values=torch.where(seen[:, None, :, None], values, -junk).requires_grad_(),
            mask=seen,
        )
        out = attend(inputs, prompt, mask)
        out.sin().sum().backward()
        results.append(out.detach())
        for part in (prompt.keys, prompt.values):
            assert (part.grad.movedim(2, 1)[~seen] == 0).all()
            assert (part.grad.movedim(2, 1)[seen] != 0).any()
    assert torch.equal(results[0], results[1]) and torch.equal(results[0], results[2])
    # Row by row, it is as if the masked ones were not there at all.
    for row, count in enumerate((5, 2, 0)):
        own = [tensor[row : row + 1] for tensor in inputs]
        prompt = LayerPrompt(keys=keys[row : row + 1, :, :count], values=values[row : row + 1, :, :count])
        close(results[0][row : row + 1], attend(own, prompt, None if mask is None else mask[row : row + 1]))


def test_one_prompt_serves_all_rows():
    inputs = attention_inputs()
    keys, values = torch.randn(1, 2, 4, 8), torch.randn(1, 2, 4, 8)
    shared = attend(inputs, LayerPrompt(keys=keys, values=values))
    own = attend(inputs, LayerPrompt(keys=keys.expand(3, -1, -1, -1), values=values.expand(3, -1, -1, -1)))
    assert torch.equal(shared, own)


def test_scores_are_scaled_by_the_size_of_a_head_unless_told():
    inputs = attention_inputs()
    assert torch.equal(attend(inputs, None), attend(inputs, None, scaling=8**-0.5))
    assert not torch.equal(attend(inputs, None), attend(inputs, None, scaling=1.0))


@pytest.mark.parametrize("variant", ["softcap", "s_aux", "position_bias"])
def test_variants_of_attention_are_refused(variant):
    with pytest.raises(BackboneError, match=variant):
        attend(attention_inputs(), None, **{variant: torch.ones(1)})
    attend(attention_inputs(), None, **{variant: None})


@pytest.mark.parametrize("kernel", [matmul_attention, sdpa_attention])
def test_queries_that_see_nothing_come_out_finite(kernel):
    inputs, mask = attention_inputs(heads=2), torch.ones(3, 1, 7, 7, dtype=torch.bool)
    mask[1, :, 4:] = False
    out = kernel(*inputs, mask, 0.3)
    out[:, :, :4].sum().backward()
    assert bool(torch.isfinite(out).all())
    assert all(bool(torch.isfinite(tensor.grad).all()) for tensor in inputs)


@pytest.mark.parametrize("layers", [(0, 1, 2), (2,), None])
@pytest.mark.parametrize("kind", KINDS)
def test_padding_may_be_longer_than_a_local_window(load, kind, layers):
    backbone = load(kind)
    states = () if layers is None else random_states(backbone, (PROMPT, layers))
    scorer, batch = scorer_of(backbone, *states), random_batch(backbone, 60, 3)
    for row, states in enumerate(states_by_row(scorer, batch)):
        close(states, states_by_row(scorer, rows_of(batch, row))[0])


def test_two_backbones_do_not_meet(load):
    one, other = load("bert"), load("bert")
    batch = random_batch(one, *LENGTHS)
    bare = torch.cat(states_by_row(scorer_of(other), batch))
    scorer_of(one, *random_states(one, PROMPT)).word_states(batch)
    with torch.no_grad():
        hidden = other.model(input_ids=batch.input_ids_BS, attention_mask=batch.attention_mask_BS).last_hidden_state
    assert torch.equal(hidden.flatten(0, 1)[batch.words_M], bare)


def test_stock_models_of_the_same_process_are_left_alone(load, tiny_folder):
    batch = random_batch(load("bert"), *LENGTHS)
    before = stock(tiny_folder("bert"))(input_ids=batch.input_ids_BS, attention_mask=batch.attention_mask_BS)
    backbone = load("bert")
    scorer_of(backbone, *random_states(backbone, PROMPT)).word_states(batch)
    after = stock(tiny_folder("bert"))(input_ids=batch.input_ids_BS, attention_mask=batch.attention_mask_BS)
    assert torch.equal(before.last_hidden_state, after.last_hidden_state)
