import hashlib
from dataclasses import replace

import numpy as np
import pytest
import torch
from common.backbones import DECODERS, HIDDEN, KINDS, POSITIONS, tiny_backbone
from common.prompts import LABELS, random_bank, random_batch, rows_of, states_by_row, tagger_of
from torch.nn import functional

from mpt.base.errors import BackboneError, MptError
from mpt.base.seeding import torch_generator
from mpt.data.example import Sentence
from mpt.data.families.tokenization import encode
from mpt.data.order.batch import collate
from mpt.model.backbone import attention as injection
from mpt.model.backbone.backbone import load_backbone
from mpt.model.heads import TokenHead
from mpt.model.scorer import Tagger, word_means

LENGTHS = (23, 9, 1, 14, 9)
SLOTS = ((3, (0, 1, 2)), (5, (2,)), (1, (1, 2)), (4, ()))
"""Different lengths and different prompted layers; the last prompts nothing."""


COMPUTED_POSITIONS = (
    "modernbert",
    "deberta",
    "deberta-v2",
    "deberta-v3",
    *(kind for kind in DECODERS if kind != "gpt2"),
)


def close(actual, expected, tolerance=2e-5):
    torch.testing.assert_close(actual, expected, atol=tolerance, rtol=1e-4)


def loss_of(tagger, batch, **options):
    return functional.cross_entropy(tagger("t", batch, **options), batch.labels_M, reduction="sum")


def gradients(tagger, batch, **options):
    tagger.zero_grad()
    loss_of(tagger, batch, **options).backward()
    return {name: p.grad.clone() for name, p in tagger.named_parameters() if p.grad is not None}


def digest(model):
    """SHA-256 over every parameter and buffer."""
    found = hashlib.sha256()
    for name, tensor in sorted([*model.named_parameters(), *model.named_buffers()]):
        found.update(name.encode() + tensor.detach().contiguous().view(torch.uint8).numpy().tobytes())
    return found.hexdigest()


# Rows do not meet


@pytest.mark.parametrize("prompted", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_padding_and_company_change_nothing(load, kind, prompted):
    backbone = load(kind)
    tagger = tagger_of(backbone, random_bank(backbone, 5) if prompted else None)
    batch = random_batch(backbone, *LENGTHS)
    together = states_by_row(tagger, batch)
    for rows in [(0,), (1,), (2,), (4, 2, 0), (3, 1)]:
        for row, states in zip(rows, states_by_row(tagger, rows_of(batch, *rows)), strict=True):
            close(states, together[row])


@pytest.mark.parametrize("shifted", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_of_many_slots_equals_separate_batches(load, kind, shifted):
    backbone = load(kind, shifted=shifted, prompt_length=5)
    tagger = tagger_of(backbone, random_bank(backbone, *SLOTS))
    batch, slots = random_batch(backbone, *LENGTHS), [1, 3, 0, 2, 1]
    mixed = states_by_row(tagger, batch, slots)
    for row, slot in enumerate(slots):
        shape, prompt = tagger.bank.shapes[slot], tagger.bank.slots[slot]
        alone = tagger_of(backbone, type(tagger.bank)([prompt], [shape]))
        close(mixed[row], states_by_row(alone, rows_of(batch, row))[0])


@pytest.mark.parametrize("kind", KINDS)
def test_slots_of_a_batch_receive_their_own_gradient(load, kind):
    """As if each had been trained alone, and nothing where no row uses it."""
    backbone = load(kind)
    tagger = tagger_of(backbone, random_bank(backbone, *SLOTS))
    batch, slots = random_batch(backbone, *LENGTHS), torch.tensor([0, 1, 1, 0, 1])
    loss_of(tagger, batch, slots_B=slots).backward()
    assert tagger.bank.slots[2].grad is None
    for slot in (0, 1):
        rows = batch.words_M // batch.input_ids_BS.shape[1]
        alone = tagger_of(backbone, random_bank(backbone, *SLOTS))
        scores = alone("t", batch, slots_B=torch.full((len(LENGTHS),), slot))
        own = slots[rows] == slot
        functional.cross_entropy(scores[own], batch.labels_M[own], reduction="sum").backward()
        close(tagger.bank.slots[slot].grad, alone.bank.slots[slot].grad, 1e-4)
        assert (tagger.bank.slots[slot].grad.flatten(1).abs().sum(1) > 0).all()


def test_all_rows_in_slot_0_is_the_default(load):
    backbone = load("bert")
    tagger = tagger_of(backbone, random_bank(backbone, *SLOTS))
    batch = random_batch(backbone, *LENGTHS)
    default, named = states_by_row(tagger, batch), states_by_row(tagger, batch, [0] * len(LENGTHS))
    for one, other in zip(default, named, strict=True):
        close(one, other)


def test_a_bare_tagger_after_a_prompted_one_is_bare(load):
    backbone, batch = load("bert"), random_batch(load("bert"), *LENGTHS)
    bare = states_by_row(tagger_of(backbone, None), batch)
    states_by_row(tagger_of(backbone, random_bank(backbone, 5)), batch)
    assert all(torch.equal(a, b) for a, b in zip(states_by_row(tagger_of(backbone, None), batch), bare, strict=True))


# Words of several pieces


@pytest.mark.parametrize("kind", ["bert", "llama"])
def test_a_word_is_the_mean_of_its_pieces_whatever_stands_beside_it(load, kind):
    backbone = load(kind, word_state="mean")
    sentences = [("lowest", "river", "low"), ("low",), ("xxxxxx", "the")]
    sentences = [Sentence(words=it, tags=None, path="f", lines=tuple(range(len(it)))) for it in sentences]
    split, _ = encode(sentences, backbone.word_pieces, None)
    assert split.widths.max() > 1, "some words have several pieces"
    tagger = tagger_of(backbone, random_bank(backbone, 5))
    found = states_by_row(tagger, collate(split, np.arange(3), pad=backbone.word_pieces.pad))
    for window in range(3):
        whole = collate(split, np.array([window]), pad=backbone.word_pieces.pad)
        pieces = states_by_row(tagger, replace(whole, words_M=torch.arange(whole.num_pieces), widths_M=None))[0]
        words = zip(whole.words_M.tolist(), whole.widths_M.tolist(), strict=True)
        close(found[window], torch.stack([pieces[first : first + width].mean(0) for first, width in words]))


def test_the_mean_of_bfloat16_states_is_taken_in_float32():
    states, widths = torch.randn(400, 8).bfloat16(), torch.tensor([390, 10])
    means = word_means(states, torch.tensor([0, 390]), widths)
    assert means.dtype == torch.float32
    close(means[0], states[:390].double().mean(0).float(), 1e-6)


# What is trained


@pytest.mark.parametrize("kind", KINDS)
def test_every_prompted_layer_receives_gradient(load, kind):
    backbone = load(kind)
    for layers in [(0, 1, 2), (1,), (0, 2)]:
        tagger = tagger_of(backbone, random_bank(backbone, (5, layers)))
        found = gradients(tagger, random_batch(backbone, *LENGTHS))
        assert set(found) == {"bank.slots.0", "_heads.task_t.weight", "_heads.task_t.bias"}
        assert found["bank.slots.0"].shape[0] == len(layers)
        # Every key and every value of every layer, head and virtual token.
        assert (found["bank.slots.0"].abs().sum(-1) > 0).all()


@pytest.mark.parametrize("kind", KINDS)
def test_recomputing_layers_changes_no_gradient(load, monkeypatch, kind):
    calls, runs = [], []
    attend = injection.matmul_attention
    monkeypatch.setattr(injection, "matmul_attention", lambda *args: calls.append(args) or attend(*args))
    found = []
    for checkpointing in (False, True):
        backbone = load(kind, gradient_checkpointing=checkpointing)
        tagger = tagger_of(backbone, random_bank(backbone, *SLOTS))
        batch, slots = random_batch(backbone, *LENGTHS), torch.tensor([0, 1, 2, 0, 1])
        calls.clear()
        found.append(gradients(tagger, batch, slots_B=slots))
        runs.append(len(calls))
    plain, recomputed = found
    assert runs == [3, 6]  # layers did run twice
    for name, value in plain.items():
        close(recomputed[name], value)
    assert all(plain[f"bank.slots.{slot}"].abs().max() > 0 for slot in (0, 1, 2))


@pytest.mark.parametrize("kind", KINDS)
def test_layers_below_the_first_prompt_are_not_recomputed(load, monkeypatch, kind):
    calls = []
    attend = injection.matmul_attention
    monkeypatch.setattr(injection, "matmul_attention", lambda *args: calls.append(args) or attend(*args))
    backbone = load(kind, gradient_checkpointing=True)
    tagger = tagger_of(backbone, random_bank(backbone, (5, (2,))))
    calls.clear()
    gradients(tagger, random_batch(backbone, *LENGTHS))
    assert len(calls) == 3 + 1


@pytest.mark.parametrize("kind", ["llama", "modernbert", "distilbert", "electra", "albert", "deberta-v3"])
def test_the_backbone_has_no_dropout_when_layers_are_recomputed(tmp_path, kind):
    """Recomputed with other values dropped, layers would have other outputs."""
    names = dict.fromkeys(("electra", "albert", "deberta-v3"), ("attention_probs_dropout_prob", "hidden_dropout_prob"))
    names |= {"llama": ("attention_dropout",)}
    names |= {"modernbert": ("attention_dropout", "mlp_dropout", "embedding_dropout")}
    options = dict.fromkeys(names.get(kind, ("attention_dropout", "dropout")), 0.5)
    folder = tiny_backbone(tmp_path / kind, kind, **options)
    found = []
    for checkpointing in (False, True):
        backbone = load_backbone(str(folder), dtype="float32", gradient_checkpointing=checkpointing)
        tagger = tagger_of(backbone, random_bank(backbone, 5))
        found.append(gradients(tagger, random_batch(backbone, *LENGTHS)))
    for name, value in found[0].items():
        close(found[1][name], value)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("kind", KINDS)
def test_training_moves_prompts_and_heads_and_never_the_backbone(load, kind, dtype):
    backbone = load(kind, dtype=dtype)
    tagger = tagger_of(backbone, random_bank(backbone, 5, dropout=0.1), dropout=0.1)
    before = digest(backbone.model)
    start = {name: value.detach().clone() for name, value in tagger.named_parameters()}
    optimizer = torch.optim.AdamW(tagger.parameters(), lr=0.05)
    losses = []
    for step in range(8):
        optimizer.zero_grad()
        loss = loss_of(tagger, random_batch(backbone, *LENGTHS), generator=torch_generator(0, step))
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    assert digest(backbone.model) == before
    assert all(p.grad is None and not p.requires_grad for p in backbone.model.parameters())
    assert all((value != start[name]).any() for name, value in tagger.named_parameters())
    assert all(value.dtype == torch.float32 for value in tagger.parameters())


def test_state_is_what_is_trained_and_nothing_else(load):
    backbone = load("bert")
    heads = {name: TokenHead(HIDDEN, LABELS, seed=0, task=name) for name in ("keys", "items", "a.b")}
    with pytest.raises(KeyError):
        Tagger(backbone, random_bank(backbone, 5), heads)
    heads.pop("a.b")
    tagger = Tagger(backbone, random_bank(backbone, 5), heads)
    assert list(tagger.heads) == ["keys", "items"] and tagger.head("keys") is heads["keys"]
    names = {"bank.slots.0", *(f"_heads.task_{name}.{part}" for name in heads for part in ("weight", "bias"))}
    assert set(tagger.state_dict()) == {name for name, _ in tagger.named_parameters()} == names
    tagger.train()
    assert not backbone.model.training  # dropout of the backbone stays off


# Positions


@pytest.mark.parametrize("kind", KINDS)
def test_prompts_cost_no_input_length(load, kind):
    backbone = load(kind, prompt_length=40)
    assert backbone.word_pieces.room + len(backbone.word_pieces.prefix + backbone.word_pieces.suffix) == POSITIONS
    states = states_by_row(tagger_of(backbone, random_bank(backbone, 40)), random_batch(backbone, POSITIONS))
    assert len(states[0]) == POSITIONS and bool(torch.isfinite(states[0]).all())


@pytest.mark.parametrize("kind", KINDS)
def test_shifted_positions_leave_room_for_the_text(load, kind):
    backbone = load(kind, prompt_length=20, shifted=True)
    text = backbone.word_pieces.room + len(backbone.word_pieces.prefix + backbone.word_pieces.suffix)
    assert text == POSITIONS - 20
    states_by_row(tagger_of(backbone, random_bank(backbone, 20)), random_batch(backbone, text))
    if kind not in COMPUTED_POSITIONS:  # the others have a row for each position, and no more
        with pytest.raises((IndexError, RuntimeError)):
            states_by_row(tagger_of(backbone, random_bank(backbone, 20)), random_batch(backbone, text + 1))


@pytest.mark.parametrize("kind", KINDS)
def test_a_prompt_that_leaves_no_room_is_refused(load, kind):
    with pytest.raises(BackboneError) as caught:
        load(kind, prompt_length=40, shifted=True)
    message = str(caught.value)
    assert "word pieces of text fit beside the prompt" in message and "fewer than 32" in message
    assert "Use a shorter prompt, or positions: unshifted" in message


def test_first_positions(load):
    assert {kind: load(kind).first_position for kind in ("bert", "roberta", "xlm-roberta", "llama")} == {
        "bert": 0,
        "roberta": 2,
        "xlm-roberta": 2,
        "llama": 0,
    }


@pytest.mark.parametrize("kind", KINDS)
def test_a_prompt_of_nothing_but_positions(load, kind):
    """Shifted by zero is unshifted: both count from the same first position."""
    plain, shifted = load(kind), load(kind, shifted=True)
    batch = random_batch(plain, *LENGTHS)
    expected = states_by_row(tagger_of(plain, random_bank(plain, 0)), batch)
    for ours, theirs in zip(states_by_row(tagger_of(shifted, random_bank(shifted, 0)), batch), expected, strict=True):
        close(ours, theirs)


# Precision and scores


@pytest.mark.parametrize("kind", KINDS)
def test_bfloat16_is_close_to_float32(load, kind):
    results = []
    for dtype in ("float32", "bfloat16"):
        backbone = load(kind, dtype=dtype)
        assert backbone.dtype == getattr(torch, dtype)
        tagger = tagger_of(backbone, random_bank(backbone, *SLOTS))
        batch = random_batch(backbone, *LENGTHS)
        scores = tagger("t", batch, slots_B=torch.tensor([0, 1, 2, 3, 0]))
        assert scores.dtype == torch.float32 and scores.shape == (sum(LENGTHS), len(LABELS))
        functional.cross_entropy(scores, batch.labels_M).backward()
        results.append([tagger.word_states(batch).detach(), tagger.bank.slots[0].grad])
    for exact, rounded in zip(*results, strict=True):
        assert rounded.dtype == torch.float32
        error = (rounded - exact).norm() / exact.norm()
        assert error < 0.05, float(error)


def test_dropout_follows_its_stream_and_nothing_else(load):
    backbone = load("bert")
    tagger = tagger_of(backbone, random_bank(backbone, 5, dropout=0.3), dropout=0.3)
    batch = random_batch(backbone, *LENGTHS)

    def scores(*name):
        with torch.no_grad():
            return tagger("t", batch, generator=torch_generator(*name) if name else None)

    first = scores(0, "dropout", 1)
    torch.manual_seed(77)
    tagger.eval()
    assert torch.equal(scores(0, "dropout", 1), first)
    assert not torch.equal(scores(0, "dropout", 2), first) and not torch.equal(scores(), first)
    assert torch.equal(scores(), scores())


def test_unknown_tasks_are_named(load):
    tagger = tagger_of(load("bert"), None, task="wnut17")
    with pytest.raises(MptError, match=r'no head for task "wnut": this model has wnut17\. Did you mean "wnut17"\?'):
        tagger("wnut", random_batch(load("bert"), 3))
