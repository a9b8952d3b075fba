"""Tables and figures of methods against tasks: mean and spread over seeds, and what each model cost."""

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO, StringIO

from mpt.experiments.comparison import Summary, summarise

MEGA = 1e6
BESIDE: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "qa_f1": ("exact match", ("exact_match",)),
    "f1": ("accuracy", ("accuracy",)),
    "srl_f1": ("with V", ("with_predicates", "f1")),
}
"""What is published beside a score: its name, and where a report has it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One model of a comparison.

    Attributes:
        row: What the comparison calls the method and its settings.
        experiment: The task, with its number of training examples where that was limited.
        metric: Name of the score.
        seed: Seed of the run.
        dev, test: Scores in [0, 1]; test is None where there is none or it was not asked for.
        beside: What is published beside such a score, of the same split, in [0, 1]; see `BESIDE`. None without.
        trials: Models trained to choose its learning rates.
        trained: Trained parameters, the head's included.
        seconds: Time of training.
        peak_memory_mib: Peak memory of the process up to then: of this run, or of a larger one before it.
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
    seconds: float
    peak_memory_mib: float

    @property
    def score(self) -> float:
        """The score to report: test, or dev where there is none."""
        return self.dev if self.test is None else self.test


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """All runs of one row on one experiment.

    Attributes:
        row: The row.
        experiment: The experiment.
        metric: Split and name of the score.
        score: Mean and spread over seeds, in points of 100.
        beside: The same of what is published beside it; None without.
        beside_name: What that is.
        trials: Models trained to choose the learning rates.
        trained: Trained parameters.
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


def cells(runs: Sequence[Run]) -> list[Cell]:
    """Runs put together by row and experiment, in order of first occurrence."""
    places = list(dict.fromkeys((run.row, run.experiment) for run in runs))
    found = []
    for row, experiment in places:
        own = [run for run in runs if (run.row, run.experiment) == (row, experiment)]
        beside = [run.beside for run in own if run.beside is not None]
        found.append(
            Cell(
                row=row,
                experiment=experiment,
                metric=f"{'dev' if own[0].test is None else 'test'} {own[0].metric.replace('_', ' ')}",
                score=summarise([run.score for run in own]),
                beside=summarise(beside) if beside else None,
                beside_name=BESIDE[own[0].metric][0] if beside else "",
                trials=own[0].trials,
                trained=own[0].trained,
                seconds=sum(run.seconds for run in own) / len(own),
                peak_memory_mib=max(run.peak_memory_mib for run in own),
            )
        )
    return found


def markdown(runs: Sequence[Run]) -> str:
    """Scores with a row for each method and a column for each experiment; below it what the runs cost."""
    found = {(cell.row, cell.experiment): cell for cell in cells(runs)}
    rows, experiments = (list(dict.fromkeys(key[i] for key in found)) for i in (0, 1))
    metrics = {cell.experiment: _title(cell) for cell in found.values()}
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
    return _grid(header, scores) + "\n" + _grid(cost_header, costs)


def to_csv(runs: Sequence[Run]) -> str:
    """A line for each run, so that anybody can compute a table of their own."""
    out = StringIO()
    names = list(Run.__dataclass_fields__)
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(names)
    for run in runs:
        values = [getattr(run, name) for name in names]
        writer.writerow(["" if value is None else value for value in values])
    return out.getvalue()


def figure(runs: Sequence[Run], *, title: str) -> bytes:
    """The scores as a PNG: a panel for each experiment, in it a dot for each seed, and mean and spread of each row."""
    from matplotlib.figure import Figure  # slow to import, and needed by comparisons alone

    found = cells(runs)
    experiments, rows = (list(dict.fromkeys(getattr(cell, name) for cell in found)) for name in ("experiment", "row"))
    size = (2.4 + 2.6 * len(experiments), 1.3 + 0.3 * len(rows))
    drawing = Figure(figsize=size, layout="constrained")
    panels = drawing.subplots(1, len(experiments), sharey=True, squeeze=False)[0]
    for panel, experiment in zip(panels, experiments, strict=True):
        own = [cell for cell in found if cell.experiment == experiment]
        for cell in own:
            place = rows.index(cell.row)
            points = [100 * run.score for run in runs if (run.row, run.experiment) == (cell.row, experiment)]
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


def _title(cell: Cell) -> str:
    """Name of a score, and of what stands beside it."""
    return cell.metric if cell.beside is None else f"{cell.metric} ({cell.beside_name})"


def _shown(cell: Cell | None) -> str:
    if cell is None:
        return "-"
    return str(cell.score) if cell.beside is None else f"{cell.score} ({cell.beside})"


def _grid(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)
