"""One evaluation as JSON, as Markdown and in the terminal, all three from the same rows.

JSON holds everything, figures in [0, 1], digests whole. The tables show percent, and `n/a` where there is nothing to
divide by. Rows follow the order of tasks and labels, so equal results give equal bytes.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass

from rich.console import Console
from rich.table import Table
from rich.text import Text

from mpt.base.errors import printable
from mpt.data.families.answers import QaScore
from mpt.data.families.metrics import Score
from mpt.data.families.scores import LabelScore

MAX_CONFUSIONS = 10
"""Rows of a task's table of confusions; JSON has all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskReport:
    """The score of one task and what it was measured on.

    Attributes:
        task, split, score: Its name, the split that was scored, and the figures.
        windows: How many inputs the model read. More than the sentences where long ones were cut.
        unseen_words: Words that no window held, which are scored all the same. Anything but 0 is a fault.
        digests: SHA-256 of the data files in hex, by path.
    """

    task: str
    split: str
    score: Score
    windows: int
    unseen_words: int
    digests: Mapping[str, str]

    def to_json(self) -> dict[str, object]:
        """Return everything in JSON types."""
        read = {"windows": self.windows, "unseen_words": self.unseen_words, "files": dict(sorted(self.digests.items()))}
        return {"task": self.task, "split": self.split, **self.score.to_json(), **read}


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """One evaluation of one model.

    Attributes:
        about: What was evaluated, such as checkpoint and backbone, in the order to be shown.
        tasks: At least one.
    """

    about: Mapping[str, str]
    tasks: tuple[TaskReport, ...]

    def __post_init__(self) -> None:
        assert self.tasks, "a report needs a task"
        assert len({(task.task, task.split) for task in self.tasks}) == len(self.tasks), "a task is reported twice"

    @property
    def mean(self) -> float:
        """The mean of the tasks' primary figures, every task counting the same."""
        return sum(task.score.primary for task in self.tasks) / len(self.tasks)

    def to_json(self) -> dict[str, object]:
        """Return everything in JSON types."""
        return {"about": dict(self.about), "mean": self.mean, "tasks": [task.to_json() for task in self.tasks]}

    def to_markdown(self) -> str:
        """Return the tables in GitHub's Markdown."""
        lines = ["# Evaluation", "", *(f"- {_escaped(key)}: {_escaped(text)}" for key, text in self.about.items()), ""]
        for grid in _grids(self):
            notes = [f"{_escaped(note)}\n" for note in grid.notes]
            lines += [f"## {_escaped(grid.title)}", "", *_markdown(grid), "", *notes]
        return "\n".join(lines).rstrip("\n") + "\n"


def print_report(report: Report, console: Console) -> None:
    """Show the tables in 80 columns, where names are long in more; plain lines in a pipe."""
    for key, text in report.about.items():
        console.print(Text(f"{printable(key)}: {printable(text)}"), soft_wrap=True)
    for grid in _grids(report):
        console.print()
        console.print(Text(printable(grid.title), style="bold"), soft_wrap=True)
        console.print(_table(grid))
        for note in grid.notes:
            console.print(Text(note), soft_wrap=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Grid:
    """A titled table: the first `names` columns are text, the others figures."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    names: int = 1
    notes: Sequence[str] = ()


def _grids(report: Report) -> Iterator[_Grid]:
    yield _summary(report)
    for task in report.tasks:
        if isinstance(task.score, QaScore):
            yield _answers(task, task.score)
            continue
        yield _rows_by_label(task, task.score)
        if confusions := _confusions(task.score):
            title = f"{task.task}: most frequent confusions"
            yield _Grid(title=title, columns=("gold", "predicted", "count"), rows=confusions, names=2)
    if errors := [
        (task.task, str(score.correct), *map(str, asdict(score.errors).values()))
        for task in report.tasks
        if isinstance(score := task.score, LabelScore) and score.errors is not None
    ]:
        yield _errors(errors)
    yield _data(report)
    files = {path: digest[:16] for task in report.tasks for path, digest in sorted(task.digests.items())}
    if files:
        yield _Grid(title="Files", columns=("file", "sha256, first 16 digits"), rows=[*files.items()], names=2)


def _summary(report: Report) -> _Grid:
    rows, notes = [], ["Score, in percent: micro F1 over spans (span_f1), right labels (accuracy), macro F1 or f1."]
    if any(task.score.metric == "srl_f1" for task in report.tasks):
        notes.append(
            "srl_f1: micro F1 over the arguments of predicates, as srl-eval.pl counts them: without the predicate "
            "itself (V), and an argument in several pieces (C-) is one."
        )
    for task in report.tasks:
        score = task.score
        precision = recall = macro = ""
        support = score.words
        if isinstance(score, LabelScore):
            macro = f"{_percent(score.macro_f1)} ({score.macro_types})"
            if score.total is not None:
                precision, recall = _percent(score.total.precision), _percent(score.total.recall)
                support = support if score.errors is None else score.total.support
        headline = _percent(score.primary) + ("*" if score.empty else "")
        rows.append((task.task, score.metric, headline, precision, recall, macro, str(support)))
    notes += [note for task in report.tasks for note in _beside(task)]
    if len(report.tasks) > 1:
        rows.append((f"mean of {len(report.tasks)} tasks", "", _percent(report.mean), "", "", "", ""))
    notes.append("Macro F1: mean over the labels that occur in gold, their number in brackets.")
    if any(task.score.empty for task in report.tasks):
        notes.append("* Neither gold nor predictions hold anything: 100 by definition.")
    columns = ("task", "metric", "score", "precision", "recall", "macro F1", "gold")
    return _Grid(title="Scores", columns=columns, rows=rows, names=2, notes=notes)


def _beside(task: TaskReport) -> Iterator[str]:
    """What is published beside a score, or what it is about."""
    score = task.score
    if not isinstance(score, LabelScore):
        return
    if score.with_predicates is not None:
        figure = _percent(score.with_predicates.f1)
        yield f"{task.task} counted by tags, V and every C- as spans of their own: {figure}."
    if score.positive is not None and score.total is not None:
        lacking = ", which neither gold nor predictions hold: 0 by definition" if score.total.f1 is None else ""
        yield f'{task.task}: F1 of the label "{score.positive}"{lacking}. Accuracy: {_percent(score.accuracy)}.'


def _rows_by_label(task: TaskReport, score: LabelScore) -> _Grid:
    columns = ("label", "precision", "recall", "F1", "gold", "predicted", "right")
    rows = [
        (name, *map(_percent, (row.precision, row.recall, row.f1)), *map(str, (row.support, row.tp + row.fp, row.tp)))
        for name, row in score.rows.items()
    ]
    return _Grid(title=f"{task.task}: {task.split} by label", columns=columns, rows=rows)


def _answers(task: TaskReport, score: QaScore) -> _Grid:
    parts = (("all", score.total), ("with an answer", score.has_answer), ("without", score.no_answer))
    rows = [(name, *map(_percent, (it.exact_match, it.f1)), str(it.count)) for name, it in parts if it.count]
    columns = ("questions", "exact match", "F1", "number")
    best = (("exact match", score.best_exact_match), ("F1", score.best_f1))
    notes = [
        f"Best {name} of all limits for no answer: {_percent(it.value)}, "
        + ("answering nothing." if it.no_answer_above is None else f"no_answer_above: {it.no_answer_above:.4f}.")
        for name, it in best
        if it is not None
    ]
    return _Grid(title=f"{task.task}: {task.split} answers", columns=columns, rows=rows, notes=notes)


def _errors(rows: Sequence[Sequence[str]]) -> _Grid:
    notes = [
        "type: right borders, wrong type. boundary: right type, wrong borders. both: an overlap, both wrong.",
        "missed: gold without a prediction. spurious: a prediction without gold.",
    ]
    columns = ("task", "right", "type", "boundary", "both", "missed", "spurious")
    return _Grid(title="Spans, right and wrong", columns=columns, rows=rows, notes=notes)


def _data(report: Report) -> _Grid:
    figures = [(it.score.sentences, it.score.words, it.windows, it.unseen_words) for it in report.tasks]
    rows = [(it.task, it.split, *map(str, own)) for it, own in zip(report.tasks, figures, strict=True)]
    unseen = sum(task.unseen_words for task in report.tasks)
    columns = ("task", "split", "sentences", "words", "windows", "words not seen")
    notes = [f"Words not seen by the model: {unseen}. Every word of the split is scored."]
    return _Grid(title="Data", columns=columns, rows=rows, names=2, notes=notes)


def _confusions(score: LabelScore) -> list[tuple[str, str, str]]:
    """Return the most frequent wrong pairs, ties in label order."""
    pairs = [(gold, name, n) for gold, row in score.confusion.items() for name, n in row.items() if gold != name]
    pairs.sort(key=lambda pair: -pair[2])
    return [(gold, name, str(n)) for gold, name, n in pairs[:MAX_CONFUSIONS]]


def _percent(figure: float | None) -> str:
    return "n/a" if figure is None else f"{100 * figure:.2f}"


def _escaped(text: str) -> str:
    """Make text safe for one Markdown cell."""
    return "".join(f"\\{char}" if char in r"\`*_{}[]<>#|" else char for char in printable(text.replace("\n", " ")))


def _markdown(grid: _Grid) -> list[str]:
    rules = ["---" if index < grid.names else "---:" for index in range(len(grid.columns))]
    cells = [grid.columns, rules, *([_escaped(cell) for cell in row] for row in grid.rows)]
    return [f"| {' | '.join(row)} |" for row in cells]


def _table(grid: _Grid) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="bold")
    for index, column in enumerate(grid.columns):
        name = index < grid.names
        table.add_column(column, justify="left" if name else "right", overflow="fold", no_wrap=not name)
    for row in grid.rows:
        table.add_row(*(Text(printable(cell)) for cell in row))
    return table
