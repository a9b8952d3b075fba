from dataclasses import replace

import numpy as np
import pytest
import torch
from common.backbones import HIDDEN, KINDS, LAYERS
from common.prompts import random_batch, random_low_rank, random_prompt, random_states, scorer_of, scores_of, shape_of

from mpt.base.errors import CheckpointError, ConfigError
from mpt.base.settings import LowRankSettings, PromptSettings
from mpt.data.example import Sentence
from mpt.data.families.tokenization import encode
from mpt.data.order.batch import collate
from mpt.model.backbone.forward import ForwardPass
from mpt.model.state.bank import TaskState
from mpt.model.state.input_prompt import InputPrompt
from mpt.model.state.starts import (
    StatePlan,
    chosen_layers,
    fresh_state,
    initial_embeddings,
    initial_prompt,
    restored_state,
    virtual_tokens,
)
from mpt.model.state.weights import Weights

TEXTS = (("the low river", "a doctor", "is it not new"), ("Don't", "in the lowest , newest river"))


def encoded(backbone, texts):
    def sentence(text):
        words = tuple(text.split())
        return Sentence(words=words, tags=None, path="f", lines=(1,) * len(words))

    return [encode([sentence(text) for text in task], backbone.word_pieces, None)[0] for task in texts]


def real_states(backbone, split):
    """Keys and values that the bare backbone computes at scored pieces, window by window: [words, layers, 2, G, D]."""
    found = []
    for window in range(len(split)):
        batch, seen = collate(split, np.array([window]), pad=backbone.word_pieces.pad), []
        with torch.inference_mode():
            backbone(batch, ForwardPass(observe=lambda _, keys, values, seen=seen: seen.append((keys, values))))
        layers = [torch.stack([states[0] for states in pair]) for pair in seen]
        found.append(torch.stack(layers).permute(3, 0, 1, 2, 4)[batch.words_M])  # from [L, 2, G, S, D]
    return torch.cat(found).clone()


@pytest.mark.parametrize("layers", [(0, 1, 2), (1,), (0, 2)])
@pytest.mark.parametrize("kind", KINDS)
def test_text_prompts_are_keys_and_values_of_real_words(load, kind, layers):
    backbone = load(kind)
    splits = encoded(backbone, TEXTS)
    shape = shape_of(backbone, 7, layers)
    prompt = initial_prompt(backbone, shape, splits, initialisation="text", seed=0)
    assert prompt.shape == shape.tensor_shape and prompt.dtype == torch.float32 and not prompt.requires_grad
    real = torch.cat([real_states(backbone, split) for split in splits])[:, list(layers)]
    tokens = prompt.permute(3, 0, 1, 2, 4)
    distance = (tokens[:, None] - real[None]).flatten(2).abs().amax(2)  # one word through all layers, keys and values
    assert (distance.amin(1) < 1e-4).all(), distance.amin(1)


def test_every_task_gives_its_share(load):
    backbone = load("bert")
    splits = encoded(backbone, TEXTS)
    for length, least in [(8, 4), (7, 3), (1, 0)]:
        prompt = initial_prompt(backbone, shape_of(backbone, length), splits, initialisation="text", seed=0)
        tokens = prompt.permute(3, 0, 1, 2, 4)
        # The first layer sees pieces and positions alone, so two tasks may share a state there; the last does not.
        near = [(tokens[:, None] - real_states(backbone, split)[None]).flatten(2).abs().amax(2).amin(1) < 1e-4
                for split in splits]  # fmt: skip
        assert all(int(found.sum()) >= least for found in near)
        assert (near[0] | near[1]).all()


def test_tasks_with_the_same_text_draw_for_themselves(load):
    backbone = load("bert")
    (split, _) = encoded(backbone, TEXTS)

    def distinct(seed):
        prompt = initial_prompt(backbone, shape_of(backbone, 8), [split, split], initialisation="text", seed=seed)
        return len(prompt[-1].permute(2, 0, 1, 3).flatten(1).unique(dim=0))

    # Four from each: if both drew the same, no seed would give more than four. One seed may, by chance.
    assert max(distinct(seed) for seed in range(5)) > 4


def test_what_was_computed_before_does_not_leak_in(load):
    backbone = load("bert")
    splits, shape = encoded(backbone, TEXTS), shape_of(backbone, 4)
    expected = initial_prompt(backbone, shape, splits, initialisation="text", seed=0)
    scores_of(scorer_of(backbone, *random_states(backbone, 3)), random_batch(backbone, 9))
    assert torch.equal(initial_prompt(backbone, shape, splits, initialisation="text", seed=0), expected)


@pytest.mark.parametrize("initialisation", ["text", "normal_0.02", "normal_1"])
def test_it_is_a_function_of_the_seed(load, initialisation):
    backbone = load("bert")
    splits, shape = encoded(backbone, TEXTS), shape_of(backbone, 6)

    def drawn(seed):
        return initial_prompt(backbone, shape, splits, initialisation=initialisation, seed=seed)

    first = drawn(0)
    torch.manual_seed(99)
    assert torch.equal(drawn(0), first) and not torch.equal(drawn(1), first)


@pytest.mark.parametrize(("initialisation", "scale"), [("normal_0.02", 0.02), ("normal_1", 1.0)])
def test_noise(load, initialisation, scale):
    backbone = load("bert")
    shape = replace(shape_of(backbone, 200), head_dim=50)
    noise = initial_prompt(backbone, shape, [], initialisation=initialisation, seed=0)
    assert noise.shape == shape.tensor_shape and noise.dtype == torch.float32
    assert abs(noise.std() / scale - 1) < 0.01 and abs(noise.mean() / scale) < 0.01


def test_text_prompts_in_bfloat16(load):
    """Drawn at the same words, whatever the precision of the backbone."""
    prompts = []
    for dtype in ("float32", "bfloat16"):
        backbone = load("bert", dtype=dtype)
        splits = encoded(backbone, TEXTS)
        prompts.append(initial_prompt(backbone, shape_of(backbone, 6), splits, initialisation="text", seed=0))
    assert prompts[1].dtype == torch.float32
    assert (prompts[0] - prompts[1]).norm() / prompts[0].norm() < 0.05


def test_texts_that_give_no_virtual_token_are_not_computed(load):
    backbone = load("bert")
    calls = []
    backbone.model.register_forward_pre_hook(lambda *args: calls.append(args))
    prompt = initial_prompt(
        backbone, shape_of(backbone, 3), encoded(backbone, TEXTS) * 20, initialisation="text", seed=0
    )
    assert prompt.shape[3] == 3
    assert len(calls) == 3


# Input prompts


def test_text_embeddings_are_those_of_pieces_of_every_task(load):
    backbone = load("bert")
    splits = encoded(backbone, TEXTS)
    found = initial_embeddings(backbone, 6, splits, initialisation="text", seed=0)
    assert found.shape == (6, HIDDEN) and found.dtype == torch.float32 and not found.requires_grad
    for number, row in enumerate(found):
        pieces = torch.from_numpy(splits[number % 2].pieces.astype("int64"))
        assert (backbone.word_embeddings.weight[pieces] == row).all(1).any()


# Whole states


def plan_of(*parts, **changes):
    settings = {"prompt": PromptSettings(length=3, dropout=0.1), "low_rank": LowRankSettings(rank=2)}
    return StatePlan(parts=parts, **(settings | changes))


def test_a_fresh_state_has_the_parts_of_its_plan(load):
    backbone = load("bert")
    splits = encoded(backbone, TEXTS)
    for parts in ((), ("prompt",), ("prompt", "low_rank"), ("input",), ("weights",)):
        state = fresh_state(plan_of(*parts), backbone, splits, seed=0)
        assert tuple(state.parts) == parts
    state = fresh_state(plan_of("prompt", "low_rank"), backbone, splits, seed=0)
    shape = shape_of(backbone, 3)
    expected = initial_prompt(backbone, shape, splits, initialisation="text", seed=0)
    assert torch.equal(state.parts["prompt"].flat, expected) and state.parts["prompt"].dropout == 0.1
    assert state.parts["low_rank"].names == [linear.name for linear in backbone.linears], "all, unless told"
    assert state.parts["low_rank"].rank == 2 and not any(up.any() for up in state.parts["low_rank"].ups)
    biases = fresh_state(plan_of("weights", biases=True), backbone, splits, seed=0)
    assert biases.specs == {"weights": {"biases": True}}


def test_a_fresh_state_comes_out_of_the_network_that_is_asked_for(load):
    backbone = load("bert")
    prompt = PromptSettings(length=3, reparameterisation="mlp", hidden_size=8)
    for kind in ("prompt", "input"):
        part = fresh_state(plan_of(kind, prompt=prompt), backbone, encoded(backbone, TEXTS), seed=0).parts[kind]
        assert part.network is not None and part.network_rate == prompt.chosen_network_rate
        (value,) = part.values().values()
        assert torch.equal(torch.cat([it.flatten() for it in part.from_tokens(part.network())]), value.flatten())


def test_settings_choose_layers(load):
    backbone = load("bert")
    low_rank = LowRankSettings(rank=1, layers=(1,), targets="attention")
    plan = plan_of("prompt", "low_rank", prompt=PromptSettings(length=2, layers=1), low_rank=low_rank)
    state = fresh_state(plan, backbone, encoded(backbone, TEXTS), seed=0)
    assert state.parts["prompt"].shape.layers == (LAYERS - 1,)
    assert {name.split(".")[2] for name in state.parts["low_rank"].names} == {"1"}


def test_chosen_layers(load):
    backbone = load("bert")
    assert chosen_layers(backbone, "all", field="f") == (0, 1, 2)
    assert chosen_layers(backbone, 2, field="f") == (1, 2)
    assert chosen_layers(backbone, (0, 2), field="f") == (0, 2)
    for wrong in (0, 4, (3,), (1, 0), (1, 1), (-1,), ()):
        with pytest.raises(
            ConfigError, match=r"^prompt\.layers: .* over a backbone of 3 layers\. Expected all, a numb"
        ):
            chosen_layers(backbone, wrong, field="prompt.layers")


def saved(state):
    return state.specs, {name: value.detach().clone() for name, value in state.values().items()}


def random_parts(backbone):
    """A part of each kind, and what a state of it and a prompt would be."""
    weights = Weights(backbone, biases=True)
    with torch.no_grad():
        for value in weights.parameters():
            value.add_(0.1)
    generator = torch.Generator().manual_seed(0)
    return {
        "prompt": [random_prompt(backbone, 3, (0, 2))],
        "low_rank": [random_low_rank(backbone, 2, targets="attention")],
        "both": [random_prompt(backbone, 3), random_low_rank(backbone, 2)],
        "input": [InputPrompt(torch.randn((3, HIDDEN), generator=generator))],
        "weights": [weights],
        "nothing": [],
    }


@pytest.mark.parametrize("name", ["prompt", "low_rank", "both", "input", "weights", "nothing"])
def test_a_restored_state_is_that_which_was_saved(load, name):
    backbone = load("bert").behind(3)
    state = TaskState(random_parts(backbone)[name])
    specs, values = saved(state)
    restored = restored_state(specs, values, backbone, where="here")
    assert restored.specs == specs and list(restored.values()) == list(values)
    assert all(torch.equal(value, values[key]) for key, value in restored.values().items())
    batch = random_batch(backbone, 9, 4)
    assert torch.equal(scores_of(scorer_of(backbone, restored), batch), scores_of(scorer_of(backbone, state), batch))
    assert virtual_tokens(specs) == state.virtual_tokens


@pytest.mark.parametrize("kind", ["mlp", "lstm"])
def test_a_restored_prompt_may_be_trained_on_through_a_network(load, kind):
    backbone = load("bert")
    specs, values = saved(TaskState([random_prompt(backbone, 3), random_low_rank(backbone, 2)]))
    how = PromptSettings(reparameterisation=kind, hidden_size=8, dropout=0.2)
    restored = restored_state(specs, values, backbone, where="here", prompt=how, seed=1)
    assert torch.equal(restored.parts["prompt"].flat, values["prompt.values"]), "it starts where the saved one is"
    assert restored.parts["prompt"].network is not None and restored.parts["prompt"].dropout == 0.2


@pytest.mark.parametrize(
    ("name", "tensor", "wrong", "expected"),
    [
        ("prompt", "values", (2, 2, 4, 5, 8), (2, 2, 4, 3, 8)),
        ("low_rank", "encoder.layer.0.attention.self.query.lora_A.weight", (3, 32), (2, 32)),
        ("input", "embeddings", (4, 32), (3, 32)),
        ("weights", "embeddings.LayerNorm.bias", (31,), (32,)),
        ("prompt", "values", None, (2, 2, 4, 3, 8)),
        ("low_rank", "encoder.layer.0.attention.self.query.lora_B.weight", None, (32, 2)),
        ("weights", "nowhere.bias", (3,), None),
    ],
)
def test_tensors_that_are_not_those_of_the_specs_are_refused(load, name, tensor, wrong, expected):
    backbone = load("bert")
    specs, values = saved(TaskState(random_parts(backbone)[name]))
    values.pop(f"{name}.{tensor}", None)
    if wrong is not None:
        values[f"{name}.{tensor}"] = torch.zeros(wrong)
    with pytest.raises(CheckpointError) as caught:
        restored_state(specs, values, backbone, where="run/step")
    assert str(caught.value) == (
        f"run/step: {name} {tensor} has shape {wrong}, expected {expected}. The checkpoint was put together from two "
        "others"
    )


def test_specs_of_another_backbone_are_refused(load):
    """A linear layer that this one does not have."""
    specs, values = saved(TaskState([random_low_rank(load("llama"), 2)]))
    with pytest.raises(
        CheckpointError, match=r"^here: low_rank layers\.0\.self_attn\.q_proj\.lora_A\.weight has shape"
    ):
        restored_state(specs, values, load("bert"), where="here")
