import math
from statistics import mean, stdev

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpt.experiments.comparison import (
    Result,
    comparison_json,
    comparison_markdown,
    comparison_rows,
    difference,
    experiments,
    methods,
    summarise,
)


def result(method, seed, test, *, task="ner", shots=100, dev=0.5):
    return Result(task=task, shots=shots, method=method, seed=seed, metric="span_f1", dev=dev, test=test)


RESULTS = [
    result("scratch", 0, 0.40),
    result("scratch", 1, 0.50),
    result("transfer", 0, 0.55),
    result("transfer", 1, 0.53),
]


def test_the_summary_is_in_points():
    summary = summarise([0.4, 0.5, 0.6])
    assert (summary.mean, summary.spread, summary.seeds) == (pytest.approx(50), pytest.approx(10), 3)
    assert str(summary) == "50.0 \u00b1 10.0"


def test_one_seed_has_no_spread():
    assert str(summarise([0.125])) == "12.5"
    assert summarise([0.125]).spread == 0


@given(st.lists(st.floats(0, 1), min_size=2, max_size=9))
def test_mean_and_spread_are_those_of_the_statistics(scores):
    summary = summarise(scores)
    assert math.isclose(summary.mean, 100 * mean(scores), abs_tol=1e-9)
    assert math.isclose(summary.spread, 100 * stdev(scores), abs_tol=1e-6)


def test_the_difference_is_paired_by_seed():
    gain = difference(RESULTS, "ner", 100)
    assert gain.mean == pytest.approx((15 + 3) / 2)
    assert gain.spread == pytest.approx(stdev([15, 3]))
    assert difference(list(reversed(RESULTS)), "ner", 100) == gain


def test_only_seeds_that_both_have_count():
    extra = [*RESULTS, result("transfer", 2, 0.99), result("scratch", 3, 0.01)]
    assert difference(extra, "ner", 100) == difference(RESULTS, "ner", 100)


@pytest.mark.parametrize("method", ["scratch", "transfer"])
def test_without_both_methods_there_is_no_difference(method):
    assert difference([r for r in RESULTS if r.method == method], "ner", 100) is None


def test_experiments_do_not_mix():
    other = [result("transfer", 0, 1.0, shots=200), result("scratch", 0, 0.0, task="pos")]
    assert difference([*RESULTS, *other], "ner", 100) == difference(RESULTS, "ner", 100)
    assert experiments([*RESULTS, *other]) == [("ner", 100), ("ner", 200), ("pos", 100)]


def test_baselines_come_first():
    assert methods([result(name, 0, 0.5) for name in ("transfer", "scratch", "head")]) == [
        "head",
        "scratch",
        "transfer",
    ]


def test_dev_stands_in_where_there_is_no_test():
    dev = result("transfer", 0, None, dev=0.25)
    assert dev.score == 0.25
    assert comparison_json([dev])[0]["metric"] == "dev span f1"
    assert comparison_json(RESULTS)[0]["metric"] == "test span f1"


def test_json():
    (row,) = comparison_json([*RESULTS, result("head", 0, 0.1)])
    assert (row["task"], row["shots"]) == ("ner", 100)
    assert row["methods"]["head"] == {"mean": pytest.approx(10), "spread": 0.0, "seeds": 1}
    assert row["methods"]["scratch"]["mean"] == pytest.approx(45)
    assert row["transfer_minus_scratch"]["mean"] == pytest.approx(9)


def test_the_table():
    header, rows = comparison_rows(RESULTS)
    assert header == ["task", "sentences", "score", "scratch", "transfer", "transfer - scratch"]
    assert rows == [["ner", "100", "test span f1", "45.0 \u00b1 7.1", "54.0 \u00b1 1.4", "+9.0 \u00b1 8.5"]]


def test_several_experiments_end_in_the_mean_of_their_differences():
    second = [result("scratch", 0, 0.2, shots=None), result("transfer", 0, 0.15, shots=None)]
    _, rows = comparison_rows([*RESULTS, *second])
    assert rows[1][1] == "all"
    assert rows[1][-1].startswith("-5.0")
    assert rows[2][0] == "mean"
    assert rows[2][-1] == "+2.0"


def test_a_method_that_was_not_run_shows_a_dash():
    _, rows = comparison_rows([*RESULTS, result("transfer", 0, 0.9, task="pos")])
    assert rows[1][3:] == ["-", "90.0", "-"]


def test_markdown_has_a_line_for_each_row():
    lines = comparison_markdown(RESULTS).splitlines()
    assert len(lines) == 3
    assert {line.count("|") for line in lines} == {7}
