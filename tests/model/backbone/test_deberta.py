from functools import wraps

import pytest
import torch
from common.backbones import tiny_backbone
from common.prompts import random_batch, random_states, rows_of, scorer_of, states_by_row
from transformers import AutoModel

from mpt.base.errors import BackboneError
from mpt.model.backbone.backbone import load_backbone

DEBERTAS = ("deberta", "deberta-v2", "deberta-v3")
VARIANTS = (
    {"relative_attention": False},
    {"pos_att_type": ["c2p"]},
    {"pos_att_type": ["p2c"]},
    {"position_biased_input": True},
    {"type_vocab_size": 2},
    {"embedding_size": 16},
)


@pytest.mark.parametrize("changes", VARIANTS, ids=str)
@pytest.mark.parametrize("kind", DEBERTAS)
def test_without_a_prompt_every_variant_is_the_stock_model(tmp_path, kind, changes):
    folder = tiny_backbone(tmp_path, kind, **changes)
    backbone = load_backbone(str(folder), dtype="float32")
    batch = random_batch(backbone, 40, 9, 1)
    with torch.no_grad():
        hidden = (
            AutoModel.from_pretrained(folder, dtype=torch.float32)
            .eval()(batch.input_ids_BS, attention_mask=batch.attention_mask_BS.long())
            .last_hidden_state
        )
    found = torch.cat(states_by_row(scorer_of(backbone), batch))
    torch.testing.assert_close(found, hidden.flatten(0, 1)[batch.words_M], atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("kind", DEBERTAS)
def test_moving_the_text_moves_nothing(load, kind):
    """Positions are relative, and a virtual token has none: only then may a prompt be shifted at no cost."""
    states = []
    for options in ({}, {"shifted": True, "prompt_length": 5}):
        backbone = load(kind, **options)
        batch = random_batch(backbone, 23, 9)
        states.append(torch.cat(states_by_row(scorer_of(backbone, *random_states(backbone, 5)), batch)))
    assert torch.equal(*states)


@pytest.mark.parametrize("kind", DEBERTAS)
def test_texts_beyond_the_farthest_distance(load, kind):
    """Alone as in company: distances are counted from the text's own pieces."""
    backbone = load(kind)
    scorer, batch = scorer_of(backbone, *random_states(backbone, 5)), random_batch(backbone, 60, 3)
    for row, states in enumerate(states_by_row(scorer, batch)):
        alone = states_by_row(scorer, rows_of(batch, row))[0]
        torch.testing.assert_close(states, alone, atol=2e-5, rtol=1e-4)


# Another version of transformers


def attention_class(tiny_folder, kind):
    model = AutoModel.from_pretrained(tiny_folder(kind))
    return type(model.encoder.layer[0].attention.self)


@pytest.mark.parametrize("kind", DEBERTAS)
def test_attention_with_other_arguments_is_refused(load, tiny_folder, monkeypatch, kind):
    def other(self, hidden_states, attention_mask, positions=None):
        raise AssertionError("is not reached")

    monkeypatch.setattr(attention_class(tiny_folder, kind), "forward", other)
    with pytest.raises(BackboneError, match=r"in another way than mpt's adapter .*its attention takes other arguments"):
        load(kind)


@pytest.mark.parametrize("kind", DEBERTAS)
def test_attention_without_the_scores_of_positions_is_refused(load, tiny_folder, monkeypatch, kind):
    name = "disentangled_att_bias" if kind == "deberta" else "disentangled_attention_bias"
    monkeypatch.delattr(attention_class(tiny_folder, kind), name)
    with pytest.raises(BackboneError, match="in another way than mpt's adapter was written for"):
        load(kind)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("kind", DEBERTAS)
def test_attention_with_other_scores_is_refused(load, tiny_folder, monkeypatch, kind, dtype):
    found = attention_class(tiny_folder, kind)
    forward = found.forward

    @wraps(forward)
    def louder(self, *args, **kwargs):
        states, weights = forward(self, *args, **kwargs)
        return 1.5 * states, weights

    monkeypatch.setattr(found, "forward", louder)
    with pytest.raises(BackboneError, match=r"without a prompt, states differ by \d+% of their norm"):
        load(kind, dtype=dtype)


def test_heads_that_are_mixed_are_refused(tmp_path):
    folder = tiny_backbone(tmp_path, "deberta", talking_head=True)
    with pytest.raises(BackboneError, match=r"mixes the scores of its heads \(talking_head\)"):
        load_backbone(str(folder))
