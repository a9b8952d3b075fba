import threading
from dataclasses import replace

import pytest
import torch
from common.backbones import KINDS, LAYERS, tiny_backbone, tiny_model
from common.prompts import random_batch, random_states, rows_of, scorer_of, scores_of, states_by_row
from torch import nn
from transformers import AutoModel

from mpt.base.errors import BackboneError
from mpt.model.backbone import stack
from mpt.model.backbone.backbone import load_backbone
from mpt.model.backbone.forward import BARE, Running, tie
from mpt.model.backbone.probe import probe
from mpt.model.state.bank import Bank

LENGTHS = (9, 4, 1, 7)


def keys_of(backbone, batch, prompted):
    """Keys of every layer's text, where these layers have a prompt."""
    seen = []
    (state,) = random_states(backbone, (3, prompted))
    forward = Bank([state]).forward_pass([0], dtype=backbone.dtype)
    with torch.no_grad():
        backbone(batch, replace(forward, observe=lambda _, keys, values: seen.append(keys)))
    return seen


@pytest.mark.parametrize("kind", KINDS)
def test_a_layers_prompt_changes_what_comes_after_it_and_nothing_before(load, kind):
    backbone = load(kind)
    batch = random_batch(backbone, 9)
    bare = keys_of(backbone, batch, ())
    assert len(bare) == LAYERS
    for layer in range(LAYERS):
        found = keys_of(backbone, batch, (layer,))
        assert [torch.equal(one, other) for one, other in zip(found, bare, strict=True)] == [
            number <= layer for number in range(LAYERS)
        ]


def gradient_of(scorer, batch, backward=lambda loss: loss.backward()):
    loss = scores_of(scorer, batch).square().sum()
    backward(loss)
    return scorer.state.parts["prompt"].flat.grad.clone()


def in_a_thread(function, *args):
    failed = []

    def run():
        try:
            function(*args)
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if failed:
        raise failed[0]


@pytest.mark.parametrize("kind", ["bert", "albert", "deberta-v3", "llama"])
def test_layers_are_recomputed_with_their_own_prompts_whatever_has_run_since_and_wherever(load, kind):
    """On a GPU, the backward pass runs in a thread of its own."""
    backbone = load(kind)
    expected = gradient_of(scorer_of(backbone, *random_states(backbone, 5)), random_batch(backbone, *LENGTHS))
    backbone = load(kind, gradient_checkpointing=True)
    scorer, batch = scorer_of(backbone, *random_states(backbone, 5)), random_batch(backbone, *LENGTHS)

    def backward(loss):
        scorer_of(backbone, *random_states(backbone, 2, seed=1)).word_states(rows_of(batch, 0, 2))
        in_a_thread(loss.backward)

    torch.testing.assert_close(gradient_of(scorer, batch, backward), expected, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("kind", ["bert", "albert", "deberta-v2"])
def test_threads_side_by_side_compute_what_each_does_alone(load, kind, recompute):
    backbone = load(kind, gradient_checkpointing=recompute)
    jobs = [(random_states(backbone, 1 + n, seed=n)[0], random_batch(backbone, 5 + n, 3, seed=n)) for n in range(4)]
    expected = [gradient_of(scorer_of(backbone, state), batch) for state, batch in jobs]
    found = [[] for _ in jobs]
    start = threading.Barrier(len(jobs))

    def work(number):
        start.wait()
        state, batch = jobs[number]
        for _ in range(5):
            state.zero_grad()
            found[number].append(gradient_of(scorer_of(backbone, state), batch))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(len(jobs))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for gradients, own in zip(found, expected, strict=True):
        assert len(gradients) == 5 and all(torch.equal(gradient, own) for gradient in gradients)


def test_a_forward_pass_that_failed_leaves_nothing_behind(load, monkeypatch):
    backbone = load("albert")
    scorer, batch = scorer_of(backbone, *random_states(backbone, (3, (1,)))), random_batch(backbone, *LENGTHS)
    expected = scorer.word_states(batch)
    with monkeypatch.context() as patch, pytest.raises(ZeroDivisionError):
        patch.setattr(stack._Layer, "_within", lambda *args, **kwargs: 1 / 0)
        scorer.word_states(batch)
    assert backbone.running.forward is BARE
    assert torch.equal(scorer.word_states(batch), expected)


@pytest.mark.parametrize("kind", KINDS)
def test_linear_layers_have_their_layers_and_sizes(load, kind):
    backbone = load(kind)
    modules = dict(backbone.model.named_modules())
    for linear in backbone.linears:
        rows, columns = modules[linear.name].weight.shape
        sizes = (rows, columns) if linear.transposed else (columns, rows)
        assert (linear.in_features, linear.out_features) == sizes and linear.transposed == (kind == "gpt2")
    every = tuple(range(LAYERS))
    assert {layer for linear in backbone.linears for layer in linear.layers} == set(every)
    assert {linear.layers for linear in backbone.linears} == ({every} if kind == "albert" else {(n,) for n in every})


# What is refused


@pytest.mark.parametrize(
    ("family", "changes", "message"),
    [
        ("mpnet", {}, r"\(MPNetModel\): it computes attention by itself .* so prompts would be ignored"),
        ("megatron-bert", {}, r"\(MegatronBertModel\): it computes attention by itself"),
        ("bloom", {}, "computes attention by itself|has no max_position_embeddings"),
        ("falcon", {}, "computes attention by itself"),
        ("xglm", {"d_model": 32, "num_layers": 2, "attention_heads": 4, "ffn_dim": 64}, "computes attention by itself"),
        ("gemma2", {"head_dim": 8, "num_key_value_heads": 2}, "Gemma2Attention uses attention with softcap"),
        ("gpt_oss", {"head_dim": 8, "num_key_value_heads": 2, "num_local_experts": 2}, "uses attention with s_aux"),
        ("t5", {"d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4}, "t5 is an encoder-decoder"),
        ("bart", {"d_model": 32, "encoder_layers": 1, "decoder_layers": 1}, "bart is an encoder-decoder"),
        ("vit", {"image_size": 8, "patch_size": 4}, "cannot compute states of word pieces alone"),
        (
            "lfm2",
            {"layer_types": ["conv", "full_attention"], "num_key_value_heads": 2},
            "of layers 0 in a way of its own",
        ),
    ],
)
def test_backbones_that_cannot_be_prompted_are_refused(tmp_path, family, changes, message):
    with pytest.raises(BackboneError, match=message) as caught:
        load_backbone(str(tiny_model(tmp_path, family, **changes)))
    assert str(tmp_path) in str(caught.value)
    assert "Use one that works: BERT, RoBERTa" in str(caught.value) and "docs/backbones.md" in str(caught.value)


def test_layers_of_two_attentions_are_refused(tiny_folder, monkeypatch):
    model_class = type(AutoModel.from_pretrained(tiny_folder("bert")).encoder.layer[0])
    build = model_class.__init__

    def with_cross_attention(self, config, layer_idx=None):
        build(self, config, layer_idx)
        self.second = type(self.attention.self)(config)

    def both(self, hidden, *args, **kwargs):
        return self.second(self.attention(hidden)[0])[0]

    monkeypatch.setattr(model_class, "__init__", with_cross_attention)
    monkeypatch.setattr(model_class, "forward", both)
    with pytest.raises(BackboneError, match="layers with more than one attention"):
        _installed(tiny_folder("bert"))


def test_attention_outside_of_layers_is_refused(tiny_folder):
    with pytest.raises(BackboneError, match="computes attention outside of its layers in a way of its own"):
        _installed(tiny_folder("bert"), lambda model: setattr(model.encoder, "layer", _Stack(model.encoder.layer)))


def test_a_model_that_needs_more_than_a_text_is_refused(tiny_folder, monkeypatch):
    model_class = type(AutoModel.from_pretrained(tiny_folder("bert")))

    def needing(self, input_ids, pixels):
        raise AssertionError("is not reached")

    monkeypatch.setattr(model_class, "forward", needing)
    with pytest.raises(BackboneError, match=r"cannot compute states of word pieces alone \(TypeError: .*'pixels'"):
        load_backbone(str(tiny_folder("bert")))


class _Stack(nn.Module):
    """Layers that are no list of modules."""

    def __init__(self, stack):
        super().__init__()
        for number, layer in enumerate(stack):
            self.add_module(f"own_{number}", layer)

    def __iter__(self):
        return iter(self.children())


def _installed(folder, change=lambda model: None):
    from mpt.model.backbone.attention import ATTENTION, register

    register()
    model = AutoModel.from_pretrained(folder, attn_implementation=ATTENTION).eval()
    change(model)
    running = Running()
    tie(model, running)
    return stack.install(model, running, reference=str(folder))


def test_a_backbone_of_one_layer(tmp_path):
    backbone = load_backbone(str(tiny_backbone(tmp_path, "bert", num_hidden_layers=1)), dtype="float32")
    assert backbone.num_layers == 1
    batch = random_batch(backbone, 5)
    bare, prompted = (
        states_by_row(scorer_of(backbone, *states), batch)[0] for states in ((), random_states(backbone, 3))
    )
    assert not torch.allclose(bare, prompted)


@pytest.mark.parametrize("groups", [1, 3])
def test_layers_of_groups_are_layers(tmp_path, groups):
    """ALBERT's groups may hold several layers, and there may be several groups."""
    sizes = {"num_hidden_groups": groups, "inner_group_num": 2}
    backbone = load_backbone(str(tiny_backbone(tmp_path, "albert", **sizes)), dtype="float32")
    assert backbone.num_layers == 2 * LAYERS
    probe(backbone)
