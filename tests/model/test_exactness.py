"""The fast path against a plain one: a sentence at a time, no padding, attention written out, stock model, float32."""

import math
from dataclasses import replace
from functools import partial

import pytest
import torch
from common.backbones import KINDS
from common.prompts import random_bank, random_batch, tagger_of
from mpt.model.backbone.trunk_cache import trunk_states
from torch.nn import functional
from transformers import AutoModel
from transformers.models.deberta import modeling_deberta
from transformers.models.deberta_v2 import modeling_deberta_v2

from mpt.model.backbone import attention as injection
from mpt.model.backbone.attention import matmul_attention, sdpa_attention

LENGTHS = (23, 9, 1, 14, 9)
SLOTS = ((3, (1, 2)), (5, (2,)), (4, (1,)))
"""Different lengths and different prompted layers, all above the first."""
ROWS = [1, 0, 2, 0, 1]
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


def reference(monkeypatch, kind, folder, tagger, batch):
    """Logits of all words, and the gradient of their summed loss in every prompt and in the head."""
    stock = AutoModel.from_pretrained(folder, dtype=torch.float32).eval()
    bank, head, width = tagger.bank, tagger.head("t"), batch.input_ids_BS.shape[1]
    scores = []
    for row, slot in enumerate(ROWS):
        shape = bank.shapes[slot]
        by_layer = dict(zip(shape.layers, bank.slots[slot], strict=True))
        prompts = [by_layer.get(layer) for layer in range(shape.num_layers)]
        causal = tagger.backbone.word_pieces.last_piece
        patch(monkeypatch, kind, prompts, causal)
        hidden = stock(input_ids=batch.input_ids_BS[row : row + 1, : LENGTHS[row]]).last_hidden_state[0]
        monkeypatch.undo()
        scores.append(head(hidden[batch.words_M[batch.words_M // width == row] % width], None))
    logits = torch.cat(scores)
    return logits, gradients(tagger, logits, batch)


def gradients(tagger, logits, batch):
    loss = functional.cross_entropy(logits, batch.labels_M, reduction="sum")
    return torch.autograd.grad(loss, list(tagger.parameters()))


def relative_error(actual, expected):
    return float(((actual - expected).norm() / expected.norm()).detach())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("path", ["as it is", "kept trunk", "recomputed layers"])
@pytest.mark.parametrize("kernel", [matmul_attention, sdpa_attention], ids=lambda kernel: kernel.__name__)
@pytest.mark.parametrize("kind", KINDS)
def test_logits_and_gradients_are_those_of_a_plain_computation(
    load, tiny_folder, monkeypatch, kind, kernel, path, dtype
):
    """Padding, mixed lengths, mixed slots, every kernel, every way through the layers."""
    recompute = path == "recomputed layers"
    backbone = load(kind, dtype=str(dtype).removeprefix("torch."), gradient_checkpointing=recompute)
    tagger = tagger_of(backbone, random_bank(backbone, *SLOTS))
    batch, slots = random_batch(backbone, *LENGTHS), torch.tensor(ROWS)
    expected, expected_gradients = reference(monkeypatch, kind, tiny_folder(kind), tagger, batch)
    monkeypatch.setattr(injection, "matmul_attention", kernel)
    if path == "kept trunk":
        with torch.inference_mode():
            states = trunk_states(backbone, batch, 1, prompt_length=5)
        batch = replace(batch, trunk_depth=1, trunk_BSH=states.clone())
    logits = tagger("t", batch, slots_B=slots)
    assert relative_error(logits, expected) < TOLERANCE[dtype]
    for ours, theirs in zip(gradients(tagger, logits, batch), expected_gradients, strict=True):
        assert relative_error(ours, theirs) < TOLERANCE[dtype]
