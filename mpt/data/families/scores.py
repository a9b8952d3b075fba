"""What a task scored: counts, tables by label, and the figures that follow from them.

Figures lie in [0, 1]. Where neither gold nor predictions hold anything, a row has no figure (None), and the figure of
the whole task is 1.0 by definition; `empty` says so. The F1 of one label is 0.0 then, by convention, as scikit-learn
has it: texts were scored, and none rightly as that label.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TypeAlias

from mpt.data.families.family import Metric

Rows: TypeAlias = "Mapping[str, Counts]"
Confusion: TypeAlias = Mapping[str, Mapping[str, int]]

NONE = "(none)"
"""Stands in a confusion table for the missing partner of a missed or spurious span."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """True positives, false positives and false negatives, and the figures that follow from them."""

    tp: int
    fp: int
    fn: int

    @property
    def support(self) -> int:
        """How many there are in gold."""
        return self.tp + self.fn

    @property
    def precision(self) -> float | None:
        """The share of predictions that are right; 0 without predictions, None without gold too."""
        return self._figure(self.tp, self.tp + self.fp)

    @property
    def recall(self) -> float | None:
        """The share of gold that was found; 0 without gold, None without predictions too."""
        return self._figure(self.tp, self.tp + self.fn)

    @property
    def f1(self) -> float | None:
        """The harmonic mean of precision and recall."""
        return self._figure(2 * self.tp, 2 * self.tp + self.fp + self.fn)

    def _figure(self, numerator: int, denominator: int) -> float | None:
        if self.tp + self.fp + self.fn == 0:
            return None
        return numerator / denominator if denominator else 0.0

    def to_json(self) -> dict[str, object]:
        """Return figures first, then the counts behind them."""
        figures = {"precision": self.precision, "recall": self.recall, "f1": self.f1, "support": self.support}
        return {**figures, **asdict(self)}


@dataclass(frozen=True, slots=True, kw_only=True)
class SpanErrors:
    """What went wrong with the spans that are not right, each gold and each predicted span counted once.

    Source:
        Categories after Chinchor and Sundheim 1993, "MUC-5 Evaluation Metrics", as in nervaluate. Unlike there, spans
        are paired one to one, so that support = right + type + boundary + both + missed.

    Attributes:
        type: Right borders, wrong type.
        boundary: Overlapping, right type, wrong border.
        both: Overlapping, wrong type and wrong border.
        missed: Gold without a partner.
        spurious: Prediction without a partner.
    """

    type: int
    boundary: int
    both: int
    missed: int
    spurious: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SpanScore:
    """Span F1 of one task.

    Attributes:
        metric: `span_f1`, or `srl_f1` for arguments: the predicate is none, and one in several pieces is one.
        types: Counts by entity type, in label order.
        errors: Categories of the wrong spans.
        confusion: Gold type, then predicted type, then count, over paired spans, whether or not their borders are
            right; `NONE` for a missing partner.
        sentences: Sentences scored.
        words: Words scored.
        with_predicates: Counts over all spans as they are tagged, the predicate's own and every piece of an argument
            for itself; None but for `srl_f1`.
    """

    metric: Metric = "span_f1"
    types: Rows
    errors: SpanErrors
    confusion: Confusion
    sentences: int
    words: int
    with_predicates: Counts | None = None

    @property
    def total(self) -> Counts:
        """Counts over all types; their F1 is the headline."""
        return Counts(**{side: sum(getattr(row, side) for row in self.types.values()) for side in ("tp", "fp", "fn")})

    @property
    def empty(self) -> bool:
        """Whether neither gold nor predictions hold a span, so that the headline is 1.0 by definition."""
        return self.total.f1 is None

    @property
    def primary(self) -> float:
        """Micro F1 over all spans."""
        figure = self.total.f1
        return 1.0 if figure is None else figure

    @property
    def macro_types(self) -> int:
        """How many types the macro average is over: those that occur in gold."""
        return len(_in_gold(self.types))

    @property
    def macro_f1(self) -> float | None:
        """Mean F1 of the types that occur in gold; None when there is none."""
        return mean(_in_gold(self.types))

    def to_json(self) -> dict[str, object]:
        """Return everything in JSON types, figures first."""
        besides = {} if self.with_predicates is None else {"with_predicates": self.with_predicates.to_json()}
        return {
            **_headline(self),
            **self.total.to_json(),
            **besides,
            **_extent(self),
            "types": {name: counts.to_json() for name, counts in self.types.items()},
            "errors": asdict(self.errors),
            "confusion": {gold: dict(row) for gold, row in self.confusion.items()},
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class TagScore:
    """Accuracy of one task, a word (or a text, or a choice) being right or wrong.

    Attributes:
        metric: The headline figure: accuracy, the mean F1 of the tags that occur in gold, or the F1 of one tag.
        positive: That one; None for another figure.
        tags: Counts by tag, in label order.
        confusion: Gold tag, then predicted tag, then count.
        sentences: Sentences scored.
        words: Words scored.
    """

    metric: Metric
    positive: str | None = None
    tags: Rows
    confusion: Confusion
    sentences: int
    words: int

    @property
    def empty(self) -> bool:
        """Whether there was no word to score, so that the headline is 1.0 by definition."""
        return self.words == 0

    @property
    def primary(self) -> float:
        """The headline figure; 1.0 where there is nothing to score."""
        if self.empty:
            return 1.0
        return self.accuracy if self.metric == "accuracy" else (self.total.f1 if self.total else self.macro_f1) or 0.0

    @property
    def total(self) -> Counts | None:
        """Counts of the one tag whose F1 is the headline; None for another figure."""
        return None if self.positive is None else self.tags[self.positive]

    @property
    def correct(self) -> int:
        """Words with the right tag."""
        return sum(row.tp for row in self.tags.values())

    @property
    def accuracy(self) -> float:
        """Correct words over all words; 1.0 without any."""
        return self.correct / self.words if self.words else 1.0

    @property
    def macro_types(self) -> int:
        """How many tags the macro average is over: those that occur in gold."""
        return len(_in_gold(self.tags))

    @property
    def macro_f1(self) -> float | None:
        """Mean F1 of the tags that occur in gold; None when there is none."""
        return mean(_in_gold(self.tags))

    def to_json(self) -> dict[str, object]:
        """Return everything in JSON types, figures first."""
        besides = {} if self.total is None else {"positive": self.positive, **self.total.to_json()}
        return {
            **_headline(self),
            **besides,
            "accuracy": self.accuracy,
            "correct": self.correct,
            **_extent(self),
            "tags": {name: counts.to_json() for name, counts in self.tags.items()},
            "confusion": {gold: dict(row) for gold, row in self.confusion.items()},
        }


def _headline(score: SpanScore | TagScore) -> dict[str, object]:
    return {"metric": score.metric, "primary": score.primary, "empty": score.empty}


def _extent(score: SpanScore | TagScore) -> dict[str, object]:
    return {name: getattr(score, name) for name in ("macro_f1", "macro_types", "sentences", "words")}


def _in_gold(rows: Rows) -> list[float]:
    return [row.f1 for row in rows.values() if row.support and row.f1 is not None]


def mean(figures: Sequence[float]) -> float | None:
    """The mean; None of nothing."""
    return sum(figures) / len(figures) if figures else None


def tabulate(
    labels: Sequence[str], right: Mapping[str, int], pairs: Mapping[tuple[str, str], int]
) -> tuple[dict[str, Counts], Confusion]:
    """Arrange paired names as rows of counts and as a confusion table without its zeros.

    A wrong pair is one fn of its gold name and one fp of its predicted name.

    Args:
        labels: The task's own, which name the first rows; what else occurs follows, sorted.
        right: How many of each name are right.
        pairs: How often each (gold name, predicted name) was met, right ones included; `NONE` for a missing one.
    """
    gold, predicted = Counter[str](), Counter[str]()
    for (wanted, found), count in pairs.items():
        gold[wanted] += count
        predicted[found] += count
    names = list(dict.fromkeys([*labels, *sorted((gold.keys() | predicted.keys()) - {NONE, *labels})]))
    rows = {
        name: Counts(tp=right.get(name, 0), fp=predicted[name] - right.get(name, 0), fn=gold[name] - right.get(name, 0))
        for name in names
    }
    every = [*names, NONE]
    table = {wanted: {it: pairs[wanted, it] for it in every if pairs.get((wanted, it))} for wanted in every}
    return rows, {wanted: row for wanted, row in table.items() if row}
