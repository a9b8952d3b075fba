import hashlib
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mpt.base.seeding import uniforms
from mpt.data.order import draws
from mpt.data.order.draws import Draws

GOLDEN_DRAWS = "b7a88c49aed4f2ff7bb13c12ff21ebc110d86b8baaca5293ffcf3148c8e75b3b"

RATES = st.lists(st.integers(1, 1000), min_size=1, max_size=8).map(
    lambda weights: [(f"task {i}", weight / sum(weights)) for i, weight in enumerate(weights)]
)


def plain_schedule(tasks, *, seed, count):
    """The first draws in one piece: every time of every task, sorted."""
    times = []
    for index, (name, rate) in enumerate(tasks):
        own = int(np.ceil((count + len(tasks)) * rate)) + 2
        points = uniforms(seed, "draw", name, count=own)
        times += [((occurrence + float(points[occurrence])) / rate, index, occurrence) for occurrence in range(own)]
    return [(index, occurrence) for _, index, occurrence in sorted(times)][:count]


def first_draws(tasks, *, seed, count):
    order = Draws(tasks, seed=seed)
    return np.array([order.at(draw) for draw in range(count)]).T


@given(RATES, st.integers(0, 5))
def test_draws_are_those_of_the_plain_schedule(tasks, seed):
    assert [tuple(pair) for pair in first_draws(tasks, seed=seed, count=300).T.tolist()] == plain_schedule(
        tasks, seed=seed, count=300
    )


@settings(max_examples=40)
@given(RATES, st.integers(0, 5), st.lists(st.integers(0, 2000), min_size=1, max_size=6))
def test_any_draw_can_be_gone_to(tasks, seed, places):
    expected = plain_schedule(tasks, seed=seed, count=2001)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(draws, "KEPT", 32)  # so that most places are gone to and not walked to
        order = Draws(tasks, seed=seed)
        for draw in places:
            assert Draws(tasks, seed=seed).at(draw) == order.at(draw) == expected[draw]
            for earlier in range(max(draw - 20, 0), draw):
                assert order.at(earlier) == expected[earlier]
            for task in range(len(tasks)):
                before = sum(index == task for index, _ in expected[:draw])
                assert order.drawn(task, before=draw) == Draws(tasks, seed=seed).drawn(task, before=draw) == before


def test_a_far_draw_costs_no_walk(monkeypatch):
    tasks = [(f"task {i}", 1 / 50) for i in range(50)]
    asked = []
    monkeypatch.setattr(draws, "uniforms", lambda *name, **what: asked.append(what) or uniforms(*name, **what))
    Draws(tasks, seed=0).at(10**9)
    assert len(asked) <= 4 * len(tasks)


@given(RATES, st.integers(0, 5), st.integers(1, 300))
def test_draws_stay_within_one_of_their_share(tasks, seed, count):
    found, occurrences = first_draws(tasks, seed=seed, count=count)
    for index, (name, rate) in enumerate(tasks):
        own = np.flatnonzero(found == index)
        assert occurrences[own].tolist() == list(range(len(own)))
        # In mixture time: draw j of a task lies in its j-th interval of 1/rate. In draws, the other tasks' own
        # deviations add up, at most one each.
        expected = rate * np.arange(1, len(found) + 1)
        assert (np.abs(np.cumsum(found == index) - expected) <= len(tasks)).all(), (name, rate)


def test_each_draw_falls_into_its_interval_of_mixture_time():
    # Four equal tasks: every quarter of mixture time has one draw of each, in an order that changes.
    tasks = [(f"task {i}", 0.25) for i in range(4)]
    found = first_draws(tasks, seed=0, count=4000)[0].reshape(-1, 4)
    assert (np.sort(found) == range(4)).all()
    assert len({tuple(row) for row in found.tolist()}) == 24


@pytest.mark.parametrize("seed", range(3))
def test_rare_tasks_do_not_disturb(seed):
    tasks = [("large", 0.9), *((f"small {i}", 1e-4) for i in range(1000))]
    found = first_draws(tasks, seed=seed, count=1000)[0]
    assert abs((found == 0).mean() - 0.9) < 0.05


def test_rates_are_met_over_a_long_run():
    rates = [0.6, 0.3, 0.09, 0.01]
    found = first_draws([(str(r), r) for r in rates], seed=3, count=10_000)[0]
    counts = np.bincount(found)
    assert np.abs(counts - 10_000 * np.array(rates)).max() <= len(rates)


def test_the_first_draws_are_golden():
    tasks = [("conll", 0.5), ("wnut", 0.25), ("ncbi", 0.2), ("snips", 0.05)]
    found = first_draws(tasks, seed=42, count=10_000)
    assert hashlib.sha256(found.astype("<i8").tobytes()).hexdigest() == GOLDEN_DRAWS


def test_what_was_left_behind_can_be_asked_for_again():
    tasks = [("a", 0.7), ("b", 0.3)]
    count = draws.KEPT + 2000
    order = Draws(tasks, seed=1)
    expected = [order.at(draw) for draw in range(count)]
    for draw in random.Random(0).sample(range(count), 50):
        assert order.at(draw) == expected[draw]
