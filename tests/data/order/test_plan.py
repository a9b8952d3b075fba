import hashlib
import random
import time
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mpt.base.seeding import permutation
from mpt.data.order import plan
from mpt.data.order.plan import POOL_MICRO_BATCHES, Plan, TaskOrder, TaskSize, balanced_cuts, greedy_cuts

GOLDEN_STEPS = "412ce1d5ca9c609e137774ab4c428d97d486169c9ddcfe5997b99b5ec1bdb071"


def task(name="t", pieces=(5, 5, 5), *, rate=1.0, words=None, loss_weight=1.0):
    pieces = np.array(pieces)
    words = np.maximum(pieces - 2, 0) if words is None else np.array(words)
    return TaskSize(name=name, rate=rate, pieces=pieces, words=words, loss_weight=loss_weight)


def flat(micro_batches):
    return [(m.task, m.units.tolist(), m.weight) for m in micro_batches]


def lengths_like_text(count, seed=0):
    """Word pieces of sentences as corpora have them: log-normal around 25, 4 to 512."""
    return np.clip(np.random.default_rng(seed).lognormal(3.2, 0.6, count), 4, 512).astype(np.int64)


@st.composite
def mixtures(draw, max_tasks=4):
    count = draw(st.integers(1, max_tasks))
    weights = [draw(st.integers(1, 50)) for _ in range(count)]
    sizes = st.lists(st.integers(1, 40), min_size=1, max_size=30)
    return [task(f"task {i}", draw(sizes), rate=weight / sum(weights)) for i, weight in enumerate(weights)]


PLANS = {
    "seed": st.integers(0, 5),
    "tokens": st.integers(4, 120),
    "draws": st.integers(1, 3),
    "batches": st.integers(1, 3),
}


def make(tasks, seed, tokens, draws, batches):
    return Plan(tasks, seed=seed, tokens=tokens, micro_batches=draws * batches, tasks_per_step=draws)


@given(mixtures(), st.permutations(range(12)), st.fixed_dictionaries(PLANS))
def test_a_step_is_a_function_of_seed_and_number(tasks, numbers, shape):
    order = make(tasks, **shape)
    forwards = [flat(order.step(step)) for step in range(12)]
    asked = make(tasks, **shape)
    in_any_order = {step: flat(asked.step(step)) for step in numbers}
    alone = {step: flat(make(tasks, **shape).step(step)) for step in numbers[:3]}
    assert all(in_any_order[step] == forwards[step] for step in numbers)
    assert all(alone[step] == forwards[step] for step in alone)
    assert [flat(asked.step(step)) for step in range(12)] == forwards  # asking again changes nothing


def plain_cuts(pieces, tokens):
    """`greedy_cuts`, window by window."""
    cuts, start = [], 0
    for end in range(1, len(pieces)):
        if (end + 1 - start) * pieces[end] > tokens:
            cuts.append(end)
            start = end
    return cuts


def plain_balanced_cuts(pieces, tokens):
    """`balanced_cuts`, every budget tried."""
    cuts = plain_cuts(pieces, tokens)
    low, high = tokens // 2, tokens
    while high - low > max(1, tokens // 64):
        middle = (low + high) // 2
        attempt = plain_cuts(pieces, middle)
        low, high, cuts = (low, middle, attempt) if len(attempt) == len(cuts) else (middle, high, cuts)
    return cuts


def plain_epoch(name, pieces, *, seed, tokens, epoch):
    """The micro-batches of an epoch, as the words of `mpt.data.order.plan` have it."""
    order = permutation(seed, "windows", name, epoch, count=len(pieces))
    batches = []
    for pool in np.array_split(order, max(1, round(sum(pieces) / (POOL_MICRO_BATCHES * tokens)))):
        windows = sorted(pool.tolist(), key=lambda window: pieces[window])
        cuts = [0, *plain_balanced_cuts([pieces[window] for window in windows], tokens), len(windows)]
        batches += [windows[start:end] for start, end in pairwise(cuts)]
    return [batches[i] for i in permutation(seed, "micro-batches", name, epoch, count=len(batches))]


LENGTHS = st.one_of(
    st.lists(st.integers(1, 60), min_size=1, max_size=80),
    st.builds(lambda count, seed: lengths_like_text(count, seed).tolist(), st.integers(1, 2000), st.integers(0, 99)),
)


@given(LENGTHS.map(sorted), st.integers(1, 400))
@example([1] * 100, 60)  # two full micro-batches: no budget below the mean is worth a try, that of the mean is
@example([10] * 25 + [190], 200)  # a window longer than the budgets that are tried
def test_cuts_are_those_of_the_plain_loop(pieces, tokens):
    assert greedy_cuts(np.array(pieces), tokens) == plain_cuts(pieces, tokens)
    assert balanced_cuts(np.array(pieces), tokens) == plain_balanced_cuts(pieces, tokens)


@settings(max_examples=40)
@given(LENGTHS, st.integers(0, 5), st.sampled_from([8, 32, 256, 1024]))
def test_an_epoch_is_that_of_the_plain_words(pieces, seed, tokens):
    order = TaskOrder("t", np.array(pieces), seed=seed, tokens=tokens)
    expected = [
        batch for epoch in range(3) for batch in plain_epoch("t", pieces, seed=seed, tokens=tokens, epoch=epoch)
    ]
    assert [order.batch(number).tolist() for number in range(len(expected))] == expected
    assert TaskOrder("t", np.array(pieces), seed=seed, tokens=tokens).epochs(len(expected)) == 3


@given(mixtures(), st.fixed_dictionaries(PLANS))
def test_a_step_has_its_micro_batches_each_of_one_task(tasks, shape):
    order = make(tasks, **shape)
    for step in range(8):
        micro_batches = order.step(step)
        assert len(micro_batches) == shape["draws"] * shape["batches"]
        by_draw = [micro_batches[i : i + shape["batches"]] for i in range(0, len(micro_batches), shape["batches"])]
        assert all(len({m.task for m in draw}) == 1 for draw in by_draw)


@given(mixtures(), st.fixed_dictionaries(PLANS))
def test_no_micro_batch_exceeds_the_budget(tasks, shape):
    order = make(tasks, **shape)
    for step in range(8):
        for m in order.step(step):
            lengths = tasks[m.task].pieces[m.units]
            assert len(lengths) and (np.diff(lengths) >= 0).all()
            assert len(lengths) * lengths.max() <= shape["tokens"] or len(lengths) == 1


@given(st.lists(st.integers(1, 40), min_size=1, max_size=60), st.integers(0, 5), st.integers(4, 200))
def test_an_epoch_has_every_window_once(pieces, seed, tokens):
    order = TaskOrder("t", np.array(pieces), seed=seed, tokens=tokens)
    number = 0
    for _epoch in range(3):
        seen = []
        while len(seen) < len(pieces):
            seen += order.batch(number).tolist()
            number += 1
            assert order.epochs(number) <= _epoch + 1
        assert sorted(seen) == list(range(len(pieces)))
        assert order.epochs(number) == _epoch + 1


def test_orders_differ_between_epochs_seeds_and_tasks():
    def one_epoch(seed, epoch, name):
        order = TaskOrder(name, np.full(60, 8), seed=seed, tokens=64)
        batches, number = [], 0
        while order.epochs(number) < epoch:
            number += 1
        while order.epochs(number) < epoch + 1:
            batches.append(order.batch(number).tolist())
            number += 1
        return batches

    epochs = [one_epoch(seed, epoch, name) for seed in (0, 1) for epoch in (0, 1) for name in "ab"]
    assert len({str(sorted(epoch)) for epoch in epochs}) == len({str(epoch) for epoch in epochs}) == 8


def test_the_parts_of_a_task_order_can_be_asked_for_in_any_order():
    pieces = lengths_like_text(50)
    forwards = TaskOrder("t", pieces, seed=1, tokens=128)
    expected = [forwards.batch(number).tolist() for number in range(200)]
    asked = TaskOrder("t", pieces, seed=1, tokens=128)
    numbers = random.Random(0).sample(range(200), 200)
    assert {number: asked.batch(number).tolist() for number in numbers} == dict(enumerate(expected))


def test_the_first_steps_are_golden():
    pieces = 4 + np.arange(2000) * 7919 % 53  # four pools of micro-batches
    tasks = [task("conll", pieces, rate=0.75), task("wnut", pieces[:300], rate=0.25)]
    order = Plan(tasks, seed=42, tokens=256, micro_batches=4, tasks_per_step=2)
    steps = str([[(t, windows) for t, windows, _ in flat(order.step(step))] for step in range(300)])
    assert hashlib.sha256(steps.encode()).hexdigest() == GOLDEN_STEPS


def test_adding_a_task_leaves_the_order_of_the_others_alone():
    old = [task("a", lengths_like_text(90, 1), rate=0.5), task("b", lengths_like_text(60, 2), rate=0.5)]
    new = [task("c", lengths_like_text(70, 3), rate=0.2)]
    new += [task(t.name, t.pieces, rate=t.rate * 0.8) for t in old]

    def orders(tasks, steps):
        order = Plan(tasks, seed=0, tokens=256)
        found = {t.name: [] for t in tasks}
        for step in range(steps):
            (m,) = order.step(step)
            found[tasks[m.task].name].append(m.units.tolist())
        return found

    before, after = orders(old, 100), orders(new, 130)
    for name in ("a", "b"):
        both = min(len(before[name]), len(after[name]))
        assert both > 40
        assert before[name][:both] == after[name][:both]


@given(mixtures(), st.fixed_dictionaries(PLANS), st.data())
def test_weights_make_the_loss_a_mean_over_draws(tasks, shape, data):
    weights = [data.draw(st.sampled_from([0.5, 1.0, 3.0])) for _ in tasks]
    tasks = [
        task(t.name, t.pieces, rate=t.rate, words=np.maximum(t.pieces, 1), loss_weight=weight)
        for t, weight in zip(tasks, weights, strict=True)
    ]
    order = make(tasks, **shape)
    for step in range(6):
        micro_batches = order.step(step)
        for index in {m.task for m in micro_batches}:
            own = [m for m in micro_batches if m.task == index]
            total = sum(m.weight * int(tasks[index].words[m.units].sum()) for m in own)
            assert total == pytest.approx(tasks[index].loss_weight * len(own) / len(micro_batches))
            assert len({m.weight for m in own}) == 1  # every word of a task counts the same


def test_a_micro_batch_without_labelled_words_weighs_something_finite():
    order = Plan([task(words=[0, 0, 0])], seed=0, tokens=32)
    assert all(np.isfinite(m.weight) for m in order.step(0))


@pytest.mark.parametrize("tokens", [1024, 2048, 8192])
def test_padding_is_under_five_percent(tokens):
    pieces = lengths_like_text(20_000)
    order = TaskOrder("t", pieces, seed=0, tokens=tokens)
    filled = area = number = 0
    while number == 0 or order.epochs(number) < 1:
        lengths = pieces[order.batch(number)]
        filled, area = filled + lengths.sum(), area + len(lengths) * lengths.max()
        number += 1
    assert filled == pieces.sum()
    assert filled / area > 0.95, filled / area
    assert area / number > 0.85 * tokens, area / number  # and micro-batches are full


def test_micro_batches_of_an_epoch_are_mixed():
    """Short and long ones take turns: length is no function of time."""
    pieces = lengths_like_text(20_000)
    order = TaskOrder("t", pieces, seed=0, tokens=1024)
    means = [pieces[order.batch(number)].mean() for number in range(200)]
    correlation = np.corrcoef(means, range(200))[0, 1]
    assert np.std(means) > 5 and abs(correlation) < 0.2, correlation


@given(st.lists(st.integers(1, 60), min_size=1, max_size=80).map(sorted), st.integers(1, 400))
def test_balanced_cuts_need_no_more_micro_batches_than_greedy_ones(pieces, tokens):
    pieces = np.array(pieces)
    greedy, balanced = greedy_cuts(pieces, tokens), balanced_cuts(pieces, tokens)
    assert len(balanced) == len(greedy)
    for part in np.split(pieces, balanced):
        assert len(part) == 1 or len(part) * part.max() <= tokens


def test_balanced_cuts_leave_no_crumb():
    pieces = np.full(33, 10)  # 32 rows fit
    assert [len(part) for part in np.split(pieces, greedy_cuts(pieces, 320))] == [32, 1]
    assert min(len(part) for part in np.split(pieces, balanced_cuts(pieces, 320))) >= 16


@given(mixtures(), st.fixed_dictionaries(PLANS))
def test_epoch_of_counts_what_was_seen(tasks, shape):
    order = make(tasks, **shape)
    seen = [np.zeros(len(t.pieces)) for t in tasks]
    for step in range(5):
        for index, counts in enumerate(seen):
            epoch = make(tasks, **shape).epoch_of(index, step)
            assert epoch == order.epoch_of(index, step)
            assert counts.min() == np.floor(epoch) or epoch == counts.min() == counts.max()
            assert counts.max() == np.ceil(epoch)
        for m in order.step(step):
            np.add.at(seen[m.task], m.units, 1)


def test_orders_are_computed_once_in_a_run(monkeypatch):
    cuts = []
    monkeypatch.setattr(plan, "balanced_cuts", lambda *args: cuts.append(args) or balanced_cuts(*args))
    long = [8] * 2000  # two pools of 64 micro-batches
    order = Plan([task("a", long, rate=0.5), task("b", [8] * 20, rate=0.5)], seed=0, tokens=64)
    for step in range(3000):
        order.step(step)
    assert order.epoch_of(1, 3000) > 2
    assert len(cuts) <= 4 * (order.epoch_of(0, 3000) + 2) + 1


def test_a_step_of_a_large_mixture_is_fast_late_as_well_as_early():
    tasks = [task(f"task {i}", lengths_like_text(200, i), rate=1e-4) for i in range(10_000)]
    order = Plan(tasks, seed=0, tokens=256, micro_batches=4, tasks_per_step=4)
    for first in (0, 2_000_000):
        order.step(first)
        seconds = []
        for step in range(first + 1, first + 200):
            start = time.thread_time()
            order.step(step)
            seconds.append(time.thread_time() - start)
        assert np.median(seconds) < 2e-3


def test_shares_that_do_not_divide_are_refused():
    with pytest.raises(AssertionError):
        Plan([task()], seed=0, tokens=32, micro_batches=3, tasks_per_step=2)
