from math import inf, isclose

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from mpt.base.errors import ManifestError
from mpt.data.manifest.task_spec import Mixture
from mpt.data.order.mixture import mixing_rates, repetition_limits

NO_LIMIT = Mixture(max_epochs_per_task=None)
sizes_of_tasks = st.dictionaries(
    st.text("abcdef", min_size=1, max_size=3), st.integers(1, 10**7), min_size=1, max_size=7
)


def test_the_strategies_weigh_sizes():
    sizes = {"a": 100, "b": 400}
    rates = {
        strategy: mixing_rates(Mixture(strategy=strategy), sizes, rates={"a": 3.0, "b": 1.0})
        for strategy in ("proportional", "temperature", "uniform", "explicit")
    }
    assert rates["proportional"] == {"a": 0.2, "b": 0.8}
    assert rates["temperature"] == pytest.approx({"a": 1 / 3, "b": 2 / 3})
    assert rates["uniform"] == {"a": 0.5, "b": 0.5}
    assert rates["explicit"] == {"a": 0.75, "b": 0.25}


def test_a_task_over_its_limit_is_held_and_the_rest_shared_in_proportion():
    mixture = Mixture(strategy="uniform", max_epochs_per_task=10)
    rates = mixing_rates(mixture, {"tiny": 10, "big": 3000, "huge": 9000}, total=3000)
    assert rates == pytest.approx({"tiny": 10 * 10 / 3000, "big": (1 - 1 / 30) / 2, "huge": (1 - 1 / 30) / 2})


def test_a_task_that_is_held_can_push_another_over_its_limit():
    mixture = Mixture(strategy="uniform", max_epochs_per_task=1)
    rates = mixing_rates(mixture, {"a": 10, "b": 35, "c": 1000}, total=100)
    assert rates == pytest.approx({"a": 0.1, "b": 0.35, "c": 0.55})


def test_a_task_can_have_a_limit_of_its_own():
    mixture = Mixture(strategy="uniform", max_epochs_per_task=1)
    rates = mixing_rates(mixture, {"a": 10, "b": 1000}, total=100, max_epochs={"a": 3, "b": None})
    assert rates == pytest.approx({"a": 0.3, "b": 0.7})
    assert repetition_limits(mixture, {"a": 3, "b": None}) == {"a": 3, "b": 1}


def test_published_rates_are_reproduced():
    """The three NER sets of the paper at temperature 2, sizes in sentences, 20 passes, at most 80 epochs."""
    sizes = {"ontonotes": 59924, "conll03": 14041, "conll04": 922}
    rates = mixing_rates(Mixture(), sizes, total=20 * sum(sizes.values()))
    assert {name: round(rate, 3) for name, rate in rates.items()} == {
        "ontonotes": 0.641,
        "conll03": 0.31,
        "conll04": 0.049,
    }


def test_a_total_out_of_reach_is_an_error_with_the_figures():
    with pytest.raises(ManifestError) as caught:
        mixing_rates(Mixture(max_epochs_per_task=2), {"a": 100, "b": 1000}, total=2201)
    (problem,) = caught.value.problems
    assert problem == (
        "a run of 2,201 words cannot be filled: the repetition limits allow 2,200 (a 200 = 2 epochs of 100, "
        "b 2,000 = 2 epochs of 1,000). Draw less (fewer steps or passes), or raise mixture.max_epochs_per_task or a "
        "task's max_epochs."
    )
    assert mixing_rates(Mixture(max_epochs_per_task=2), {"a": 100, "b": 1000}, total=2200) == pytest.approx(
        {"a": 1 / 11, "b": 10 / 11}
    )


@pytest.mark.parametrize(
    ("sizes", "rates", "problem"),
    [
        ({}, {}, "tasks without a word to train on: all"),
        ({"a": 0, "b": 1}, {}, "tasks without a word to train on: a"),
        ({"a": 1, "b": 1}, {"a": 1.0}, "strategy explicit: no rate for b"),
    ],
)
def test_what_cannot_be_mixed_is_refused(sizes, rates, problem):
    with pytest.raises(ManifestError, match=problem):
        mixing_rates(Mixture(strategy="explicit"), sizes, rates=rates)


@given(sizes_of_tasks, st.floats(1, 100))
def test_temperature_lies_between_proportional_and_uniform(sizes, temperature):
    rates = mixing_rates(Mixture(temperature=temperature), sizes)
    total = sum(sizes.values())
    assert isclose(sum(rates.values()), 1)
    assert list(rates) == list(sizes)
    biggest, smallest = max(sizes, key=sizes.__getitem__), min(sizes, key=sizes.__getitem__)
    uniform = 1 / len(sizes)
    assert uniform * (1 - 1e-9) <= rates[biggest] <= sizes[biggest] / total * (1 + 1e-9)
    assert sizes[smallest] / total * (1 - 1e-9) <= rates[smallest] <= uniform * (1 + 1e-9)
    proportional = mixing_rates(Mixture(temperature=1.0), sizes)
    assert proportional == pytest.approx(mixing_rates(Mixture(strategy="proportional"), sizes))


@given(sizes_of_tasks, st.floats(0.1, 200), st.data())
def test_water_filling(sizes, passes, data):
    """Rates sum to 1, none passes its limit, the free ones keep their proportions and get no less than before."""
    limits = {name: data.draw(st.none() | st.floats(0.5, 200), label=name) for name in sizes}
    total = passes * sum(sizes.values())
    caps = {name: inf if limit is None else limit * sizes[name] / total for name, limit in limits.items()}
    assume(sum(caps.values()) >= 1)
    wanted = mixing_rates(NO_LIMIT, sizes)
    rates = mixing_rates(NO_LIMIT, sizes, total=total, max_epochs=limits)
    assert isclose(sum(rates.values()), 1, rel_tol=1e-9)
    assert all(0 < rates[name] <= caps[name] * (1 + 1e-6) for name in sizes)
    free = [name for name in sizes if rates[name] < caps[name] * (1 - 1e-6)]
    assert all(rates[name] >= wanted[name] * (1 - 1e-6) for name in free)
    ratios = [rates[name] / wanted[name] for name in free]
    assert all(isclose(ratio, ratios[0], rel_tol=1e-5) for ratio in ratios)
    if all(wanted[name] <= caps[name] for name in sizes):
        assert rates == pytest.approx(wanted)
