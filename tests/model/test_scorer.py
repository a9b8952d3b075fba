import hashlib
from dataclasses import replace

import numpy as np
import pytest
import torch
from common.backbones import DECODERS, HIDDEN, KINDS, POSITIONS, tiny_backbone
from common.prompts import (
    LABELS,
    in_slots,
    random_batch,
    random_low_rank,
    random_states,
    row_numbers,
    rows_of,
    scorer_of,
    scores_of,
    states_by_row,
)
from torch.nn import functional

from mpt.base.errors import BackboneError, MptError
from mpt.base.seeding import torch_generator
from mpt.data.example import Sentence
from mpt.data.families.tokenization import encode
from mpt.data.order.batch import collate, mixed
from mpt.model.backbone import attention as injection
from mpt.model.backbone.backbone import load_backbone
from mpt.model.heads import TokenHead
from mpt.model.scorer import Scorer, word_means
from mpt.model.state.bank import TaskState

LENGTHS = (23, 9, 1, 14, 9)
SLOTS = ((3, (0, 1, 2)), (5, (2,)), (1, (1, 2)), (4, ()))
"""Different lengths and different prompted layers; the last prompts nothing."""
PROMPT = "bank._slots.0._parts.prompt.flat"

COMPUTED_POSITIONS = (
    "modernbert",
    "deberta",
    "deberta-v2",
    "deberta-v3",
    *(kind for kind in DECODERS if kind != "gpt2"),
)


def close(actual, expected, tolerance=2e-5):
    torch.testing.assert_close(actual, expected, atol=tolerance, rtol=1e-4)


def loss_of(scorer, batch, generator=None):
    return functional.cross_entropy(scores_of(scorer, batch, generator), batch.labels_M, reduction="sum")


def gradients(scorer, batch):
    scorer.zero_grad()
    loss_of(scorer, batch).backward()
    return {name: p.grad.clone() for name, p in scorer.named_parameters() if p.grad is not None}


def prompt_of(scorer, slot=0):
    return scorer.bank.state(slot).parts["prompt"].flat


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
    scorer = scorer_of(backbone, *(random_states(backbone, 5) if prompted else ()))
    batch = random_batch(backbone, *LENGTHS)
    together = states_by_row(scorer, batch)
    for rows in [(0,), (1,), (2,), (4, 2, 0), (3, 1)]:
        for row, states in zip(rows, states_by_row(scorer, rows_of(batch, *rows)), strict=True):
            close(states, together[row])


@pytest.mark.parametrize("shifted", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_of_many_slots_equals_separate_batches(load, kind, shifted):
    backbone = load(kind, shifted=shifted, prompt_length=5)
    scorer = scorer_of(backbone, *random_states(backbone, *SLOTS))
    batch, slots = random_batch(backbone, *LENGTHS), [1, 3, 0, 2, 1]
    together = states_by_row(scorer, batch, slots)
    for row, slot in enumerate(slots):
        alone = scorer_of(backbone, scorer.bank.state(slot))
        close(together[row], states_by_row(alone, rows_of(batch, row))[0])


@pytest.mark.parametrize("kind", KINDS)
def test_slots_of_a_batch_receive_their_own_gradient(load, kind):
    """As if each had been trained alone, and nothing where no row uses it."""
    backbone = load(kind)
    scorer = scorer_of(backbone, *random_states(backbone, *SLOTS))
    batch, slots = random_batch(backbone, *LENGTHS), torch.tensor([0, 1, 1, 0, 1])
    loss_of(scorer, in_slots(batch, slots.tolist())).backward()
    assert prompt_of(scorer, 2).grad is None
    for slot in (0, 1):
        alone = scorer_of(backbone, random_states(backbone, *SLOTS)[slot])
        own = slots[row_numbers(batch)] == slot
        functional.cross_entropy(scores_of(alone, batch)[own], batch.labels_M[own], reduction="sum").backward()
        close(prompt_of(scorer, slot).grad, prompt_of(alone).grad, 1e-4)
        assert (prompt_of(scorer, slot).grad.flatten(1).abs().sum(1) > 0).all()


def test_rows_of_one_slot_are_computed_alike_wherever_it_stands(load):
    backbone = load("bert")
    scorer = scorer_of(backbone, *random_states(backbone, *SLOTS))
    batch = random_batch(backbone, *LENGTHS)
    default, named = states_by_row(scorer, batch), states_by_row(scorer, batch, [0] * len(LENGTHS))
    assert all(torch.equal(one, other) for one, other in zip(default, named, strict=True))


def test_a_bare_scorer_after_a_prompted_one_is_bare(load):
    backbone, batch = load("bert"), random_batch(load("bert"), *LENGTHS)
    bare = states_by_row(scorer_of(backbone), batch)
    states_by_row(scorer_of(backbone, *random_states(backbone, 5)), batch)
    assert all(torch.equal(a, b) for a, b in zip(states_by_row(scorer_of(backbone), batch), bare, strict=True))


# Words of several pieces


@pytest.mark.parametrize("kind", ["bert", "llama"])
def test_a_word_is_the_mean_of_its_pieces_whatever_stands_beside_it(load, kind):
    backbone = load(kind, word_state="mean")
    sentences = [("lowest", "river", "low"), ("low",), ("xxxxxx", "the")]
    sentences = [Sentence(words=it, tags=None, path="f", lines=tuple(range(len(it)))) for it in sentences]
    split, _ = encode(sentences, backbone.word_pieces, None)
    assert split.widths.max() > 1, "some words have several pieces"
    scorer, how = scorer_of(backbone, *random_states(backbone, 5)), {"pad": backbone.word_pieces.pad, "tasks": ("t",)}
    found = states_by_row(scorer, collate(split, np.arange(3), **how))
    for window in range(3):
        whole = collate(split, np.array([window]), **how)
        pieces = states_by_row(scorer, replace(whole, words_M=torch.arange(whole.num_pieces), widths_M=None))[0]
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
        scorer = scorer_of(backbone, *random_states(backbone, (5, layers)))
        found = gradients(scorer, random_batch(backbone, *LENGTHS))
        assert set(found) == {PROMPT, "_heads.slot_0.task_t.weight", "_heads.slot_0.task_t.bias"}
        assert found[PROMPT].shape[0] == len(layers)
        # Every key and every value of every layer, head and virtual token.
        assert (found[PROMPT].abs().sum(-1) > 0).all()


@pytest.mark.parametrize("kind", KINDS)
def test_recomputing_layers_changes_no_gradient(load, monkeypatch, kind):
    calls, runs = [], []
    attend = injection.matmul_attention
    monkeypatch.setattr(injection, "matmul_attention", lambda *args: calls.append(args) or attend(*args))
    found = []
    for checkpointing in (False, True):
        backbone = load(kind, gradient_checkpointing=checkpointing)
        scorer = scorer_of(backbone, *random_states(backbone, *SLOTS))
        calls.clear()
        found.append(gradients(scorer, in_slots(random_batch(backbone, *LENGTHS), [0, 1, 2, 0, 1])))
        runs.append(len(calls))
    plain, recomputed = found
    assert runs == [3, 6]  # layers did run twice
    for name, value in plain.items():
        close(recomputed[name], value)
    assert all(plain[PROMPT.replace("0", str(slot))].abs().max() > 0 for slot in (0, 1, 2))


@pytest.mark.parametrize("kind", KINDS)
def test_layers_below_the_first_prompt_are_not_recomputed(load, monkeypatch, kind):
    calls = []
    attend = injection.matmul_attention
    monkeypatch.setattr(injection, "matmul_attention", lambda *args: calls.append(args) or attend(*args))
    backbone = load(kind, gradient_checkpointing=True)
    scorer = scorer_of(backbone, *random_states(backbone, (5, (2,))))
    calls.clear()
    gradients(scorer, random_batch(backbone, *LENGTHS))
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
        scorer = scorer_of(backbone, *random_states(backbone, 5))
        found.append(gradients(scorer, random_batch(backbone, *LENGTHS)))
    for name, value in found[0].items():
        close(found[1][name], value)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("kind", KINDS)
def test_training_moves_states_and_heads_and_never_the_backbone(load, kind, dtype):
    backbone = load(kind, dtype=dtype)
    (state,) = random_states(backbone, 5, dropout=0.1)
    scorer = scorer_of(backbone, TaskState([*state.parts.values(), random_low_rank(backbone, 2)]), dropout=0.1)
    before = digest(backbone.model)
    start = {name: value.detach().clone() for name, value in scorer.named_parameters()}
    optimizer = torch.optim.AdamW(scorer.parameters(), lr=0.02)
    losses = []
    for step in range(8):
        optimizer.zero_grad()
        loss = loss_of(scorer, random_batch(backbone, *LENGTHS), torch_generator(0, step))
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    assert digest(backbone.model) == before
    assert all(p.grad is None and not p.requires_grad for p in backbone.model.parameters())
    assert all((value != start[name]).any() for name, value in scorer.named_parameters())
    assert all(value.dtype == torch.float32 for value in scorer.parameters())


def test_state_is_what_is_trained_and_nothing_else(load):
    backbone = load("bert")
    heads = {name: TokenHead(HIDDEN, LABELS, seed=0, task=name) for name in ("keys", "items", "a.b")}
    with pytest.raises(KeyError):
        Scorer(backbone, *random_states(backbone, 5), heads)
    heads.pop("a.b")
    scorer = Scorer(backbone, *random_states(backbone, 5), heads)
    assert list(scorer.heads()) == ["keys", "items"] and scorer.head("keys") is heads["keys"]
    names = {PROMPT, *(f"_heads.slot_0.task_{name}.{part}" for name in heads for part in ("weight", "bias"))}
    assert set(scorer.state_dict()) == {name for name, _ in scorer.named_parameters()} == names
    scorer.train()
    assert not backbone.model.training  # dropout of the backbone stays off


# Positions


@pytest.mark.parametrize("kind", KINDS)
def test_prompts_cost_no_input_length(load, kind):
    backbone = load(kind, prompt_length=40)
    assert backbone.word_pieces.room + len(backbone.word_pieces.prefix + backbone.word_pieces.suffix) == POSITIONS
    states = states_by_row(scorer_of(backbone, *random_states(backbone, 40)), random_batch(backbone, POSITIONS))
    assert len(states[0]) == POSITIONS and bool(torch.isfinite(states[0]).all())


@pytest.mark.parametrize("kind", KINDS)
def test_shifted_positions_leave_room_for_the_text(load, kind):
    backbone = load(kind, prompt_length=20, shifted=True)
    text = backbone.word_pieces.room + len(backbone.word_pieces.prefix + backbone.word_pieces.suffix)
    assert text == POSITIONS - 20
    scorer = scorer_of(backbone, *random_states(backbone, 20))
    states_by_row(scorer, random_batch(backbone, text))
    if kind not in COMPUTED_POSITIONS:  # the others have a row for each position, and no more
        with pytest.raises((IndexError, RuntimeError)):
            states_by_row(scorer, random_batch(backbone, text + 1))


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
    expected = states_by_row(scorer_of(plain, *random_states(plain, 0)), batch)
    found = states_by_row(scorer_of(shifted, *random_states(shifted, 0)), batch)
    for ours, theirs in zip(found, expected, strict=True):
        close(ours, theirs)


# Precision and scores


@pytest.mark.parametrize("kind", KINDS)
def test_bfloat16_is_close_to_float32(load, kind):
    results = []
    for dtype in ("float32", "bfloat16"):
        backbone = load(kind, dtype=dtype)
        assert backbone.dtype == getattr(torch, dtype)
        scorer = scorer_of(backbone, *random_states(backbone, *SLOTS))
        batch = random_batch(backbone, *LENGTHS)
        scores = scores_of(scorer, in_slots(batch, [0, 1, 2, 3, 0]))
        assert scores.dtype == torch.float32 and scores.shape == (sum(LENGTHS), len(LABELS))
        functional.cross_entropy(scores, batch.labels_M).backward()
        results.append([scorer.word_states(batch).detach(), prompt_of(scorer).grad])
    for exact, rounded in zip(*results, strict=True):
        assert rounded.dtype == torch.float32
        error = (rounded - exact).norm() / exact.norm()
        assert error < 0.05, float(error)


def test_dropout_follows_its_stream_and_nothing_else(load):
    backbone = load("bert")
    scorer = scorer_of(backbone, *random_states(backbone, 5, dropout=0.3), dropout=0.3)
    batch = random_batch(backbone, *LENGTHS)

    def scores(*name):
        with torch.no_grad():
            return scores_of(scorer, batch, torch_generator(*name) if name else None)

    first = scores(0, "dropout", 1)
    torch.manual_seed(77)
    scorer.eval()
    assert torch.equal(scores(0, "dropout", 1), first)
    assert not torch.equal(scores(0, "dropout", 2), first) and not torch.equal(scores(), first)
    assert torch.equal(scores(), scores())


def test_unknown_tasks_are_named(load):
    scorer = scorer_of(load("bert"), task="wnut17")
    with pytest.raises(MptError, match=r'no head for task "wnut": this model has wnut17\. Did you mean "wnut17"\?'):
        scorer(random_batch(load("bert"), 3, tasks=("wnut",)))


# Several slots


def scorer_of_three(backbone):
    """Slots 0 to 2 of different parts, with heads of their own; slot 1 has two tasks."""
    tasks = (("a",), ("b", "c"), ("a",))
    states = (
        *random_states(backbone, 5),
        TaskState([random_low_rank(backbone, 2)]),
        TaskState(),
    )
    heads = [
        {name: TokenHead(HIDDEN, LABELS, seed=slot, task=name) for name in names} for slot, names in enumerate(tasks)
    ]
    scorer = Scorer(backbone, states[0], heads[0])
    assert [scorer.add(*pair) for pair in zip(states[1:], heads[1:], strict=True)] == [1, 2]
    return scorer


def batches_of_three(backbone):
    """One of each slot of `scorer_of_three`, not in order, and of different width."""
    found = []
    for slot, tasks, lengths in (
        (2, ("a",), (9, 4)),
        (1, ("b", "c"), (14,)),
        (0, ("a",), (3, 6, 1)),
        (1, ("c",), (2,)),
    ):
        batch = random_batch(backbone, *lengths, seed=slot, tasks=tasks)
        found.append(replace(batch, rows=tuple(replace(group, slot=slot) for group in batch.rows)))
    return found


def test_each_group_of_rows_and_each_of_its_tasks_has_scores_of_its_own(load):
    backbone = load("bert")
    scorer, batches = scorer_of_three(backbone), batches_of_three(backbone)
    found = scorer(mixed(batches, pad=backbone.word_pieces.pad))
    expected = [scores for batch in batches for scores in scorer(batch)]
    assert [len(scores) for scores in found] == [13, 14, 14, 10, 2]
    for ours, theirs in zip(found, expected, strict=True):
        close(ours, theirs)


def test_tasks_that_share_a_slot_share_the_hidden_states(load):
    """Of a batch of one group with three tasks there is one pass through the backbone."""
    backbone = load("bert")
    heads = {name: TokenHead(HIDDEN, LABELS, seed=0, task=name) for name in ("a", "b", "c")}
    scorer, calls = Scorer(backbone, *random_states(backbone, 5), heads), []
    handle = backbone.model.register_forward_pre_hook(lambda *args: calls.append(args))
    found = scorer(random_batch(backbone, *LENGTHS, tasks=("a", "b", "c")))
    handle.remove()
    assert len(calls) == 1 and len(found) == 3
    states = scorer.word_states(random_batch(backbone, *LENGTHS))
    assert all(torch.equal(scores, heads[name](states)) for name, scores in zip("abc", found, strict=True))


def test_a_slot_that_is_added_or_removed_changes_nothing_for_others(load):
    backbone = load("bert")
    scorer, batches = scorer_of_three(backbone), batches_of_three(backbone)
    before = [scorer(batch) for batch in batches]
    added = scorer.add(*random_states(backbone, 7, seed=1), {"d": TokenHead(HIDDEN, LABELS, seed=0, task="d")})
    assert added == 3 and list(scorer.heads(3)) == ["d"]
    scorer(replace(batches[0], rows=(replace(batches[0].rows[0], slot=3, tasks=("d",)),)))
    after = [scorer(batch) for batch in batches]
    scorer.remove(1)
    assert scorer.bank.slots == [0, 2, 3]
    again = [scorer(batch) for batch in (batches[0], batches[2])]
    for ours, theirs in zip([*after, *again], [*before, before[0], before[2]], strict=True):
        assert all(torch.equal(one, other) for one, other in zip(ours, theirs, strict=True))


def test_the_number_of_a_removed_slot_is_not_used_again(load):
    backbone = load("bert")
    scorer, heads = scorer_of_three(backbone), {"a": TokenHead(HIDDEN, LABELS, seed=0, task="a")}
    scorer.remove(2)
    assert scorer.add(TaskState(), heads) == 3
    scorer.remove(3)
    assert scorer.add(TaskState(), heads) == 4
    assert scorer.bank.slots == [0, 1, 4]
    with pytest.raises(MptError, match=r"no slot 2: this model has slots 0, 1, 4"):
        scorer(batches_of_three(backbone)[0])


def test_training_works_on_slot_0_alone(load):
    backbone = load("bert")
    scorer, alone = scorer_of_three(backbone), scorer_of(backbone, *random_states(backbone, 5), task="a")
    assert scorer.num_trained == alone.num_trained == sum(p.numel() for p in alone.parameters())
    assert {part: set(own) for part, own in scorer.tensors().items()} == {
        "state": {"prompt.values"},
        "networks": set(),
        "heads": {"a.weight", "a.bias"},
    }


def test_what_is_restored_is_what_was_taken(load):
    backbone = load("bert")
    scorer, other = (scorer_of(backbone, *random_states(backbone, 5, seed=seed)) for seed in (0, 1))
    with torch.no_grad():
        other.head("t").weight.add_(1)
    batch = random_batch(backbone, *LENGTHS)
    assert not torch.equal(scores_of(scorer, batch), scores_of(other, batch))
    scorer.restore(other.tensors())
    assert torch.equal(scores_of(scorer, batch), scores_of(other, batch))


def test_a_text_that_nobody_scores_is_computed_by_the_bare_backbone(load):
    backbone = load("bert")
    scorer, batch = scorer_of(backbone, *random_states(backbone, 5)), random_batch(backbone, *LENGTHS)
    bare = scorer_of(backbone).word_states(batch)
    assert torch.equal(scorer.word_states(replace(batch, rows=())), bare)
