"""Trained weights of a backbone, beside plain torch and transformers."""

import gc
import threading
import weakref
from dataclasses import replace

import pytest
import torch
from common.backbones import tiny_backbone
from common.plain import BATCH, IDS, MASK, assert_equal, gradients, plain_loss, plain_model, scorer_over
from common.prompts import random_low_rank, random_states
from torch import nn

from mpt.base.errors import BackboneError
from mpt.model.backbone.backbone import load_backbone
from mpt.model.backbone.forward import ForwardPass
from mpt.model.state.bank import TaskState
from mpt.model.state.weights import Weights, copied
from mpt.training.optimizer import WholeOptimizer, build_optimizer
from mpt.training.step import _move
from mpt.training.workers import Workers


@pytest.fixture(params=["bert", "roberta", "albert", "llama", "deberta-v3"])
def folder(request, tmp_path):
    return tiny_backbone(tmp_path / request.param, request.param)


def loaded(folder, **options):
    options = {"dtype": "float32", "longest_window": 48, **options}
    return load_backbone(str(folder), **options)


def bert(tmp_path, **options):
    return loaded(tiny_backbone(tmp_path / "bert", "bert"), **options)


def part_of(scorer):
    return scorer.state.parts["weights"]


def test_gradients_of_all_weights_are_those_of_plain_fine_tuning(folder):
    scorer = scorer_over(backbone := loaded(folder), Weights(backbone))
    loss, shared, head = gradients(scorer)
    model = plain_model(folder)
    theirs, linear = plain_loss(scorer, model(input_ids=IDS, attention_mask=MASK).last_hidden_state)
    theirs.backward()
    weights, values = dict(model.named_parameters()), part_of(scorer).values()
    assert loss == pytest.approx(theirs.item(), abs=1e-5)
    expected = [weights[name].grad for name in values]
    assert all("pooler" in name for name in weights.keys() - values.keys())
    # A weight that the loss does not depend on has no gradient there, and zeros here.
    expected = [torch.zeros_like(p) if grad is None else grad for p, grad in zip(shared, expected, strict=True)]
    assert_equal(shared, expected)
    assert_equal(head, [linear.weight.grad, linear.bias.grad])


def test_bitfit_has_the_biases_and_their_gradients(tmp_path):
    scorer = scorer_over(backbone := bert(tmp_path), Weights(backbone, biases=True))
    _, shared, _ = gradients(scorer)
    model = plain_model(tmp_path / "bert")
    plain_loss(scorer, model(input_ids=IDS, attention_mask=MASK).last_hidden_state)[0].backward()
    expected = {n: p.grad for n, p in model.named_parameters() if n.endswith("bias") and "pooler" not in n}
    assert list(part_of(scorer).values()) == list(expected)
    assert_equal(shared, expected.values())
    assert part_of(scorer).spec == {"biases": True}


def test_a_backbone_without_biases_has_no_bitfit(tmp_path):
    backbone = loaded(tiny_backbone(tmp_path / "llama", "llama"))
    with pytest.raises(BackboneError, match=r'"bitfit": LlamaModel has no biases to train. Leave the method out'):
        Weights(backbone, biases=True)


def test_a_backbone_in_bfloat16_computes_with_rounded_copies_of_float32_values(tmp_path):
    scorer = scorer_over(backbone := bert(tmp_path, dtype="bfloat16"), Weights(backbone))
    _, shared, _ = gradients(scorer)
    values, leaves = list(scorer.state.values().values()), scorer.state.leaves()
    assert {p.dtype for p in values} == {grad.dtype for grad in shared} == {torch.float32}
    assert {p.dtype for p in leaves} == {torch.bfloat16}
    with torch.no_grad():
        (before,) = scorer(BATCH)
        for value in values:
            value.mul_(1.5)
        assert torch.equal(scorer(BATCH)[0], before), "not before the copies are made anew"
        scorer.state.settle()
        assert not torch.equal(scorer(BATCH)[0], before)
    for value, leaf in zip(values, leaves, strict=True):
        assert torch.equal(value.to(torch.bfloat16), leaf)


def test_restored_values_reach_the_copies(tmp_path):
    scorer = scorer_over(backbone := bert(tmp_path, dtype="bfloat16"), Weights(backbone, biases=True))
    scorer.restore({part: {name: it + 1 for name, it in own.items()} for part, own in scorer.tensors().items()})
    values = zip(scorer.state.values().values(), scorer.state.leaves(), strict=True)
    assert all(torch.equal(value.to(torch.bfloat16), leaf) for value, leaf in values)


def own_weights(backbone):
    return {name: (id(p), p.clone()) for name, p in backbone.model.named_parameters()}


def assert_untouched(backbone, own):
    now = dict(backbone.model.named_parameters())
    assert now.keys() == own.keys()
    assert all(id(now[name]) == number and torch.equal(now[name], value) for name, (number, value) in own.items())
    assert not any(p.requires_grad or p.grad is not None for p in now.values())


def scorers_over(backbone):
    """One of every kind, with other values than at the start."""
    scorers = {
        "bare": scorer_over(backbone),
        "all": scorer_over(backbone, Weights(backbone)),
        "biases": scorer_over(backbone, Weights(backbone, biases=True)) if has_biases(backbone) else None,
        "low-rank": scorer_over(backbone, random_low_rank(backbone, 2)),
        "prompt": scorer_over(backbone, *random_states(backbone, 3)[0].parts.values()),
    }
    scorers = {name: scorer for name, scorer in scorers.items() if scorer is not None}
    with torch.no_grad():
        for scorer in scorers.values():
            for value in scorer.state.parameters():
                value.add_(0.1)
    return scorers


def has_biases(backbone):
    return any(name.endswith("bias") for name, _ in backbone.model.named_parameters())


def test_scorers_over_one_backbone_do_not_disturb_each_other(folder):
    backbone = loaded(folder)
    own = own_weights(backbone)
    bare = scorer_over(backbone)(BATCH)[0]
    scorers = scorers_over(backbone)
    scores = {name: scorer(BATCH)[0] for name, scorer in scorers.items()}
    again = {name: scorers[name](BATCH)[0] for name in reversed(scorers)}
    assert torch.equal(scores["bare"], bare)
    assert all(torch.equal(scores[name], again[name]) for name in scorers)
    assert not any(torch.allclose(value, bare) for name, value in scores.items() if name != "bare")
    assert_untouched(backbone, own)


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("kind", ["bert", "albert"])
def test_threads_with_weights_of_their_own_compute_what_each_does_alone(tmp_path, kind, recompute):
    """Forward and backward, some with the backbone's own weights, side by side over one backbone."""
    backbone = loaded(tiny_backbone(tmp_path / kind, kind), gradient_checkpointing=recompute)
    own, scorers = own_weights(backbone), scorers_over(backbone)

    def computed(scorer):
        (scores,) = scorer(BATCH)
        weights = [*scorer.state.leaves(), *scorer.head("t").parameters()]
        return [scores.detach(), *torch.autograd.grad(scores.square().sum(), weights, allow_unused=True)]

    expected = {name: computed(scorer) for name, scorer in scorers.items()}
    found, start = {name: [] for name in scorers}, threading.Barrier(len(scorers))

    def work(name):
        start.wait()
        for _ in range(4):
            found[name].append(computed(scorers[name]))

    threads = [threading.Thread(target=work, args=(name,)) for name in scorers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for name, results in found.items():
        assert len(results) == 4
        for result in results:
            pairs = zip(result, expected[name], strict=True)
            assert all(one is other is None or torch.equal(one, other) for one, other in pairs), name
    assert_untouched(backbone, own)


def test_what_is_not_trained_is_the_backbones_own(tmp_path):
    backbone = bert(tmp_path)
    weights = dict(backbone.model.named_parameters())
    for biases in (False, True):
        copies = dict(Weights(backbone, biases=biases).model.named_parameters())
        assert copies.keys() == weights.keys()
        shared = {name for name, copy in copies.items() if copy is weights[name]}
        assert shared == {name for name in weights if biases and not name.endswith("bias")}


@pytest.mark.parametrize("recompute", [False, True])
def test_what_a_slot_held_goes_with_it(tmp_path, recompute):
    """Trained weights are as large as a backbone."""
    scorer = scorer_over(backbone := bert(tmp_path, gradient_checkpointing=recompute))
    slot = scorer.add(TaskState([Weights(backbone)]), {"t": scorer.head("t")})
    (scores,) = scorer(replace(BATCH, rows=(replace(BATCH.rows[0], slot=slot),)))
    scores.sum().backward()
    copy = weakref.ref(scorer.bank.state(slot).parts["weights"].model)
    scorer.remove(slot)
    del scores
    gc.collect()
    assert copy() is None


def test_recomputed_layers_have_the_same_gradients(folder):
    found = []
    for recompute in (False, True):
        backbone = loaded(folder, gradient_checkpointing=recompute)
        found.append(gradients(scorer_over(backbone, Weights(backbone))))
    assert found[0][0] == found[1][0]
    assert all(torch.equal(a, b) for a, b in zip(found[0][1], found[1][1], strict=True))


def test_a_weight_in_two_places_is_trained_once(tmp_path):
    backbone = bert(tmp_path)
    layers = backbone.model.encoder.layer
    layers[1].output.dense.weight = layers[0].output.dense.weight
    part = Weights(backbone)
    names = list(part.values())
    assert "encoder.layer.0.output.dense.weight" in names and "encoder.layer.1.output.dense.weight" not in names
    copies = part.model.encoder.layer
    trained = part.values()["encoder.layer.0.output.dense.weight"]
    assert copies[0].output.dense.weight is copies[1].output.dense.weight is trained


def test_what_starts_from_a_backbone_starts_from_its_own_weights_whoever_computed_last(tmp_path):
    backbone = bert(tmp_path)
    own = {name: p.clone() for name, p in backbone.model.named_parameters()}
    for part in (Weights(backbone), random_low_rank(backbone, 2)):
        scorer = scorer_over(backbone, part)
        with torch.no_grad():
            for value in part.parameters():
                value.add_(1.0)
            scorer(BATCH)
        fresh = Weights(backbone).values()
        assert fresh.keys() == own.keys()
        assert all(torch.equal(value, own[name]) for name, value in fresh.items())
        assert torch.equal(backbone.word_embeddings.weight, own["embeddings.word_embeddings.weight"])


def test_any_weights_can_stand_in_the_place_of_the_backbones(tmp_path):
    backbone = bert(tmp_path)
    doubled = copied(backbone, lambda own: nn.Parameter(2 * own.detach(), requires_grad=False))
    with torch.no_grad():
        bare, other = backbone(BATCH), backbone(BATCH, ForwardPass(model=doubled))
        assert torch.equal(backbone(BATCH), bare) and not torch.allclose(other, bare)


def test_a_step_moves_the_copies_with_the_values(tmp_path):
    scorer = scorer_over(backbone := bert(tmp_path, dtype="bfloat16"), Weights(backbone))
    values, leaves = list(scorer.state.values().values()), scorer.state.leaves()
    before = [leaf.detach().clone() for leaf in leaves]
    gradients(scorer)
    rates = {"prompt": 1.0, "low_rank": 2.0, "head": 0.5, "backbone": 0.25}
    adamw = build_optimizer(scorer, rates=rates, weight_decay=0.125)
    matrices = [p for p in values if p.dim() > 1]
    groups = [([id(p) for p in group["params"]], group["rate"], group["weight_decay"]) for group in adamw.param_groups]
    assert groups == [
        ([id(p) for p in scorer.head("t").parameters()], 0.5, 0.125),
        ([id(p) for p in matrices], 0.25, 0.125),
        ([id(p) for p in values if p.dim() == 1], 0.25, 0.0),
    ]
    optimizer = WholeOptimizer(scorer, adamw)
    optimizer.set_learning_rates(1.0)
    _move(scorer, optimizer, Workers(), 1.0)
    moved = zip(leaves, before, strict=True)
    assert not any(torch.equal(leaf, old) for leaf, old in moved if old.dim() > 1)
    assert all(torch.equal(v.to(torch.bfloat16), c) for v, c in zip(values, leaves, strict=True))
