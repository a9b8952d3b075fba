"""Tables and figures of methods against tasks: mean and spread over seeds, and what each model cost."""

import csv
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from io import BytesIO, StringIO
from statistics import mean, stdev
from typing import Any

from rich.table import Table

from mpt.experiments.methods import METHODS, SCRATCH, TRANSFER

MEGA = 1e6
BESIDE: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "qa_f1": ("exact match", ("exact_match",)),
    "f1": ("accuracy", ("accuracy",)),
    "srl_f1": ("with V", ("with_predicates", "f1")),
}
"""What is published beside a score: its name, and where a report has it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """One trained model of a comparison.

    Attributes:
        row: What the comparison calls the method and its settings.
        experiment: The task, with its number of training examples where that was limited.
        metric: Name of the score.
        seed: Seed of the run.
        dev, test: Scores in [0, 1]; test is None where there is none or it was not asked for.
        beside: What is published beside such a score, of the same split, in [0, 1]; see `BESIDE`. None without.
        trials: Models trained to choose its learning rates.
        trained: Trained parameters, the head's included.
        seconds: Time of training. What is measured makes no two results different.
        peak_memory_mib: Peak memory of the process up to then: of this run, or of a larger one before it.
        method: Its name, see `mpt.experiments.methods`.
        task: Name of the task.
        shots: Training examples drawn; None for all.
    """

    row: str
    experiment: str
    metric: str
    seed: int
    dev: float
    test: float | None
    beside: float | None = None
    trials: int
    trained: int
    seconds: float = field(compare=False)
    peak_memory_mib: float = field(compare=False)
    method: str
    task: str
    shots: int | None

    @property
    def score(self) -> float:
        """The score to report: test, or dev where there is none."""
        return self.dev if self.test is None else self.test

    @property
    def title(self) -> str:
        """Split and name of that score."""
        return f"{'dev' if self.test is None else 'test'} {self.metric.replace('_', ' ')}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """Mean and spread over seeds, in points of 100: the standard deviation (n - 1), which is 0 for one seed."""

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


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """All results of one row on one experiment; fields as of `Result`.

    Attributes:
        metric: Split and name of the score.
        beside: Of what is published beside the score, named `beside_name`; None without.
        seconds: Mean time of training.
        peak_memory_mib: Largest peak.
    """

    row: str
    experiment: str
    metric: str
    score: Summary
    beside: Summary | None
    beside_name: str
    trials: int
    trained: int
    seconds: float
    peak_memory_mib: float


def cells(results: Sequence[Result]) -> list[Cell]:
    """Results put together by row and experiment, in order of first occurrence."""
    places = list(dict.fromkeys((it.row, it.experiment) for it in results))
    found = []
    for place in places:
        own = [it for it in results if (it.row, it.experiment) == place]
        beside = [it.beside for it in own if it.beside is not None]
        found.append(
            Cell(
                row=own[0].row,
                experiment=own[0].experiment,
                metric=own[0].title,
                score=summarise([it.score for it in own]),
                beside=summarise(beside) if beside else None,
                beside_name=BESIDE[own[0].metric][0] if beside else "",
                trials=own[0].trials,
                trained=own[0].trained,
                seconds=sum(it.seconds for it in own) / len(own),
                peak_memory_mib=max(it.peak_memory_mib for it in own),
            )
        )
    return found


def markdown(results: Sequence[Result]) -> str:
    """Scores with a row for each method and a column for each experiment; below it what the runs cost."""
    found = {(cell.row, cell.experiment): cell for cell in cells(results)}
    rows, experiments = (list(dict.fromkeys(key[i] for key in found)) for i in (0, 1))
    metrics = {
        cell.experiment: cell.metric + (f" ({cell.beside_name})" if cell.beside else "") for cell in found.values()
    }
    header = ["", *(f"{experiment}, {metrics[experiment]}" for experiment in experiments)]
    scores = [[row, *(_shown(found.get((row, experiment))) for experiment in experiments)] for row in rows]
    costs = [
        [
            *(cell.row, cell.experiment, f"{cell.trained / MEGA:.3f}", str(cell.trials)),
            *(f"{cell.seconds:.0f}", f"{cell.peak_memory_mib:.0f}"),
        ]
        for cell in found.values()
    ]
    cost_header = ["", "experiment", "trained parameters (millions)", "tuning trials", "seconds of training"]
    cost_header += ["peak memory of the process (MiB)"]
    return grid(header, scores, align="---:") + "\n" + grid(cost_header, costs, align="---:")


def difference(results: Sequence[Result]) -> Summary | None:
    """Transfer minus from-scratch on one experiment, paired by seed; None unless both were run."""
    moved, fresh = (
        {result.seed: result.score for result in results if result.method == method.name}
        for method in (TRANSFER, SCRATCH)
    )
    gains = [score - fresh[seed] for seed, score in moved.items() if seed in fresh]
    return summarise(gains) if gains else None


def by_experiment(results: Sequence[Result]) -> list[list[Result]]:
    """Results of each experiment, in order of first occurrence, in it the baselines first and transfer last."""
    order = list(METHODS)
    ranked = sorted(results, key=lambda result: order.index(result.method))
    names = dict.fromkeys(result.experiment for result in results)
    return [[result for result in ranked if result.experiment == name] for name in names]


def gains_json(results: Sequence[Result]) -> list[dict[str, Any]]:
    """One object for each experiment: summary of each method, and the difference that a transfer is asked for."""
    rows = []
    for own in by_experiment(results):
        gain, methods = difference(own), {cell.row: asdict(cell.score) for cell in cells(own)}
        moved = None if gain is None else {"mean": gain.mean, "spread": gain.spread}
        facts = {"task": own[0].task, "shots": own[0].shots, "metric": own[0].title}
        rows.append({**facts, "methods": methods, "transfer_minus_scratch": moved})
    return rows


def gains_table(results: Sequence[Result]) -> tuple[list[str], list[list[str]]]:
    """Header and rows: one for each experiment, a last one averages the differences over experiments."""
    names = sorted({result.method for result in results}, key=list(METHODS).index)
    header = ["task", "sentences", "score", *names, "transfer - scratch"]
    rows, gains = [], []
    for own in by_experiment(results):
        scores = {cell.row: str(cell.score) for cell in cells(own)}
        gain = difference(own)
        gains += [] if gain is None else [gain.mean]
        row = [own[0].task, "all" if own[0].shots is None else str(own[0].shots), own[0].title]
        row += [scores.get(name, "-") for name in names]
        rows.append([*row, "-" if gain is None else f"{gain.mean:+.1f} \u00b1 {gain.spread:.1f}"])
    if len(gains) > 1:
        rows.append(["mean", "", "", *("" for _ in names), f"{mean(gains):+.1f}"])
    return header, rows


def gains_console(results: Sequence[Result], *, title: str) -> Table:
    """The same for a console."""
    header, rows = gains_table(results)
    table = Table(title=title, title_justify="left")
    for name in header:
        table.add_column(name, justify="left" if name in ("task", "score") else "right")
    for row in rows:
        table.add_row(*row)
    return table


def to_csv(results: Sequence[Result]) -> str:
    """A line for each run, so that anybody can compute a table of their own."""
    out = StringIO()
    names = list(Result.__dataclass_fields__)
    csv.writer(out, lineterminator="\n").writerows([names, *([getattr(it, name) for name in names] for it in results)])
    return out.getvalue()


def figure(results: Sequence[Result], *, title: str) -> bytes:
    """The scores as a PNG: a panel for each experiment, in it a dot for each seed, and mean and spread of each row."""
    from matplotlib.figure import Figure  # slow to import, and needed by comparisons alone

    found = cells(results)
    experiments, rows = (list(dict.fromkeys(getattr(cell, name) for cell in found)) for name in ("experiment", "row"))
    size = (2.4 + 2.6 * len(experiments), 1.3 + 0.3 * len(rows))
    drawing = Figure(figsize=size, layout="constrained")
    panels = drawing.subplots(1, len(experiments), sharey=True, squeeze=False)[0]
    for panel, experiment in zip(panels, experiments, strict=True):
        own = [cell for cell in found if cell.experiment == experiment]
        for cell in own:
            place = rows.index(cell.row)
            points = [100 * it.score for it in results if (it.row, it.experiment) == (cell.row, experiment)]
            panel.errorbar(cell.score.mean, place, xerr=cell.score.spread, fmt="|", markersize=11, color="#08519c")
            panel.plot(points, [place] * len(points), "o", color="#6baed6", markersize=4, zorder=1)
        panel.set_title(f"{experiment}\n{own[0].metric}", fontsize=9)
        panel.grid(linewidth=0.4)
        panel.tick_params(labelsize=8)
        panel.margins(y=0.5 / len(rows) + 0.05)
    panels[0].set_yticks(range(len(rows)), rows)
    panels[0].invert_yaxis()
    drawing.suptitle(f"{title}\ndot: a seed; bar: mean and standard deviation", fontsize=10)
    out = BytesIO()
    drawing.savefig(out, format="png", dpi=150, metadata={"Software": None})
    return out.getvalue()


def _shown(cell: Cell | None) -> str:
    if cell is None:
        return "-"
    return str(cell.score) if cell.beside is None else f"{cell.score} ({cell.beside})"


def grid(header: Sequence[str], rows: Sequence[Sequence[str]], *, align: str = "---") -> str:
    """A table in Markdown, whose columns behind the first are aligned as told."""
    lines = [header, ["---", *[align] * (len(header) - 1)], *rows]
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)
