from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from common.backbones import ENCODERS, KINDS
from common.prompts import random_batch, random_states, scorer_of, scores_of
from torch import nn
from torch.nn import functional

from mpt.base.errors import BackboneError
from mpt.base.seeding import torch_generator
from mpt.model.backbone.dropout import DropoutStreams, dropout_streams, dropped
from mpt.model.backbone.forward import ForwardPass

LENGTHS = (9, 4, 9)
WITH_DROPOUT = (*ENCODERS, "gpt2")


def prompted(backbone, **options):
    """A scorer whose head and prompt drop nothing."""
    return scorer_of(backbone, *random_states(backbone, 5), **options)


def dropping(backbone, rate=0.3):
    return prompted(backbone, backbone_dropout=rate)


def scores(scorer, batch, *stream):
    with torch.no_grad():
        return scores_of(scorer, batch, torch_generator(*stream) if stream else None)


def gradient(scorer, batch, *stream):
    scorer.zero_grad()
    found = scores_of(scorer, batch, torch_generator(*stream))
    functional.cross_entropy(found, batch.labels_M, reduction="sum").backward()
    return scorer.state.parts["prompt"].flat.grad.clone()


# Masks


def test_a_share_is_zeroed_and_the_rest_raised():
    found = dropped(torch.full((100, 100), 2.0), 0.25, torch_generator(0, "x"))
    assert found.unique().tolist() == pytest.approx([0.0, 2.0 / 0.75])
    assert abs((found == 0).float().mean() - 0.25) < 0.02


@pytest.mark.parametrize(("rate", "stream"), [(0.0, torch_generator(0, "x")), (0.5, None)])
def test_without_a_rate_or_outside_training_all_stay(rate, stream):
    values = torch.randn(4, 5)
    assert dropped(values, rate, stream) is values
    assert dropout_streams(rate, 3, stream) is None


def test_streams_are_those_of_the_micro_batch():
    one, same, other = (dropout_streams(0.5, 3, torch_generator(0, name)) for name in ("a", "a", "b"))
    assert one == same != other
    assert len(set(one.seeds)) == 4


# A backbone's


@pytest.mark.parametrize("kind", WITH_DROPOUT)
def test_a_backbone_drops_in_training_alone_and_as_its_stream_says(load, kind):
    batch = random_batch(load(kind), *LENGTHS)
    scorer = dropping(load(kind))
    plain = scores(prompted(load(kind)), batch)
    assert torch.equal(scores(scorer, batch), plain)
    first = scores(scorer, batch, 0, "dropout", 1)
    torch.manual_seed(77)
    assert torch.equal(scores(scorer, batch, 0, "dropout", 1), first)
    assert not torch.equal(first, plain) and not torch.equal(scores(scorer, batch, 0, "dropout", 2), first)
    assert torch.equal(scores(scorer, batch), plain), "training leaves no trace"


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in WITH_DROPOUT])
def test_a_backbone_without_dropout_is_refused(load, kind):
    with pytest.raises(
        BackboneError, match=r"training\.backbone_dropout: .* has no dropout .* so 0\.3 would do nothing"
    ):
        dropping(load(kind))


def test_the_masks_are_where_bert_has_dropout_of_its_own(load):
    """The stock model in training, its dropout modules given masks in the order of their calls."""
    backbone = load("bert")
    batch = random_batch(backbone, 9, 9)
    streams = DropoutStreams(rate=0.3, seeds=(11, 12, 13, 14))
    generators = [torch.Generator().manual_seed(seed) for seed in streams.seeds]
    order = iter([generators[0], *(generators[layer] for layer in (1, 2, 3) for _ in ("attention", "output"))])

    def masked(values):
        kept = torch.rand(values.shape, generator=next(order)) >= 0.3
        return values * kept / 0.7

    with torch.no_grad():
        ours = backbone(batch, ForwardPass(dropout=streams))
        for module in backbone.model.modules():
            if isinstance(module, nn.Dropout):
                module.forward = masked
        stock = backbone.model(input_ids=batch.input_ids_BS).last_hidden_state
    assert next(order, None) is None, "all masks were asked for"
    torch.testing.assert_close(ours, stock, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("kind", WITH_DROPOUT)
def test_recomputed_layers_drop_the_same(load, kind):
    batch = random_batch(load(kind), *LENGTHS)
    plain = gradient(dropping(load(kind)), batch, 0, "d")
    recomputed = gradient(dropping(load(kind, gradient_checkpointing=True)), batch, 0, "d")
    torch.testing.assert_close(plain, recomputed, atol=2e-5, rtol=1e-4)
    assert not torch.allclose(plain, gradient(dropping(load(kind)), batch, 0, "other"), atol=1e-3)


def test_threads_drop_each_for_their_own_batch(load):
    scorer = dropping(load("bert"))
    batches = [random_batch(load("bert"), *LENGTHS, seed=seed) for seed in range(8)]
    alone = [scores(scorer, batch, seed, "d") for seed, batch in enumerate(batches)]
    with ThreadPoolExecutor(4) as pool:
        beside = list(pool.map(lambda seed: scores(scorer, batches[seed], seed, "d"), range(8)))
    assert all(map(torch.equal, alone, beside))


def test_training_leaves_no_dropout_to_the_next_pass(load):
    """Prompts start from what the backbone makes of text, and that has to stay the same."""
    backbone = load("bert")
    scorer, batch = dropping(backbone), random_batch(backbone, *LENGTHS)
    before = backbone(batch)
    scores(scorer, batch, 0, "d")
    assert torch.equal(backbone(batch), before)
