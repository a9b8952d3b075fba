"""Low-rank updates, beside PEFT's own over stock models."""

import threading

import pytest
import torch
from common.backbones import DECODERS, ENCODERS, KINDS, LAYERS
from common.plain import BATCH, IDS, MASK, assert_equal, gradients, plain_loss, plain_model, scorer_over
from common.prompts import in_slots, random_batch, random_low_rank, random_prompt, scorer_of, scores_of

from mpt.base.errors import BackboneError, MptError
from mpt.model.backbone.forward import BARE, LinearUpdate
from mpt.model.state.bank import TaskState
from mpt.model.state.low_rank import _QUERIES_AND_VALUES, LowRank, fresh_low_rank

peft = pytest.importorskip("peft", reason="PEFT is not installed: pip install 'mpt-prompts[peft]'")

WITHOUT_DEFAULT = ("albert", "distilbert", "modernbert", "glm")
TARGETS = ("all", "attention", "feed-forward", "peft")
CASES = [(kind, it) for kind in KINDS for it in TARGETS if it != "peft" or kind not in WITHOUT_DEFAULT]


def peft_model(folder, kind, part, targets):
    """A stock model with PEFT's updates of the same values, and them by our names."""
    config = peft.LoraConfig(
        r=part.rank,
        lora_alpha=part.alpha,
        target_modules=None if targets == "peft" else part.names,
        fan_in_fan_out=kind == "gpt2",
    )
    model = peft.LoraModel(plain_model(folder), config, "default").eval()
    theirs = {name: value for name, value in model.named_parameters() if value.requires_grad}
    theirs = {name.removeprefix("model.").replace(".default", ""): value for name, value in theirs.items()}
    assert set(theirs) == set(part.values())
    with torch.no_grad():
        for name, value in part.values().items():
            theirs[name].copy_(value)
    return model, theirs


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize(("kind", "targets"), CASES)
def test_outputs_and_gradients_are_those_of_peft(load, tiny_folder, kind, targets, recompute):
    backbone = load(kind, gradient_checkpointing=recompute)
    part = random_low_rank(backbone, 3, alpha=2.0, targets=targets)
    scorer = scorer_over(backbone, part)
    loss, shared, head = gradients(scorer)
    model, theirs = peft_model(tiny_folder(kind), kind, part, targets)
    mask = MASK.long()  # DeBERTa-v2's own convolution takes no bool
    states = model(input_ids=IDS, attention_mask=mask).last_hidden_state
    with torch.no_grad():
        ours = scorer.word_states(BATCH)
    torch.testing.assert_close(ours, states.flatten(0, 1)[BATCH.words_M].detach(), atol=2e-5, rtol=1e-4)
    their_loss, linear = plain_loss(scorer, states)
    their_loss.backward()
    assert loss == pytest.approx(their_loss.item(), abs=1e-5)
    assert_equal(shared, [theirs[name].grad for name in part.values()])
    assert_equal(head, [linear.weight.grad, linear.bias.grad])
    assert all(gradient.abs().max() > 0 for gradient in shared)


def test_default_targets_are_those_of_peft(load):
    from peft.utils.constants import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING as THEIRS

    assert {name: list(endings) for name, endings in _QUERIES_AND_VALUES.items()} == {
        name: THEIRS[name] for name in _QUERIES_AND_VALUES
    }
    types = {kind: load(kind).model.config.model_type for kind in KINDS}
    assert {kind for kind, name in types.items() if name not in THEIRS} == set(WITHOUT_DEFAULT)
    assert {kind for kind, name in types.items() if name not in _QUERIES_AND_VALUES} == set(WITHOUT_DEFAULT)


@pytest.mark.parametrize("kind", WITHOUT_DEFAULT)
def test_where_peft_has_no_default_there_is_none(load, kind):
    with pytest.raises(BackboneError, match=r"low_rank\.targets: PEFT has no default for .* Set low_rank\.targets=all"):
        random_low_rank(load(kind), 2, targets="peft")


# Which layers


@pytest.mark.parametrize("kind", KINDS)
def test_targets_are_the_linear_layers_inside_of_the_layers(load, kind):
    """All of them, each in one of two parts, and nothing of embeddings, poolers and what stands between layers."""
    backbone = load(kind)
    names = {it: random_low_rank(backbone, 1, targets=it).names for it in ("all", "attention", "feed-forward")}
    assert names["attention"] and names["feed-forward"]
    assert sorted(names["attention"] + names["feed-forward"]) == sorted(names["all"])
    linear = [name for name, it in backbone.model.named_modules() if type(it).__name__ in ("Linear", "Conv1D")]
    outside = ("embedding_hidden_mapping_in", "embeddings_project", "embed_proj", "pooler")
    assert names["all"] == [name for name in linear if not any(part in name for part in outside)]
    words = ("attention", "attn")
    assert all(any(word in name for word in words) for name in names["attention"])


@pytest.mark.parametrize("kind", [kind for kind in ENCODERS + DECODERS if kind != "albert"])
def test_layers_are_chosen_by_number(load, kind):
    backbone = load(kind)
    whole = {linear.name: linear.layers for linear in backbone.linears}
    assert {layers for layers in whole.values()} == {(layer,) for layer in range(LAYERS)}
    part = random_low_rank(backbone, 1, layers=(0, 2))
    assert part.names == [name for name, layers in whole.items() if layers in ((0,), (2,))]


def test_a_module_that_is_every_layer_is_updated_where_all_layers_are(load):
    backbone = load("albert")
    assert {linear.layers for linear in backbone.linears} == {(0, 1, 2)}
    assert random_low_rank(backbone, 1).names == [linear.name for linear in backbone.linears]
    with pytest.raises(BackboneError, match=r"no linear layer for targets all in layers 0, 1\. Take more layers or "):
        random_low_rank(backbone, 1, layers=(0, 1))


# The start


@pytest.mark.parametrize("kind", KINDS)
def test_it_changes_nothing_at_its_start_and_is_drawn_from_its_seed(load, kind):
    backbone = load(kind)
    facts = {"rank": 2, "alpha": 4, "targets": "all", "layers": (0, 1, 2)}
    first, again, other = (fresh_low_rank(backbone, **facts, seed=seed) for seed in (0, 0, 1))
    batch = random_batch(backbone, 9, 4)
    bare = scores_of(scorer_of(backbone), batch)
    assert torch.equal(scores_of(scorer_of(backbone, TaskState([first])), batch), bare)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(first.parameters(), other.parameters(), strict=True))
    assert all(down.abs().max() <= 1 / down.shape[1] ** 0.5 for down in first.downs), "as PEFT draws it"


def test_what_it_is_saved_as(load):
    part = random_low_rank(load("bert"), 3, alpha=6.0, targets="attention", layers=(1,))
    name = "encoder.layer.1.attention.self.query"
    assert part.spec == {"rank": 3, "alpha": 6.0, "layers": part.names} and part.names[0] == name
    values = part.values()
    assert list(values)[:2] == [f"{name}.lora_A.weight", f"{name}.lora_B.weight"]
    assert [tuple(value.shape) for value in values.values()] == [(3, 32), (32, 3)] * 4
    assert {id(value) for value in values.values()} == {id(value) for value in part.parameters()}
    assert {value.dtype for value in values.values()} == {torch.float32} and part.virtual_tokens == 0


# Rows with updates of their own


def layer_of(rank, seed, names=("a",)):
    generator = torch.Generator().manual_seed(seed)
    shapes = ((rank, 4), (5, rank))
    factors = {name: tuple(torch.randn(shape, generator=generator) for shape in shapes) for name in names}
    return LowRank(factors, alpha=2.0)


def joined(*rows):
    return LowRank.join(rows, BARE, dtype=torch.float32, generator=None).updates


def test_updates_that_meet_are_padded_with_nothing():
    low, high, none = layer_of(1, 0), layer_of(3, 1, ("a", "b")), None
    rows = [high, none, low, high]
    updates = joined(*rows)
    assert set(updates) == {"a", "b"} and updates["a"].down.shape == (4, 3, 4) and updates["a"].up.shape == (4, 3, 5)
    inputs, outputs = torch.randn(4, 6, 4), torch.randn(4, 6, 5)
    for name, has in (("a", [True, False, True, True]), ("b", [True, False, False, True])):
        found = updates[name].added(inputs, outputs)
        for row, part in enumerate(rows):
            if not has[row]:
                assert torch.equal(found[row], outputs[row]), "exactly nothing"
                continue
            down, up = dict(zip(part.names, zip(part.downs, part.ups, strict=True), strict=True))[name]
            expected = outputs[row] + inputs[row] @ down.t() @ up.t() * (2.0 / part.rank)
            torch.testing.assert_close(found[row], expected)


def test_one_update_serves_all_rows_and_whatever_has_none():
    part = layer_of(2, 0)
    update = joined(part)["a"]
    assert update.down.shape == (2, 4) and update.up.shape == (2, 5)
    for shape in ((3, 6), (6,), (2, 3, 2)):
        inputs, outputs = torch.randn((*shape, 4)), torch.randn((*shape, 5))
        expected = outputs + inputs @ part.downs[0].t() @ part.ups[0].t()
        torch.testing.assert_close(update.added(inputs, outputs), expected)


@pytest.mark.parametrize("shape", [(6, 4), (1, 6, 4), (3, 6, 4)])
def test_what_has_no_rows_takes_no_update_of_rows(shape):
    update = LinearUpdate(down=torch.zeros(2, 1, 4), up=torch.zeros(2, 1, 5))
    with pytest.raises(ValueError, match="something else than the rows of a batch"):
        update.added(torch.zeros(shape), torch.zeros((*shape[:-1], 5)))


@pytest.mark.parametrize(
    ("kind", "targets"), [("deberta", "attention"), ("deberta-v2", "attention"), ("deberta-v3", "attention")]
)
def test_deberta_refuses_rows_with_updates_of_what_projects_positions(load, kind, targets):
    """They are of no row. Updates of the feed-forward parts may meet, and one for all rows may be of anything."""
    backbone = load(kind)
    batch = random_batch(backbone, 9, 4)
    states = [TaskState([random_low_rank(backbone, rank, targets=targets)]) for rank in (1, 2)]
    scorer = scorer_of(backbone, *states)
    with pytest.raises(BackboneError) as caught:
        scorer(in_slots(batch, [0, 1]))
    message = str(caught.value)
    assert message.startswith("encoder.layer.0.attention.self.") and "DeBERTa" in message
    assert "cannot meet in a batch over it: use a batch for each" in message
    scorer(in_slots(batch, [1, 1]))
    others = [TaskState([random_low_rank(backbone, rank, targets="feed-forward")]) for rank in (1, 2)]
    scorer_of(backbone, *others)(in_slots(batch, [0, 1]))


def test_deberta_v3_is_refused_by_the_name_of_its_setting(load):
    backbone = load("deberta-v3")
    assert backbone.model.config.share_att_key
    scorer = scorer_of(backbone, *(TaskState([random_low_rank(backbone, 1, targets="peft")]) for _ in range(2)))
    with pytest.raises(MptError, match=r"query_proj: .*DeBERTa projects positions, with share_att_key"):
        scorer(in_slots(random_batch(backbone, 9, 4), [0, 1]))


@pytest.mark.parametrize("kind", ["bert", "albert", "llama"])
def test_threads_side_by_side_compute_what_each_does_alone(load, kind):
    backbone = load(kind)
    states = [TaskState([random_low_rank(backbone, rank, seed=rank)]) for rank in (1, 2, 4)]
    states[1] = TaskState([*states[1].parts.values(), random_prompt(backbone, 3)])
    jobs = [([0, 1], 3), ([0, 0], 4), ([2, 1], 5), ([1, 1], 6)]
    scorer = scorer_of(backbone, *states)

    def computed(slots, seed):
        scores = scores_of(scorer, in_slots(random_batch(backbone, 9, 4, seed=seed), slots))
        weights = [value for slot in sorted(set(slots)) for value in scorer.bank.state(slot).parameters()]
        return [scores.detach(), *torch.autograd.grad(scores.square().sum(), weights)]

    expected = [computed(*job) for job in jobs]
    found, start = [[] for _ in jobs], threading.Barrier(len(jobs))

    def work(number):
        start.wait()
        found[number] += [computed(*jobs[number]) for _ in range(4)]

    threads = [threading.Thread(target=work, args=(number,)) for number in range(len(jobs))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for results, own in zip(found, expected, strict=True):
        assert len(results) == 4
        assert all(torch.equal(a, b) for result in results for a, b in zip(result, own, strict=True))
