from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from common.prompts import random_low_rank, random_prompt
from common.runs import make_parts, state_bytes
from torch.nn import functional

from mpt.base.errors import DivergedError
from mpt.data.order.batch import collate
from mpt.model.state.bank import TaskState
from mpt.training.optimizer import build_optimizer, set_learning_rates
from mpt.training.step import train_step
from mpt.training.workers import Workers


def prompt_and_low_rank(backbone):
    """Two parts, both of which drop or add in every layer."""
    return TaskState([random_prompt(backbone, 3, dropout=0.2), random_low_rank(backbone, 2)])


STATES = {"prompt": None, "prompt and low-rank": prompt_and_low_rank}


@pytest.fixture
def parts(world):
    return make_parts(world)


def optimizer_of(parts, rate=0.05, weight_decay=0.0):
    rates = dict.fromkeys(("prompt", "low_rank", "backbone", "head"), rate)
    optimizer = build_optimizer(parts.scorer, rates=rates, weight_decay=weight_decay)
    set_learning_rates(optimizer, 1.0)
    return optimizer


def step(parts, number, plan, optimizer, clip_norm=0.0, seed=0, micro_batches=None, workers=None):
    return train_step(
        number,
        plan.step(number) if micro_batches is None else micro_batches,
        scorer=parts.scorer,
        tasks=parts.tasks,
        optimizer=optimizer,
        accelerator=parts.accelerator,
        workers=workers or Workers(),
        clip_norm=clip_norm,
        seed=seed,
    )


def word_losses(parts, micro_batch):
    """The loss of every word of a micro-batch, one window at a time and without padding."""
    encoded = parts.tasks[micro_batch.task]
    losses = []
    for window in micro_batch.units:
        batch = collate(encoded.splits["train"], np.array([window]), pad=0, tasks=(encoded.task.name,))
        (scores,) = parts.scorer(batch)
        losses += [functional.cross_entropy(scores, batch.labels_M, reduction="none")]
    return torch.cat(losses)


def gradients_of(parts):
    return {name: p.grad.clone() for name, p in parts.scorer.named_parameters() if p.grad is not None}


def keep_gradients(monkeypatch):
    """What the optimizer sees."""
    seen = []
    real = torch.optim.AdamW.step

    def spy(self, *args, **kwargs):
        seen.append([None if p.grad is None else p.grad.clone() for g in self.param_groups for p in g["params"]])
        return real(self, *args, **kwargs)

    monkeypatch.setattr(torch.optim.AdamW, "step", spy)
    return seen


@pytest.mark.parametrize(("micro_batches", "tasks_per_step"), [(1, 1), (4, 1), (2, 2), (6, 3)])
def test_the_loss_is_the_mean_over_draws_of_the_mean_per_word(parts, micro_batches, tasks_per_step):
    plan = parts.plan(micro_batches=micro_batches, tasks_per_step=tasks_per_step)
    chosen = plan.step(0)
    words = {}
    for micro_batch in chosen:
        words.setdefault(micro_batch.task, []).append(word_losses(parts, micro_batch).detach())
    means = {task: torch.cat(losses).mean().item() for task, losses in words.items()}
    share = {task: len(losses) / len(chosen) for task, losses in words.items()}
    result = step(parts, 0, plan, optimizer_of(parts))
    assert result.loss == pytest.approx(sum(means[task] * share[task] for task in means), rel=1e-5)
    names = {parts.tasks[task].task.name: mean for task, mean in means.items()}
    assert result.task_loss == pytest.approx(names, rel=1e-5)


def test_the_gradient_is_that_of_the_loss(parts, monkeypatch):
    plan = parts.plan(micro_batches=2, tasks_per_step=2)
    loss = sum(word_losses(parts, m).sum() * m.weight for m in plan.step(0))
    loss.backward()
    expected = gradients_of(parts)
    parts.scorer.zero_grad()
    seen = keep_gradients(monkeypatch)
    optimizer = optimizer_of(parts)
    result = step(parts, 0, plan, optimizer)
    names = {id(p): name for name, p in parts.scorer.named_parameters()}
    order = [names[id(p)] for group in optimizer.param_groups for p in group["params"]]
    found = {name: grad for name, grad in zip(order, seen[0], strict=True) if grad is not None}
    assert found.keys() == expected.keys()
    for name, gradient in found.items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-4, atol=1e-6)
    norm = torch.cat([gradient.flatten() for gradient in expected.values()]).norm().item()
    assert result.gradient_norm == pytest.approx(norm, rel=1e-4)


def test_many_small_micro_batches_equal_a_large_one(world):
    """The same windows, cut otherwise, give the same loss and move the weights alike."""
    whole, cut = make_parts(world), make_parts(world)
    plan = whole.plan(tokens=512)
    (large,) = plan.step(0)
    assert len(large.units) >= 4
    small = [replace(large, units=units) for units in np.array_split(large.units, 4)]
    one = step(whole, 0, plan, optimizer_of(whole))
    four = step(cut, 0, plan, optimizer_of(cut), micro_batches=small)
    assert four.loss == pytest.approx(one.loss, rel=1e-5)
    assert four.gradient_norm == pytest.approx(one.gradient_norm, rel=1e-4)
    assert four.num_pieces == one.num_pieces
    for name, value in whole.scorer.state_dict().items():
        torch.testing.assert_close(cut.scorer.state_dict()[name], value, rtol=1e-3, atol=2e-4)


def test_heads_that_are_not_drawn_stay_as_they_are_with_their_moments(parts):
    plan = parts.plan()
    optimizer = optimizer_of(parts, weight_decay=0.5)  # decay would move a head that is not skipped
    names = [parts.tasks[plan.step(number)[0].task].task.name for number in range(8)]
    assert len(set(names)) == 3
    parameters = dict(parts.scorer.named_parameters())
    for number, drawn in enumerate(names):

        def everything(drawn=drawn):
            idle = {n: p for n, p in parameters.items() if n.startswith("_heads") and f"task_{drawn}." not in n}
            moments = {f"{n}/{k}": v for n, p in idle.items() for k, v in optimizer.state.get(p, {}).items()}
            return {name: value.detach().numpy().tobytes() for name, value in {**idle, **moments}.items()}

        before, own = everything(), parts.scorer.head(drawn).weight.detach().clone()
        step(parts, number, plan, optimizer)
        assert everything() == before
        assert not torch.equal(own, parts.scorer.head(drawn).weight)


def test_the_prompt_moves_in_every_step_and_the_backbone_never(parts):
    backbone = {name: p.clone() for name, p in parts.scorer.backbone.model.named_parameters()}
    plan, optimizer = parts.plan(), optimizer_of(parts)
    prompt = parts.scorer.state.parts["prompt"].flat
    for number in range(3):
        before = prompt.detach().clone()
        step(parts, number, plan, optimizer)
        assert not torch.equal(before, prompt)
        assert (before != prompt).flatten(1).any(1).all(), "every layer's prompt moves"
    for name, parameter in parts.scorer.backbone.model.named_parameters():
        assert torch.equal(parameter, backbone[name])
        assert parameter.grad is None


def test_gradients_are_scaled_down_to_the_clip_norm(parts, monkeypatch):
    seen = keep_gradients(monkeypatch)
    plan = parts.plan()
    free = step(parts, 0, plan, optimizer_of(parts, rate=1e-9), clip_norm=0.0)
    clipped = step(parts, 0, plan, optimizer_of(parts, rate=1e-9), clip_norm=0.01)
    loose = step(parts, 0, plan, optimizer_of(parts, rate=1e-9), clip_norm=1e6)
    norms = [torch.cat([g.flatten() for g in gradients if g is not None]).norm().item() for gradients in seen]
    assert norms == pytest.approx([free.gradient_norm, 0.01, free.gradient_norm], rel=1e-3)
    assert clipped.gradient_norm == loose.gradient_norm == pytest.approx(free.gradient_norm, rel=1e-4)


@pytest.mark.parametrize("where", ["loss", "gradient"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_finite_stops_the_run_before_the_weights(parts, where, value, monkeypatch):
    plan, optimizer = parts.plan(micro_batches=2, tasks_per_step=2), optimizer_of(parts)
    step(parts, 0, plan, optimizer)
    before = state_bytes(parts.scorer)
    moments = {id(p): {k: v.clone() for k, v in s.items()} for p, s in optimizer.state.items()}
    second = plan.step(1)[1]
    encoded = parts.tasks[second.task]
    if where == "loss":
        forward = type(parts.scorer).forward

        def poisoned(self, batch, generator=None):
            (scores,) = forward(self, batch, generator)
            return [scores * value if batch.rows[0].tasks == (encoded.task.name,) else scores]

        monkeypatch.setattr(type(parts.scorer), "forward", poisoned)
    else:
        parts.scorer.head(encoded.task.name).weight.register_hook(lambda gradient: gradient * value)
    with pytest.raises(DivergedError) as caught:
        step(parts, 1, plan, optimizer)
    message = str(caught.value)
    assert message.startswith(f'step 2, task "{encoded.task.name}": the loss or a gradient is not finite')
    first = parts.loaded[second.task].splits["train"][encoded.splits["train"].examples_of(int(second.units[0]))]
    assert f"{first.path}:{first.lines[0]}" in message
    assert "optimizer.prompt_learning_rate" in message
    assert "resume" not in message, "a run is not resumed under another learning rate"
    assert state_bytes(parts.scorer) == before
    for parameter, state in optimizer.state.items():
        for key, moment in moments[id(parameter)].items():
            assert torch.equal(moment, state[key])


@pytest.mark.parametrize(
    ("state", "named"),
    [
        (prompt_and_low_rank, "optimizer.prompt_learning_rate and optimizer.low_rank_learning_rate"),
        (lambda backbone: TaskState(), "optimizer.head_learning_rate"),
    ],
)
def test_what_diverges_is_told_with_the_rates_of_what_is_trained(world, state, named):
    parts = make_parts(world, state=state)
    with torch.no_grad():
        for head in parts.scorer.heads().values():
            head.weight.fill_(torch.nan)
    with pytest.raises(DivergedError, match=rf"Lower {named} or raise optimizer\.warmup_steps"):
        step(parts, 0, parts.plan(), optimizer_of(parts))


def test_dropout_is_a_function_of_seed_step_and_micro_batch(world):
    def losses(seed, number, dropout=0.5):
        parts = make_parts(world, dropout=dropout)
        plan = parts.plan(micro_batches=2)
        return step(parts, number, plan, optimizer_of(parts), seed=seed, micro_batches=plan.step(0)).loss

    torch.manual_seed(7)
    first = losses(0, 0)
    torch.manual_seed(8)
    assert losses(0, 0) == first
    assert len({first, losses(1, 0), losses(0, 1), losses(0, 0, dropout=0.0)}) == 4


class HandedIn(Exception):
    """Ends a played rank's part of a step once its vectors are out of its hands."""


def play_ranks(parts, ranks, number, plan, optimizer):
    """One step on several ranks in one process: each hands in its own vectors, then the first sees everybody's."""
    vectors = []

    def hand_in(own):
        if own.dtype == torch.uint8:  # whether a rank has failed
            return own
        vectors.append(own)
        raise HandedIn

    def hand_out(own):
        return own if own.dtype == torch.uint8 else torch.cat(vectors)

    everywhere = {"num_processes": ranks, "device": torch.device("cpu")}
    for rank in range(ranks):
        accelerator = SimpleNamespace(process_index=rank, gather=hand_in, **everywhere)
        with pytest.raises(HandedIn):
            step(replace(parts, accelerator=accelerator), number, plan, optimizer, clip_norm=1.0)
    accelerator = SimpleNamespace(process_index=0, gather=hand_out, **everywhere)
    step(replace(parts, accelerator=accelerator), number, plan, optimizer, clip_norm=1.0)


@pytest.mark.parametrize("state", STATES)
def test_the_trained_bits_do_not_depend_on_the_number_of_ranks(world, state):
    trained = []
    for ranks in (1, 2, 4):
        parts = make_parts(world, dropout=0.2, state=STATES[state])
        plan, optimizer = parts.plan(micro_batches=4), optimizer_of(parts)
        for number in range(3):
            if ranks == 1:
                step(parts, number, plan, optimizer, clip_norm=1.0)
            else:
                play_ranks(parts, ranks, number, plan, optimizer)
        trained.append(state_bytes(parts.scorer))
    assert trained[0] == trained[1] == trained[2]


@pytest.mark.parametrize("state", STATES)
def test_the_trained_bits_do_not_depend_on_the_number_of_threads(world, state):
    """Side by side, with dropout, no micro-batch sees another's prompts, labels or random numbers."""
    trained = []
    for count in (1, 2, 6):
        parts, workers = make_parts(world, dropout=0.2, state=STATES[state]), Workers(count)
        plan, optimizer = parts.plan(micro_batches=6, tasks_per_step=3), optimizer_of(parts)
        for number in range(4):
            step(parts, number, plan, optimizer, clip_norm=1.0, workers=workers)
        workers.close()
        trained.append(state_bytes(parts.scorer))
    assert trained[0] == trained[1] == trained[2]
