"""The fast path against a plain one: a sentence at a time, no padding, attention written out, stock model, float32."""

import math
from functools import partial

import pytest
import torch
from common.backbones import KINDS
from common.prompts import (
    in_slots,
    random_batch,
    random_low_rank,
    random_prompt,
    row_numbers,
    scorer_of,
    scores_of,
)
from torch.func import functional_call
from torch.nn import functional
from transformers import AutoModel
from transformers.models.deberta import modeling_deberta
from transformers.models.deberta_v2 import modeling_deberta_v2

from mpt.model.backbone import attention as injection
from mpt.model.backbone.attention import matmul_attention, sdpa_attention
from mpt.model.state.bank import TaskState

LENGTHS = (23, 9, 1, 14, 9)
ROWS = [1, 0, 2, 0, 1]
PARTS = {
    "prompts": ("P 3 0,1,2", "P 5 2", "P 4 0,1"),
    "a low-rank update": ("L 3 0,1,2",),
    "low-rank updates": ("L 2 0,2", "L 5 1,2", "L 1 0,1,2"),
    "all kinds": ("P 3 0,1 L 2 1,2", "", "L 4 0,1,2"),
}
"""States of different parts, lengths or ranks, and layers: P length layers, L rank layers."""
TOLERANCE = {torch.float32: 2e-5, torch.bfloat16: 6e-2}


def plain_attention(prompts, causal):
    """Attention of one row as the formula has it, a layer's prompt before its keys and values."""
    layers = iter(prompts)

    def attend(query, key, value, attn_mask=None, dropout_p=0.0, is_causal=False, scale=None, enable_gqa=False):
        assert len(query) == 1
        look = torch.ones(query.shape[2], key.shape[2], dtype=torch.bool)
        look = look.tril() if is_causal else look if attn_mask is None else attn_mask[0, 0].expand_as(look)
        prompt = next(layers)
        if prompt is not None:
            own = prompt.repeat_interleave(key.shape[1] // prompt.shape[1], dim=1)[:, None]
            key, value = torch.cat([own[0], key], dim=2), torch.cat([own[1], value], dim=2)
            look = torch.cat([look.new_ones(len(look), prompt.shape[2]), look], dim=1)
        shared = query.shape[1] // key.shape[1]
        key, value = key.repeat_interleave(shared, dim=1), value.repeat_interleave(shared, dim=1)
        scores = torch.einsum("bnqd,bnkd->bnqk", query, key) * (query.shape[-1] ** -0.5 if scale is None else scale)
        weights = scores.exp() * look
        return torch.einsum("bnqk,bnkd->bnqd", weights / weights.sum(dim=-1, keepdim=True), value)

    return attend


def plain_deberta(prompts):
    """Disentangled attention of one row as the paper has it; a virtual token has content and no position."""
    layers = iter(prompts)

    def attend(module, hidden, mask, *args, relative_pos=None, rel_embeddings=None, **kwargs):
        assert len(hidden) == 1
        first, heads = hasattr(module, "in_proj"), module.num_attention_heads
        split = partial(torch.unflatten, dim=-1, sizes=(heads, -1))
        if first:
            query, key, value = split(module.in_proj(hidden[0])).chunk(3, dim=-1)
            query, value = query + split(module.q_bias), value + split(module.v_bias)
            own = (module.pos_proj, module.pos_q_proj)
        else:
            query, key, value = (
                split(project(hidden[0])) for project in (module.query_proj, module.key_proj, module.value_proj)
            )
            shared = module.share_att_key
            own = (module.key_proj, module.query_proj) if shared else (module.pos_key_proj, module.pos_query_proj)
        place_keys, place_queries = (split(project(rel_embeddings)) for project in own)
        places = torch.arange(len(query))
        distance = places[:, None] - places
        span = len(rel_embeddings) // 2
        if not first:
            distance = bucket(distance, span, module.max_relative_positions)
        place = (distance + span).clamp(0, 2 * span - 1)
        scores = torch.einsum("qnd,knd->nqk", query, key)
        scores = scores + torch.einsum("qnd,qknd->nqk", query, place_keys[place])
        scores = scores + torch.einsum("knd,qknd->nqk", key, place_queries[place])
        prompt = next(layers)
        if prompt is not None:
            scores = torch.cat([torch.einsum("qnd,npd->nqp", query, prompt[0]), scores], dim=2)
            value = torch.cat([prompt[1].transpose(0, 1), value])
        weights = (scores / math.sqrt(3 * query.shape[-1])).exp()
        mixed = torch.einsum("nqk,knd->qnd", weights / weights.sum(dim=-1, keepdim=True), value)
        return mixed.flatten(1)[None], None

    return attend


def bucket(distance, buckets, longest):
    """Near distances each for themselves, far ones in buckets whose width grows."""
    middle = buckets // 2
    far = (distance.abs().clamp(min=middle) / middle).log() / math.log((longest - 1) / middle) * (middle - 1)
    return torch.where(distance.abs() <= middle, distance, (far.ceil().long() + middle) * distance.sign())


def patch(monkeypatch, kind, prompts, causal):
    """Have the stock model attend in the plain way."""
    if kind.startswith("deberta"):
        module = modeling_deberta if kind == "deberta" else modeling_deberta_v2
        monkeypatch.setattr(module.DisentangledSelfAttention, "forward", plain_deberta(prompts))
    else:
        monkeypatch.setattr(functional, "scaled_dot_product_attention", plain_attention(prompts, causal))


def prompts_of(state, num_layers):
    """By layer: keys and values of a state, or None."""
    if "prompt" not in state.parts:
        return [None] * num_layers
    part = state.parts["prompt"]
    by_layer = dict(zip(part.shape.layers, part.flat, strict=True))
    return [by_layer.get(layer) for layer in range(num_layers)]


def weights_of(state, stock):
    """Weights that a state's low-rank updates change, as the sums of both: W + B A alpha / r."""
    if "low_rank" not in state.parts:
        return {}
    part, weights, found = state.parts["low_rank"], dict(stock.named_parameters()), {}
    values = part.values()
    for name in part.names:
        update = values[f"{name}.lora_B.weight"] @ values[f"{name}.lora_A.weight"] * (part.alpha / part.rank)
        own = weights[f"{name}.weight"]
        turned = type(stock.get_submodule(name)).__name__ == "Conv1D"
        found[f"{name}.weight"] = own.detach() + (update.t() if turned else update)
    return found


def reference(monkeypatch, kind, folder, scorer, batch, slots):
    """Logits of all words, and the gradient of their summed loss in every state and in the head."""
    stock = AutoModel.from_pretrained(folder, dtype=torch.float32).eval()
    head, width = scorer.head("t"), batch.input_ids_BS.shape[1]
    causal, scores = scorer.backbone.word_pieces.last_piece, []
    for row, slot in enumerate(slots):
        state = scorer.bank.state(slot)
        text = batch.input_ids_BS[row : row + 1, : LENGTHS[row]]
        patch(monkeypatch, kind, prompts_of(state, scorer.backbone.num_layers), causal)
        hidden = functional_call(stock, weights_of(state, stock), (), {"input_ids": text}).last_hidden_state[0]
        monkeypatch.undo()
        scores.append(head(hidden[batch.words_M[row_numbers(batch) == row] % width], None))
    logits = torch.cat(scores)
    return logits, gradients(scorer, logits, batch)


def gradients(scorer, logits, batch):
    loss = functional.cross_entropy(logits, batch.labels_M, reduction="sum")
    return torch.autograd.grad(loss, list(scorer.parameters()))


def state_of(backbone, text, targets, seed):
    """A state as `PARTS` has it."""
    parts, words = [], iter(text.split())
    for kind, size, layers in zip(words, words, words, strict=True):
        chosen = tuple(map(int, layers.split(",")))
        if kind == "P":
            parts.append(random_prompt(backbone, int(size), chosen, seed=seed))
        elif backbone.identity.architecture == "AlbertModel":  # one module is every layer
            parts.append(random_low_rank(backbone, int(size), targets=targets, seed=seed))
        else:
            parts.append(random_low_rank(backbone, int(size), targets=targets, layers=chosen, seed=seed))
    return TaskState(parts)


def relative_error(actual, expected, floor=0.0):
    return float(((actual - expected).norm() / max(expected.norm(), floor)).detach())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize(
    ("parts", "kernel"),
    [
        ("prompts", matmul_attention),
        ("prompts", sdpa_attention),
        ("a low-rank update", matmul_attention),
        ("low-rank updates", matmul_attention),
        ("all kinds", sdpa_attention),
    ],
    ids=lambda value: value if isinstance(value, str) else value.__name__,
)
@pytest.mark.parametrize("kind", KINDS)
def test_logits_and_gradients_are_those_of_a_plain_computation(
    load, tiny_folder, monkeypatch, kind, parts, kernel, recompute, dtype
):
    """Padding, mixed lengths, mixed slots, every kernel, every way through the layers."""
    backbone = load(kind, dtype=str(dtype).removeprefix("torch."), gradient_checkpointing=recompute)
    slots = ROWS if len(PARTS[parts]) > 1 else [0] * len(ROWS)
    # DeBERTa's attention also projects positions, which are of no row.
    targets = "feed-forward" if kind.startswith("deberta") and len(PARTS[parts]) > 1 else "all"
    states = [state_of(backbone, text, targets, seed) for seed, text in enumerate(PARTS[parts])]
    scorer, batch = scorer_of(backbone, *states), in_slots(random_batch(backbone, *LENGTHS), slots)
    expected, expected_gradients = reference(monkeypatch, kind, tiny_folder(kind), scorer, batch, slots)
    monkeypatch.setattr(injection, "matmul_attention", kernel)
    logits = scores_of(scorer, batch)
    assert relative_error(logits, expected) < TOLERANCE[dtype]
    # The sums that a very small gradient is what remains of are rounded as all others are.
    floor = 0.05 * max(gradient.norm() for gradient in expected_gradients)
    for ours, theirs in zip(gradients(scorer, logits, batch), expected_gradients, strict=True):
        assert relative_error(ours, theirs, floor) < TOLERANCE[dtype]
