"""PEFT's arms train what they are said to train."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from common.backbones import HEADS, HIDDEN, LAYERS, prefix_tuning, tiny_backbone

from job import Job, measure
from mpt.data.example import Sentence
from mpt.data.families.tokenization import encode
from mpt.data.order.batch import collate
from mpt.model.backbone.backbone import load_backbone
from mpt.model.heads import TokenHead
from mpt.model.scorer import Scorer
from mpt.model.state.bank import TaskState
from mpt.model.state.low_rank import LowRank
from mpt.model.state.prompt import Prompt, PromptShape

pytest.importorskip("peft", reason="PEFT is not installed: pip install 'mpt-prompts[bench]'")
pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")

LENGTH = 4
LABELS = ("O", "B-x", "I-x")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_backbone(tmp_path_factory.mktemp("backbone"), "bert", max_position_embeddings=512)


def job_of(arm, folder="b"):
    return Job(
        arm=arm,
        backbone=str(folder),
        pieces=6000,
        prompt_length=LENGTH,
        device="cpu",
        seed=0,
        learning_rate=0.01,
        score_dev=True,
    )


def model_of(arm, folder):
    from peft_trainer import new_model

    return new_model(job_of(arm, folder), num_labels=len(LABELS))


@pytest.fixture
def model(folder):
    return model_of("peft_fp32", folder)


@pytest.fixture
def batch(folder):
    """Two rows of different length, and the split that they are from."""
    rows = (("the", "new", "river"), ("a", "doctor", "saw", "the", "low", "river"))
    sentences = [
        Sentence(words=words, tags=("B-x",) * len(words), path="f", lines=tuple(range(len(words)))) for words in rows
    ]
    word_pieces = load_backbone(str(folder), dtype="float32").word_pieces
    split, _ = encode(sentences, word_pieces, LABELS)
    return split, collate(split, np.arange(2), pad=word_pieces.pad, tasks=("t",))


def forward(model, batch):
    return model(input_ids=batch.input_ids_BS, attention_mask=batch.attention_mask_BS.long()).logits


@prefix_tuning
def test_the_prefix_of_every_layer_and_the_head_are_trained_and_nothing_else(model, batch):
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    assert sum(p.numel() for p in trained.values()) == LENGTH * LAYERS * 2 * HIDDEN + len(LABELS) * (HIDDEN + 1)
    model.train()
    forward(model, batch[1])[:, :, 0].sum().backward()
    [prefix] = [p.grad for name, p in trained.items() if "prompt_encoder" in name]
    assert bool((prefix.view(LENGTH, LAYERS * 2, HIDDEN).abs().sum((0, 2)) > 0).all())


@prefix_tuning
def test_a_prefix_computes_what_a_deep_prompt_of_the_same_values_does(model, folder, batch):
    backbone = load_backbone(str(folder), dtype="float32", prompt_length=LENGTH, shifted=True)
    size = HIDDEN // HEADS
    shape = PromptShape(num_layers=LAYERS, layers=tuple(range(LAYERS)), num_heads=HEADS, length=LENGTH, head_dim=size)
    prefix = model.prompt_encoder["default"].embedding.weight.detach()
    prompt = prefix.view(LENGTH, LAYERS, 2, HEADS, size).permute(1, 2, 3, 0, 4)
    assert_equal(model, scorer_like(model, backbone, Prompt(prompt, shape)), batch[1])


def scorer_like(model, backbone, part):
    """A scorer with the head of PEFT's model."""
    head = TokenHead(HIDDEN, LABELS, seed=0, task="t")
    head.load_state_dict(model.get_base_model().classifier.modules_to_save["default"].state_dict())
    return Scorer(backbone, TaskState([part]), {"t": head})


def assert_equal(model, scorer, batch):
    model.eval()
    with torch.inference_mode():
        theirs, (ours,) = forward(model, batch).flatten(0, 1)[batch.words_M], scorer(batch)
        torch.testing.assert_close(theirs, ours, rtol=1e-4, atol=1e-5)


def test_lora_computes_what_low_rank_updates_of_the_same_values_do(folder, batch):
    """Rank 8 on every linear layer of every layer."""
    model, backbone = model_of("peft_lora_fp32", folder), load_backbone(str(folder), dtype="float32")
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad and "lora" in name}
    with torch.no_grad():
        for value in trained.values():
            value.copy_(torch.randn(value.shape) / value.shape[1] ** 0.5)
    start, end = "base_model.model.bert.", ".default.weight"
    theirs = {name.removeprefix(start).removesuffix(end): p.detach() for name, p in trained.items()}
    names = [linear.name for linear in backbone.linears]
    factors = {name: (theirs.pop(f"{name}.lora_A"), theirs.pop(f"{name}.lora_B")) for name in names}
    assert not theirs and {len(down) for down, _ in factors.values()} == {8}
    assert_equal(model, scorer_like(model, backbone, LowRank(factors, alpha=16)), batch[1])


def test_windows_become_features_with_labels_where_words_are_scored(batch):
    from peft_trainer import IGNORED, features_of

    split, collated = batch
    features = features_of(split)
    assert sum(len(feature["input_ids"]) for feature in features) == collated.num_pieces
    assert sum(sum(feature["attention_mask"]) for feature in features) == collated.num_pieces
    for feature, words in zip(features, (3, 6), strict=True):
        assert sum(label != IGNORED for label in feature["labels"]) == words
        assert feature["labels"][0] == feature["labels"][-1] == IGNORED


@pytest.mark.parametrize(
    ("arm", "bf16", "sampling"),
    [
        ("peft_fp32", False, "random"),
        ("peft_bf16", True, "random"),
        ("peft_bf16_grouped", True, "group_by_length"),
        ("peft_lora_fp32", False, "random"),
        ("peft_lora_bf16_grouped", True, "group_by_length"),
    ],
)
def test_arms_differ_in_what_they_are_named_after(arm, bf16, sampling, tmp_path):
    from peft_trainer import training_arguments

    arguments = training_arguments(job_of(arm), str(tmp_path), epochs=1)
    assert (arguments.bf16, arguments.train_sampling_strategy) == (bf16, sampling)
    assert (arguments.per_device_train_batch_size, arguments.learning_rate) == (8, 0.01)


@pytest.mark.parametrize(
    ("arm", "own"),
    [pytest.param("peft_bf16_grouped", "mpt", marks=prefix_tuning), ("peft_lora_fp32", "mpt_low_rank")],
)
def test_every_arm_trains_the_same_pieces_and_as_many_values(folder, tmp_path, monkeypatch, arm, own):
    monkeypatch.setenv("MPT_DATA", str(tmp_path))
    job = job_of(arm, folder)
    theirs, ours = measure(job), measure(replace(job, arm=own))
    assert theirs.trained_pieces == ours.trained_pieces
    assert theirs.trained_values == ours.trained_values
    assert 0 < theirs.timed_pieces < theirs.trained_pieces
    assert theirs.dev_f1 is not None and 0 <= theirs.dev_f1 <= 1
