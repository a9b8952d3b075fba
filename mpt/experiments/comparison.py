"""Several methods on several tasks over seeds: mean, spread and the difference that users ask for."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import mean, stdev
from typing import Any

from rich.table import Table

from mpt.experiments.methods import METHODS

TRANSFER = "transfer"
SCRATCH = "scratch"


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """The score of one trained model.

    Attributes:
        task: Name of the task.
        shots: Training sentences drawn; None for all.
        method: Its name, see `mpt.experiments.methods`.
        seed: Seed of the run.
        metric: Name of the score.
        dev, test: Scores in [0, 1]; test is None where there is no test split or it was not asked for.
    """

    task: str
    shots: int | None
    method: str
    seed: int
    metric: str
    dev: float
    test: float | None

    @property
    def score(self) -> float:
        """The score to report: test, or dev where there is none."""
        return self.dev if self.test is None else self.test


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """Mean and spread over seeds, in points of 100.

    Attributes:
        mean: Mean score.
        spread: Standard deviation over seeds (n - 1); 0 for one seed.
        seeds: How many.
    """

    mean: float
    spread: float
    seeds: int

    def __str__(self) -> str:
        """`mean +- spread`, or the mean alone for one seed."""
        return f"{self.mean:.1f} \u00b1 {self.spread:.1f}" if self.seeds > 1 else f"{self.mean:.1f}"


def summarise(scores: Sequence[float]) -> Summary:
    """Mean and spread of scores in [0, 1]."""
    points = [100 * score for score in scores]
    return Summary(mean=mean(points), spread=stdev(points) if len(points) > 1 else 0.0, seeds=len(points))


def difference(results: Iterable[Result], task: str, shots: int | None) -> Summary | None:
    """Transfer minus from-scratch, paired by seed; None unless both were run."""
    by_method = {
        method: {r.seed: r.score for r in results if (r.task, r.shots, r.method) == (task, shots, method)}
        for method in (TRANSFER, SCRATCH)
    }
    seeds = [seed for seed in by_method[TRANSFER] if seed in by_method[SCRATCH]]
    if not seeds:
        return None
    return summarise([by_method[TRANSFER][seed] - by_method[SCRATCH][seed] for seed in seeds])


def experiments(results: Sequence[Result]) -> list[tuple[str, int | None]]:
    """The (task, shots) pairs, in order of first occurrence."""
    return list(dict.fromkeys((result.task, result.shots) for result in results))


def methods(results: Sequence[Result]) -> list[str]:
    """Methods in the order baselines first, transfer last."""
    found = dict.fromkeys(result.method for result in results)
    return sorted(found, key=lambda method: list(METHODS).index(method))


def comparison_json(results: Sequence[Result]) -> list[dict[str, Any]]:
    """One object for each experiment: summary of each method, and the difference."""
    rows = []
    for task, shots in experiments(results):
        row: dict[str, Any] = {"task": task, "shots": shots, "metric": _metric(results, task), "methods": {}}
        for method in methods(results):
            scores = _scores(results, task, shots, method)
            if scores:
                summary = summarise(scores)
                row["methods"][method] = {"mean": summary.mean, "spread": summary.spread, "seeds": summary.seeds}
        gain = difference(results, task, shots)
        row["transfer_minus_scratch"] = None if gain is None else {"mean": gain.mean, "spread": gain.spread}
        rows.append(row)
    return rows


def comparison_rows(results: Sequence[Result]) -> tuple[list[str], list[list[str]]]:
    """Header and cells of the table, all text; a last row averages the differences over experiments."""
    names = methods(results)
    header = ["task", "sentences", "score", *names, "transfer - scratch"]
    rows, gains = [], []
    for task, shots in experiments(results):
        cells = [_scores(results, task, shots, method) for method in names]
        gain = difference(results, task, shots)
        if gain is not None:
            gains.append(gain.mean)
        rows.append(
            [
                task,
                "all" if shots is None else str(shots),
                _metric(results, task),
                *(str(summarise(scores)) if scores else "-" for scores in cells),
                "-" if gain is None else f"{gain.mean:+.1f} \u00b1 {gain.spread:.1f}",
            ]
        )
    if len(gains) > 1:
        rows.append(["mean", "", "", *("" for _ in names), f"{mean(gains):+.1f}"])
    return header, rows


def comparison_table(results: Sequence[Result], *, title: str) -> Table:
    """The table for a console."""
    header, rows = comparison_rows(results)
    table = Table(title=title, title_justify="left")
    for name in header:
        table.add_column(name, justify="left" if name in ("task", "score") else "right")
    for row in rows:
        table.add_row(*row, end_section=False)
    return table


def comparison_markdown(results: Sequence[Result]) -> str:
    """The table as Markdown."""
    header, rows = comparison_rows(results)
    lines = [header, ["---"] * len(header), *rows]
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)


def _scores(results: Sequence[Result], task: str, shots: int | None, method: str) -> list[float]:
    return [r.score for r in results if (r.task, r.shots, r.method) == (task, shots, method)]


def _metric(results: Sequence[Result], task: str) -> str:
    one = next(result for result in results if result.task == task)
    return f"{'dev' if one.test is None else 'test'} {one.metric.replace('_', ' ')}"
