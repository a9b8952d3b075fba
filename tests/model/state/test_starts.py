from dataclasses import replace

import numpy as np
import pytest
import torch
from common.backbones import KINDS
from common.prompts import random_bank, shape_of

from mpt.data.example import Sentence
from mpt.data.families.tokenization import encode
from mpt.data.order.batch import collate
from mpt.model.state.starts import initial_prompt

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
        batch = collate(split, np.array([window]), pad=backbone.word_pieces.pad)
        backbone.injection.prompts = [None] * backbone.num_layers
        backbone.injection.captured = []
        with torch.inference_mode():
            backbone.model(input_ids=batch.input_ids_BS)
        layers = [torch.stack([states[0] for states in pair]) for pair in backbone.injection.captured]
        backbone.injection.captured = None
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


def test_prompts_of_another_backbone_do_not_leak_in(load):
    backbone = load("bert")
    splits, shape = encoded(backbone, TEXTS), shape_of(backbone, 4)
    expected = initial_prompt(backbone, shape, splits, initialisation="text", seed=0)
    backbone.injection.prompts = random_bank(backbone, 3).layer_prompts(torch.float32)
    assert torch.equal(initial_prompt(backbone, shape, splits, initialisation="text", seed=0), expected)
    assert backbone.injection.captured is None


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
