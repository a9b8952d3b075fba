"""The fast path against a plain one: a sentence at a time, no padding, attention written out, stock model, float32."""

from dataclasses import replace

import pytest
import torch
from common.backbones import KINDS
from common.prompts import random_bank, random_batch, tagger_of
from torch.nn import functional
from transformers import AutoModel

from mpt.model import injection
from mpt.model.injection import matmul_attention, sdpa_attention
from mpt.model.trunk_cache import trunk_states

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
            key, value = (torch.cat([own[None], text], dim=2) for own, text in zip(prompt, (key, value), strict=True))
            look = torch.cat([look.new_ones(len(look), prompt.shape[2]), look], dim=1)
        shared = query.shape[1] // key.shape[1]
        key, value = key.repeat_interleave(shared, dim=1), value.repeat_interleave(shared, dim=1)
        scores = torch.einsum("bnqd,bnkd->bnqk", query, key) * (query.shape[-1] ** -0.5 if scale is None else scale)
        weights = scores.exp() * look
        return torch.einsum("bnqk,bnkd->bnqd", weights / weights.sum(dim=-1, keepdim=True), value)

    return attend


def reference(monkeypatch, folder, tagger, batch):
    """Logits of all words, and the gradient of their summed loss in every prompt and in the head."""
    stock = AutoModel.from_pretrained(folder, attn_implementation="sdpa", dtype=torch.float32).eval()
    bank, head, width = tagger.bank, tagger.head("t"), batch.input_ids_BS.shape[1]
    scores = []
    for row, slot in enumerate(ROWS):
        shape = bank.shapes[slot]
        by_layer = dict(zip(shape.layers, bank.slots[slot], strict=True))
        prompts = [by_layer.get(layer) for layer in range(shape.num_layers)]
        causal = tagger.backbone.word_pieces.last_piece
        monkeypatch.setattr(functional, "scaled_dot_product_attention", plain_attention(prompts, causal))
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
    if recompute and kind == "distilbert":
        pytest.skip("transformers cannot recompute DistilBERT's layers")
    backbone = load(kind, dtype=str(dtype).removeprefix("torch."), gradient_checkpointing=recompute)
    tagger = tagger_of(backbone, random_bank(backbone, *SLOTS))
    batch, slots = random_batch(backbone, *LENGTHS), torch.tensor(ROWS)
    expected, expected_gradients = reference(monkeypatch, tiny_folder(kind), tagger, batch)
    monkeypatch.setattr(injection, "matmul_attention", kernel)
    if path == "kept trunk":
        with torch.inference_mode():
            states = trunk_states(backbone, batch, 1, prompt_length=5)
        batch = replace(batch, trunk_depth=1, trunk_BSH=states.clone())
    logits = tagger("t", batch, slots_B=slots)
    assert relative_error(logits, expected) < TOLERANCE[dtype]
    for ours, theirs in zip(gradients(tagger, logits, batch), expected_gradients, strict=True):
        assert relative_error(ours, theirs) < TOLERANCE[dtype]
