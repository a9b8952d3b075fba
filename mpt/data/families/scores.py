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
class LabelScore:
    """What a task with labels scored: spans, or words (texts, choices), each of which is right or wrong.

    Attributes:
        metric: The headline figure: F1 over all spans (or arguments), accuracy, the mean F1 of the tags that occur in
            gold, or the F1 of one tag.
        total: Counts whose F1 is the headline: over all spans, or of one tag; None for another figure.
        positive: That tag; None elsewhere.
        rows: Counts by entity type, or by tag, in label order.
        confusion: Gold name, then predicted name, then count; of spans over pairs, whether or not their borders are
            right, with `NONE` for a missing partner.
        sentences, words: How many were scored.
        errors: Categories of the wrong spans; None where words are scored.
        with_predicates: Counts over all spans as they are tagged, the predicate's own and every piece of an argument
            for itself; None but for `srl_f1`.
    """

    metric: Metric
    total: Counts | None
    positive: str | None = None
    rows: Mapping[str, Counts]
    confusion: Confusion
    sentences: int
    words: int
    errors: SpanErrors | None = None
    with_predicates: Counts | None = None

    @property
    def empty(self) -> bool:
        """Whether there is no word to score, or no span in gold and predictions, so that the headline is 1.0."""
        return self.words == 0 or (self.errors is not None and self.total is not None and self.total.f1 is None)

    @property
    def primary(self) -> float:
        """The headline figure; 1.0 where there is nothing to score."""
        if self.empty:
            return 1.0
        return self.accuracy if self.metric == "accuracy" else (self.total.f1 if self.total else self.macro_f1) or 0.0

    @property
    def correct(self) -> int:
        """Words with the right tag, or right spans."""
        return sum(row.tp for row in self.rows.values())

    @property
    def accuracy(self) -> float:
        """Correct words over all words; 1.0 without any."""
        return self.correct / self.words if self.words else 1.0

    @property
    def macro_types(self) -> int:
        """How many names the macro average is over: those that occur in gold."""
        return len(self._in_gold)

    @property
    def macro_f1(self) -> float | None:
        """Mean F1 of the names that occur in gold; None when there is none."""
        return sum(self._in_gold) / len(self._in_gold) if self._in_gold else None

    @property
    def _in_gold(self) -> list[float]:
        return [row.f1 for row in self.rows.values() if row.support and row.f1 is not None]

    def to_json(self) -> dict[str, object]:
        """Return everything in JSON types, figures first."""
        spans = self.errors is not None
        return {
            "metric": self.metric,
            "primary": self.primary,
            "empty": self.empty,
            **({} if self.positive is None else {"positive": self.positive}),
            **({} if self.total is None else self.total.to_json()),
            **({} if self.with_predicates is None else {"with_predicates": self.with_predicates.to_json()}),
            **({} if spans else {"accuracy": self.accuracy, "correct": self.correct}),
            "macro_f1": self.macro_f1,
            "macro_types": self.macro_types,
            "sentences": self.sentences,
            "words": self.words,
            "types" if spans else "tags": {name: counts.to_json() for name, counts in self.rows.items()},
            **({"errors": asdict(self.errors)} if self.errors else {}),
            "confusion": {gold: dict(row) for gold, row in self.confusion.items()},
        }


def tabulate(
    labels: Sequence[str], right: Counter[str], pairs: Mapping[tuple[str, str], int]
) -> tuple[dict[str, Counts], Confusion]:
    """Arrange paired names as rows of counts and as a confusion table without its zeros.

    A wrong pair is one fn of its gold name and one fp of its predicted name. The task's labels name the first rows;
    what else occurs follows, sorted. `right` counts the right ones of each name, `pairs` each (gold name, predicted
    name), right ones included, with `NONE` for a missing one.
    """
    gold, predicted = Counter[str](), Counter[str]()
    for (wanted, found), count in pairs.items():
        gold[wanted] += count
        predicted[found] += count
    names = list(dict.fromkeys([*labels, *sorted((gold.keys() | predicted.keys()) - {NONE})]))
    rows = {name: Counts(tp=(tp := right[name]), fp=predicted[name] - tp, fn=gold[name] - tp) for name in names}
    every = [*names, NONE]
    table = {wanted: {it: pairs[wanted, it] for it in every if pairs.get((wanted, it))} for wanted in every}
    return rows, {wanted: row for wanted, row in table.items() if row}


def summed(rows: Sequence[tuple[int, int, int]]) -> Counts:
    """Total of (tp, fp, fn)."""
    tp, fp, fn = map(sum, zip(*rows, strict=True)) if rows else (0, 0, 0)
    return Counts(tp=tp, fp=fp, fn=fn)
