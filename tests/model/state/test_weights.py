"""Trained weights of a backbone and shallow prompts, beside plain torch, transformers and PEFT."""

import pytest
import torch
from common.backbones import HIDDEN, tiny_backbone
from peft import LoraConfig, get_peft_model
from torch.nn.functional import cross_entropy
from transformers import AutoModel

from mpt.base.errors import BackboneError
from mpt.data.order.batch import Batch
from mpt.model.backbone.backbone import load_backbone
from mpt.model.heads import TokenHead
from mpt.model.scorer import Tagger, text_behind
from mpt.model.state.input_prompt import ShallowPrompt
from mpt.model.state.low_rank import lora, new_adaptation
from mpt.model.state.weights import trained_weights
from mpt.training.gradients import GradientVectors
from mpt.training.optimizer import WholeOptimizer, build_optimizer
from mpt.training.step import _move
from mpt.training.workers import Workers

LENGTH = 3
IDS = torch.tensor([[5, 6, 7, 8, 9], [6, 9, 5, 0, 0]])
MASK = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]], dtype=torch.bool)
WORDS = torch.tensor([0, 2, 4, 5, 7])
LABELS = torch.tensor([0, 1, 2, 1, 0])
BATCH = Batch(input_ids_BS=IDS, attention_mask_BS=MASK, words_M=WORDS, labels_M=LABELS)


@pytest.fixture(params=["bert", "roberta", "albert", "llama", "deberta-v3"])
def folder(request, tmp_path):
    return tiny_backbone(tmp_path / request.param, request.param)


def tagger_over(backbone, **parts):
    return Tagger(backbone, None, {"t": TokenHead(HIDDEN, ("O", "A", "B"), seed=0, task="t")}, **parts)


def gradients(tagger):
    """Loss, gradient of what is shared, and of the head, as a step computes them."""
    vectors = GradientVectors(tagger, ["t"])
    loss = cross_entropy(tagger("t", BATCH), LABELS)
    vectors.assign(vectors.vector("t", loss)[None], ["t"])
    return loss.item(), [p.grad for p in tagger.shared], [p.grad for p in tagger.head("t").parameters()]


def plain_loss(tagger, states):
    """The loss of a linear layer like the tagger's head over states that something else has computed."""
    head = torch.nn.Linear(HIDDEN, 3)
    head.load_state_dict(tagger.head("t").state_dict())
    loss = cross_entropy(head(states.flatten(0, 1)[WORDS]), LABELS)
    return loss, head


def assert_equal(ours, theirs):
    for mine, yours in zip(ours, theirs, strict=True):
        assert torch.allclose(mine, yours, atol=1e-5, rtol=1e-4), (mine - yours).abs().max()


def plain_model(folder):
    return AutoModel.from_pretrained(folder, attn_implementation="eager", dtype=torch.float32).eval()


def test_gradients_of_all_weights_are_those_of_plain_fine_tuning(folder):
    backbone = load_backbone(str(folder), dtype="float32", longest_window=48)
    adaptation = trained_weights(backbone.model, biases=False)
    tagger = tagger_over(backbone, adaptation=adaptation)
    loss, shared, head = gradients(tagger)
    model = plain_model(folder)
    theirs, linear = plain_loss(tagger, model(input_ids=IDS, attention_mask=MASK).last_hidden_state)
    theirs.backward()
    weights = dict(model.named_parameters())
    assert loss == pytest.approx(theirs.item(), abs=1e-5)
    expected = [weights[name].grad for name in adaptation.named_values()]
    assert all("pooler" in name for name in weights.keys() - adaptation.named_values().keys())
    # A weight that the loss does not depend on has no gradient there, and zeros here.
    expected = [torch.zeros_like(p) if grad is None else grad for p, grad in zip(shared, expected, strict=True)]
    assert_equal(shared, expected)
    assert_equal(head, [linear.weight.grad, linear.bias.grad])


def test_bitfit_has_the_biases_and_their_gradients(tmp_path):
    folder = tiny_backbone(tmp_path / "bert", "bert")
    backbone = load_backbone(str(folder), dtype="float32", longest_window=48)
    adaptation = trained_weights(backbone.model, biases=True)
    tagger = tagger_over(backbone, adaptation=adaptation)
    _, shared, _ = gradients(tagger)
    model = plain_model(folder)
    plain_loss(tagger, model(input_ids=IDS, attention_mask=MASK).last_hidden_state)[0].backward()
    expected = {n: p.grad for n, p in model.named_parameters() if n.endswith("bias") and "pooler" not in n}
    assert list(adaptation.named_values()) == list(expected)
    assert_equal(shared, expected.values())


def test_a_backbone_without_biases_has_no_bitfit(tmp_path):
    backbone = load_backbone(str(tiny_backbone(tmp_path / "llama", "llama")), dtype="float32", longest_window=48)
    with pytest.raises(BackboneError, match=r'"bitfit": LlamaModel has no biases to train. Leave the method out'):
        trained_weights(backbone.model, biases=True)


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")  # PEFT's doing
@pytest.mark.parametrize("targets", ["default", "all-linear"])
@pytest.mark.parametrize("kind", ["bert", "llama", "deberta-v3"])
def test_lora_is_that_of_peft(tmp_path, kind, targets):
    folder = tiny_backbone(tmp_path / kind, kind)
    backbone = load_backbone(str(folder), dtype="float32", longest_window=48)
    adaptation = lora(backbone.model, rank=2, alpha=6, targets=targets, seed=0)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for value in adaptation.parameters():
            value.copy_(torch.randn(value.shape, generator=generator))
    tagger = tagger_over(backbone, adaptation=adaptation)
    loss, shared, head = gradients(tagger)
    config = LoraConfig(r=2, lora_alpha=6, target_modules=None if targets == "default" else targets)
    model = get_peft_model(plain_model(folder), config).eval()
    theirs = {name: value for name, value in model.named_parameters() if value.requires_grad and "pooler" not in name}
    ours = adaptation.named_values()
    renamed = {name.removeprefix("base_model.model.").replace(".default", ""): value for name, value in theirs.items()}
    assert set(ours) == set(renamed)
    with torch.no_grad():
        for name, value in renamed.items():
            value.copy_(ours[name])
    their_loss, linear = plain_loss(tagger, model(input_ids=IDS, attention_mask=MASK).last_hidden_state)
    their_loss.backward()
    assert loss == pytest.approx(their_loss.item(), abs=1e-5)
    assert_equal(shared, [renamed[name].grad for name in ours])
    assert_equal(head, [linear.weight.grad, linear.bias.grad])


def test_lora_changes_nothing_at_its_start_and_is_drawn_from_its_seed(folder):
    backbone = load_backbone(str(folder), dtype="float32", longest_window=48)
    facts = {"weights": "lora", "rank": 2, "alpha": 4, "targets": "all-linear"}
    first, again, other = (new_adaptation(backbone, **facts, seed=seed) for seed in (0, 0, 1))
    with torch.no_grad():
        assert torch.equal(backbone({"input_ids": IDS}, first), backbone({"input_ids": IDS}))
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(first.parameters(), other.parameters(), strict=True))


@pytest.mark.parametrize("kind", ["bert", "roberta", "albert", "electra", "gpt2", "deberta-v3"])
def test_a_shallow_prompt_is_input_embeddings(tmp_path, kind):
    folder = tiny_backbone(tmp_path / kind, kind)
    backbone = text_behind(load_backbone(str(folder), dtype="float32", longest_window=48), LENGTH)
    width = backbone.word_embeddings.weight.shape[1]
    virtual = torch.randn((LENGTH, width), generator=torch.Generator().manual_seed(0))
    tagger = tagger_over(backbone, shallow=ShallowPrompt(virtual))
    loss, (gradient,), head = gradients(tagger)
    model = plain_model(folder)
    embeddings = virtual.clone().requires_grad_()
    inputs = torch.cat([embeddings.expand(2, -1, -1), model.get_input_embeddings()(IDS)], dim=1)
    mask = torch.cat([torch.ones((2, LENGTH), dtype=torch.bool), MASK], dim=1)
    states = model(inputs_embeds=inputs, attention_mask=mask).last_hidden_state[:, LENGTH:]
    theirs, linear = plain_loss(tagger, states)
    theirs.backward()
    assert loss == pytest.approx(theirs.item(), abs=1e-5)
    assert_equal([gradient], [embeddings.grad])
    assert_equal(head, [linear.weight.grad, linear.bias.grad])


def test_an_unpadded_batch_and_segments_take_a_shallow_prompt(tmp_path):
    backbone = load_backbone(str(tiny_backbone(tmp_path / "bert", "bert")), dtype="float32", longest_window=48)
    prompt = ShallowPrompt(torch.randn((LENGTH, HIDDEN), generator=torch.Generator().manual_seed(0)))
    bare = {"input_ids": IDS[:1], "attention_mask": None}
    first = {**bare, "token_type_ids": torch.zeros_like(IDS[:1])}
    second = {**bare, "token_type_ids": torch.ones_like(IDS[:1])}
    with torch.no_grad():
        states = [backbone(prompt.inputs(backbone, inputs, None)) for inputs in (bare, first, second)]
    assert torch.equal(states[0], states[1])
    assert not torch.allclose(states[0], states[2])
    assert prompt.inputs(backbone, second, None)["token_type_ids"].tolist() == [[0] * LENGTH + [1] * 5]


def test_a_backbone_in_bfloat16_computes_with_rounded_copies_of_float32_values(tmp_path):
    folder = tiny_backbone(tmp_path / "bert", "bert")
    backbone = load_backbone(str(folder), dtype="bfloat16", longest_window=48)
    tagger = tagger_over(backbone, adaptation=trained_weights(backbone.model, biases=False))
    _, shared, _ = gradients(tagger)
    assert {p.dtype for p in tagger.shared} == {grad.dtype for grad in shared} == {torch.float32}
    assert {p.dtype for p in tagger.shared_leaves} == {torch.bfloat16}
    with torch.no_grad():
        before = tagger("t", BATCH)
        for value in tagger.adaptation.parameters():
            value.mul_(1.5)
        assert torch.equal(tagger("t", BATCH), before), "not before the copies are made anew"
        tagger.refresh()
        assert not torch.equal(tagger("t", BATCH), before)
    for value, leaf in zip(tagger.shared, tagger.shared_leaves, strict=True):
        assert torch.equal(value.to(torch.bfloat16), leaf)


def test_loading_a_state_refreshes_the_copies(tmp_path):
    backbone = load_backbone(str(tiny_backbone(tmp_path / "bert", "bert")), dtype="bfloat16", longest_window=48)
    tagger = tagger_over(backbone, adaptation=trained_weights(backbone.model, biases=True))
    tagger.load_state_dict({name: value + 1 for name, value in tagger.state_dict().items()})
    assert all(torch.equal(v.to(torch.bfloat16), c) for v, c in zip(tagger.shared, tagger.shared_leaves, strict=True))


def test_taggers_over_one_backbone_do_not_disturb_each_other(folder):
    backbone = load_backbone(str(folder), dtype="float32", longest_window=48)
    taggers = {
        "bare": tagger_over(backbone),
        "all": tagger_over(backbone, adaptation=new_adaptation(backbone, weights="all", seed=0)),
        "lora": tagger_over(
            backbone,
            adaptation=new_adaptation(backbone, weights="lora", rank=2, alpha=2, targets="all-linear", seed=0),
        ),
    }
    own = {name: (id(p), p.clone()) for name, p in backbone.model.named_parameters()}
    with torch.no_grad():
        bare = taggers["bare"]("t", BATCH)
        for name in ("all", "lora"):
            for value in taggers[name].adaptation.parameters():
                value.add_(0.1)
        scores = {name: taggers[name]("t", BATCH) for name in taggers}
        again = {name: taggers[name]("t", BATCH) for name in reversed(taggers)}
    assert torch.equal(scores["bare"], bare)
    assert all(torch.equal(scores[name], again[name]) for name in taggers)
    assert not torch.allclose(scores["all"], bare)
    assert not torch.allclose(scores["lora"], bare)
    backbone.switch.to(None)
    now = dict(backbone.model.named_parameters())
    assert now.keys() == own.keys()
    assert all(id(now[name]) == number and torch.equal(now[name], value) for name, (number, value) in own.items())


def test_recomputed_layers_have_the_same_gradients(folder):
    found = []
    for recompute in (False, True):
        backbone = load_backbone(str(folder), dtype="float32", longest_window=48, gradient_checkpointing=recompute)
        found.append(gradients(tagger_over(backbone, adaptation=new_adaptation(backbone, weights="all", seed=0))))
    assert found[0][0] == found[1][0]
    assert all(torch.equal(a, b) for a, b in zip(found[0][1], found[1][1], strict=True))


def test_a_weight_in_two_places_is_trained_once():
    model = torch.nn.ModuleDict({"a": torch.nn.Linear(2, 2), "b": torch.nn.Linear(2, 2)})
    model["b"].weight = model["a"].weight
    adaptation = trained_weights(model, biases=False)
    assert list(adaptation.named_values()) == ["a.weight", "a.bias", "b.bias"]
    assert len({id(swap.other) for swap in adaptation.swaps if swap.name == "weight"}) == 1
    assert adaptation.keys == {"a.weight": "a/weight", "a.bias": "a/bias", "b.bias": "b/bias"}


def test_what_starts_from_a_backbone_starts_from_its_own_weights_whoever_computed_last(tmp_path):
    backbone = load_backbone(str(tiny_backbone(tmp_path / "bert", "bert")), dtype="float32", longest_window=48)
    own = {name: p.clone() for name, p in backbone.model.named_parameters()}
    for facts in ({"weights": "all"}, {"weights": "lora", "rank": 2, "alpha": 2, "targets": "all-linear"}):
        tagger = tagger_over(backbone, adaptation=new_adaptation(backbone, **facts, seed=0))
        assert tagger.adaptation is not None
        with torch.no_grad():
            for value in tagger.adaptation.parameters():
                value.add_(1.0)
            tagger("t", BATCH)
        fresh = new_adaptation(backbone, weights="all", seed=0).named_values()
        assert fresh.keys() == own.keys()
        assert all(torch.equal(value, own[name]) for name, value in fresh.items())
        tagger("t", BATCH)
        assert torch.equal(backbone.word_embeddings.weight, own["embeddings.word_embeddings.weight"])


def test_kept_trunk_outputs_are_below_nothing_that_is_trained(tmp_path):
    backbone = load_backbone(str(tiny_backbone(tmp_path / "bert", "bert")), dtype="float32", longest_window=48)
    assert tagger_over(backbone).lowest_prompted_layer == backbone.num_layers
    assert tagger_over(backbone, shallow=ShallowPrompt(torch.zeros(2, HIDDEN))).lowest_prompted_layer == 0
    assert tagger_over(backbone, adaptation=trained_weights(backbone.model, biases=True)).lowest_prompted_layer == 0


def test_a_step_moves_the_copies_with_the_values(tmp_path):
    backbone = load_backbone(str(tiny_backbone(tmp_path / "bert", "bert")), dtype="bfloat16", longest_window=48)
    tagger = tagger_over(backbone, adaptation=trained_weights(backbone.model, biases=False))
    before = [leaf.detach().clone() for leaf in tagger.shared_leaves]
    gradients(tagger)
    rates = {"prompt_learning_rate": 1.0, "head_learning_rate": 0.5, "backbone_learning_rate": 0.25}
    adamw = build_optimizer(tagger, **rates, weight_decay=0.125)
    matrices = [p for p in tagger.shared if p.dim() > 1]
    groups = [([id(p) for p in group["params"]], group["rate"], group["weight_decay"]) for group in adamw.param_groups]
    assert groups == [
        ([id(p) for p in tagger.head("t").parameters()], 0.5, 0.125),
        ([id(p) for p in matrices], 0.25, 0.125),
        ([id(p) for p in tagger.shared if p.dim() == 1], 0.25, 0.0),
    ]
    optimizer = WholeOptimizer(tagger, adamw)
    optimizer.set_learning_rates(1.0)
    _move(tagger, optimizer, Workers(), 1.0)
    moved = zip(tagger.shared_leaves, before, strict=True)
    assert not any(torch.equal(leaf, old) for leaf, old in moved if old.dim() > 1)
    assert all(torch.equal(v.to(torch.bfloat16), c) for v, c in zip(tagger.shared, tagger.shared_leaves, strict=True))
