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
from mpt.model.scorer import Tagger
from mpt.model.state.bank import PromptBank, PromptShape

pytest.importorskip("peft", reason="PEFT is not installed: pip install 'mpt-prompts[bench]'")
pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")

LENGTH = 4
LABELS = ("O", "B-x", "I-x")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_backbone(tmp_path_factory.mktemp("backbone"), "bert", max_position_embeddings=512)


@pytest.fixture
def model(folder):
    from peft_trainer import prefix_model

    return prefix_model(str(folder), num_labels=len(LABELS), prompt_length=LENGTH)


@pytest.fixture
def batch(folder):
    """Two rows of different length, and the split that they are from."""
    rows = (("the", "new", "river"), ("a", "doctor", "saw", "the", "low", "river"))
    sentences = [
        Sentence(words=words, tags=("B-x",) * len(words), path="f", lines=tuple(range(len(words)))) for words in rows
    ]
    word_pieces = load_backbone(str(folder), dtype="float32").word_pieces
    split, _ = encode(sentences, word_pieces, LABELS)
    return split, collate(split, np.arange(2), pad=word_pieces.pad)


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
    head = TokenHead(HIDDEN, LABELS, seed=0, task="t")
    classifier = model.get_base_model().classifier.modules_to_save["default"]
    head.load_state_dict(classifier.state_dict())
    tagger = Tagger(backbone, PromptBank([prompt], [shape]), {"t": head})
    model.eval()
    with torch.inference_mode():
        theirs = forward(model, batch[1]).flatten(0, 1)[batch[1].words_M]
        torch.testing.assert_close(theirs, tagger("t", batch[1]), rtol=1e-4, atol=1e-5)


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
    ],
)
def test_arms_differ_in_what_they_are_named_after(arm, bf16, sampling, tmp_path):
    from peft_trainer import training_arguments

    job = Job(arm=arm, backbone="b", pieces=1, prompt_length=1, device="cpu", seed=0, learning_rate=0.01)
    arguments = training_arguments(job, str(tmp_path), epochs=1)
    assert (arguments.bf16, arguments.train_sampling_strategy) == (bf16, sampling)
    assert (arguments.per_device_train_batch_size, arguments.learning_rate) == (8, 0.01)


@prefix_tuning
def test_every_arm_trains_the_same_pieces_and_as_many_values(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("MPT_DATA", str(tmp_path))
    job = Job(
        arm="peft_bf16_grouped",
        backbone=str(folder),
        pieces=6000,
        prompt_length=LENGTH,
        device="cpu",
        seed=0,
        learning_rate=0.01,
        score_dev=True,
    )
    theirs, ours = measure(job), measure(replace(job, arm="mpt"))
    assert theirs.trained_pieces == ours.trained_pieces
    assert theirs.trained_values == ours.trained_values
    assert 0 < theirs.timed_pieces < theirs.trained_pieces
    assert theirs.dev_f1 is not None and 0 <= theirs.dev_f1 <= 1
