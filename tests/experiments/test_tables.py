import csv
from io import BytesIO, StringIO

import pytest
from matplotlib.image import imread

from mpt.experiments.tables import Run, cells, figure, markdown, to_csv


def run(row, experiment, seed, test, **changes):
    facts = {
        "metric": "span_f1",
        "dev": 0.9,
        "trials": 3,
        "trained": 150_000,
        "seconds": 10.0 + seed,
        "peak_memory_mib": 800.0 + seed,
    }
    return Run(row=row, experiment=experiment, seed=seed, test=test, **(facts | changes))


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
