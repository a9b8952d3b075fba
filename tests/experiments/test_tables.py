import csv
import math
from io import BytesIO, StringIO
from statistics import mean, stdev

import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.image import imread

from mpt.experiments.tables import (
    Result,
    by_experiment,
    cells,
    difference,
    figure,
    gains_json,
    gains_table,
    grid,
    markdown,
    summarise,
    to_csv,
)


def run(row, experiment, seed, test, **changes):
    facts = {
        "metric": "span_f1",
        "dev": 0.9,
        "trials": 3,
        "trained": 150_000,
        "seconds": 10.0 + seed,
        "peak_memory_mib": 800.0 + seed,
        "method": "scratch",
        "task": experiment,
        "shots": None,
    }
    return Result(row=row, experiment=experiment, seed=seed, test=test, **(facts | changes))


@pytest.fixture
def runs():
    return [
        run("fine-tuning", "a", 0, 0.5, trained=22_000_000),
        run("fine-tuning", "a", 1, 0.7, trained=22_000_000),
        run("P-Tuning v2", "a", 0, 0.6),
        run("P-Tuning v2", "b-100", 0, None, metric="accuracy", dev=0.25),
    ]


def test_runs_of_a_row_are_put_together(runs):
    first, *others = cells(runs)
    assert (first.row, first.experiment, first.metric) == ("fine-tuning", "a", "test span f1")
    assert (first.score.mean, first.score.seeds) == (pytest.approx(60), 2)
    assert first.score.spread == pytest.approx(14.142, abs=1e-3)
    assert (first.seconds, first.peak_memory_mib, first.trained) == (10.5, 801.0, 22_000_000)
    assert [cell.metric for cell in others] == ["test span f1", "dev accuracy"]


def test_the_table_shows_scores_and_what_they_cost(runs):
    scores, costs = markdown(runs).split("\n\n")
    assert scores.splitlines() == [
        "|  | a, test span f1 | b-100, dev accuracy |",
        "| --- | ---: | ---: |",
        "| fine-tuning | 60.0 \u00b1 14.1 | - |",
        "| P-Tuning v2 | 60.0 | 25.0 |",
    ]
    assert costs.splitlines()[2:] == [
        "| fine-tuning | a | 22.000 | 3 | 10 | 801 |",
        "| P-Tuning v2 | a | 0.150 | 3 | 10 | 800 |",
        "| P-Tuning v2 | b-100 | 0.150 | 3 | 10 | 800 |",
    ]


def test_what_is_published_beside_a_score_stands_beside_it():
    runs = [run("x", "squad", seed, 0.5 + seed / 10, metric="qa_f1", beside=0.25) for seed in (0, 1)]
    runs.append(run("x", "roles", 0, None, metric="srl_f1", beside=0.95))
    scores = markdown(runs).split("\n\n")[0].splitlines()
    assert scores[0] == "|  | squad, test qa f1 (exact match) | roles, dev srl f1 (with V) |"
    assert [cell.metric for cell in cells(runs)] == ["test qa f1", "dev srl f1"], "the figure shows the score alone"
    assert scores[2] == "| x | 55.0 \u00b1 7.1 (25.0 \u00b1 0.0) | 90.0 (95.0) |"


def test_every_run_is_a_line_of_csv(runs):
    rows = list(csv.DictReader(StringIO(to_csv(runs))))
    assert [(row["row"], row["seed"], row["test"]) for row in rows][2:] == [
        ("P-Tuning v2", "0", "0.6"),
        ("P-Tuning v2", "0", ""),
    ]
    assert float(rows[0]["seconds"]) == runs[0].seconds


def test_the_figure_is_a_picture_with_a_panel_for_each_experiment(runs):
    wide, narrow = (imread(BytesIO(figure(some, title="A title"))) for some in (runs, runs[:3]))
    assert wide.shape[1] > 1.4 * narrow.shape[1]
    assert len({tuple(pixel) for pixel in wide.reshape(-1, wide.shape[2])[::37].tolist()}) > 3
    assert figure(runs, title="A title") == figure(runs, title="A title")


# Of a transfer: what it gains


def result(method, seed, test, *, task="ner", shots=100, dev=0.5):
    return run(method, f"{task}-{shots}", seed, test, task=task, shots=shots, method=method, dev=dev)


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
    gain = difference(RESULTS)
    assert gain.mean == pytest.approx((15 + 3) / 2)
    assert gain.spread == pytest.approx(stdev([15, 3]))
    assert difference(list(reversed(RESULTS))) == gain


def test_only_seeds_that_both_have_count():
    extra = [*RESULTS, result("transfer", 2, 0.99), result("scratch", 3, 0.01)]
    assert difference(extra) == difference(RESULTS)


@pytest.mark.parametrize("method", ["scratch", "transfer"])
def test_without_both_methods_there_is_no_difference(method):
    assert difference([r for r in RESULTS if r.method == method]) is None


def test_experiments_do_not_mix():
    other = [result("transfer", 0, 1.0, shots=200), result("scratch", 0, 0.0, task="pos")]
    first, *others = by_experiment([*RESULTS, *other])
    assert difference(first) == difference(RESULTS)
    assert [(own[0].task, own[0].shots, len(own)) for own in others] == [("ner", 200, 1), ("pos", 100, 1)]


def test_baselines_come_first():
    mixed = [result(name, 0, 0.5) for name in ("transfer", "scratch", "head")]
    assert gains_table(mixed)[0][3:-1] == list(gains_json(mixed)[0]["methods"]) == ["head", "scratch", "transfer"]


def test_dev_stands_in_where_there_is_no_test():
    dev = result("transfer", 0, None, dev=0.25)
    assert dev.score == 0.25
    assert gains_json([dev])[0]["metric"] == "dev span f1"
    assert gains_json(RESULTS)[0]["metric"] == "test span f1"


def test_json():
    (row,) = gains_json([*RESULTS, result("head", 0, 0.1)])
    assert (row["task"], row["shots"]) == ("ner", 100)
    assert row["methods"]["head"] == {"mean": pytest.approx(10), "spread": 0.0, "seeds": 1}
    assert row["methods"]["scratch"]["mean"] == pytest.approx(45)
    assert row["transfer_minus_scratch"]["mean"] == pytest.approx(9)


def test_the_table():
    header, rows = gains_table(RESULTS)
    assert header == ["task", "sentences", "score", "scratch", "transfer", "transfer - scratch"]
    assert rows == [["ner", "100", "test span f1", "45.0 \u00b1 7.1", "54.0 \u00b1 1.4", "+9.0 \u00b1 8.5"]]


def test_several_experiments_end_in_the_mean_of_their_differences():
    second = [result("scratch", 0, 0.2, shots=None), result("transfer", 0, 0.15, shots=None)]
    _, rows = gains_table([*RESULTS, *second])
    assert rows[1][1] == "all"
    assert rows[1][-1].startswith("-5.0")
    assert rows[2][0] == "mean"
    assert rows[2][-1] == "+2.0"


def test_a_method_that_was_not_run_shows_a_dash():
    _, rows = gains_table([*RESULTS, result("transfer", 0, 0.9, task="pos")])
    assert rows[1][3:] == ["-", "90.0", "-"]


def test_markdown_has_a_line_for_each_row():
    lines = grid(*gains_table(RESULTS)).splitlines()
    assert len(lines) == 3
    assert {line.count("|") for line in lines} == {7}
