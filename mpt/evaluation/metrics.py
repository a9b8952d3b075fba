"""Score predicted tags against gold: spans by F1, arguments of predicates by F1, raw tags by accuracy or a kind of F1.

There is one span F1. Gold and predictions are valid BIO2 (readers check the one, decoding makes the other), and on
valid sequences conlleval, seqeval and seqeval's strict mode agree with the figures here. Ill-formed tags are refused,
since every repair rule would give another score. Counts are whole numbers over the whole corpus, divided once at the
end: a mean over batches or sentences is another figure.

Figures lie in [0, 1]. Where neither gold nor predictions hold anything, a row has no figure (None), and the figure of
the whole task is 1.0 by definition; `empty` says so. The F1 of one label is 0.0 then, by
convention, as scikit-learn has it: texts were scored, and none rightly as that label.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import TypeAlias, get_args

from mpt.base.errors import MptError, did_you_mean
from mpt.data.families.family import Metric
from mpt.data.tags import Span, check_tags, spans
from mpt.evaluation.answers import QaScore, qa_score
from mpt.evaluation.mismatches import SpanErrors, category, pair_spans
from mpt.evaluation.roles import Scored, arguments, is_argument, role_of

Tags: TypeAlias = Sequence[Sequence[str]]
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
        return {**figures, "tp": self.tp, "fp": self.fp, "fn": self.fn}


@dataclass(frozen=True, slots=True, kw_only=True)
class SpanScore:
    """Span F1 of one task.

    Attributes:
        metric: `span_f1`, or `srl_f1` for arguments: the predicate is none, and one in several pieces is one.
        total: Counts over all types; their F1 is the headline.
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
    total: Counts
    types: Mapping[str, Counts]
    errors: SpanErrors
    confusion: Confusion
    sentences: int
    words: int
    with_predicates: Counts | None = None

    @property
    def empty(self) -> bool:
        """Whether neither gold nor predictions hold a span, so that the headline is 1.0 by definition."""
        return self.total.f1 is None

    @property
    def primary(self) -> float:
        """Micro F1 over all spans."""
        return 1.0 if self.total.f1 is None else self.total.f1

    @property
    def macro_types(self) -> int:
        """How many types the macro average is over: those that occur in gold."""
        return sum(counts.support > 0 for counts in self.types.values())

    @property
    def macro_f1(self) -> float | None:
        """Mean F1 of the types that occur in gold; None when there is none."""
        return _macro(self.types)

    def to_json(self) -> dict[str, object]:
        """Return everything in JSON types, figures first."""
        besides = {} if self.with_predicates is None else {"with_predicates": self.with_predicates.to_json()}
        return {
            "metric": self.metric,
            "primary": self.primary,
            "empty": self.empty,
            **self.total.to_json(),
            **besides,
            "macro_f1": self.macro_f1,
            "macro_types": self.macro_types,
            "sentences": self.sentences,
            "words": self.words,
            "types": {name: counts.to_json() for name, counts in self.types.items()},
            "errors": self.errors.to_json(),
            "confusion": {gold: dict(row) for gold, row in self.confusion.items()},
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class TagScore:
    """Accuracy of one task, a word (or a text, or a choice) being right or wrong.

    Attributes:
        metric: The headline figure: accuracy, the mean F1 of the tags that occur in gold, or the F1 of one tag.
        positive: That one; None for another figure.
        correct: Words with the right tag.
        tags: Counts by tag, in label order.
        confusion: Gold tag, then predicted tag, then count.
        sentences: Sentences scored.
        words: Words scored.
    """

    metric: Metric
    positive: str | None = None
    correct: int
    tags: Mapping[str, Counts]
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
    def accuracy(self) -> float:
        """Correct words over all words; 1.0 without any."""
        return self.correct / self.words if self.words else 1.0

    @property
    def macro_types(self) -> int:
        """How many tags the macro average is over: those that occur in gold."""
        return sum(counts.support > 0 for counts in self.tags.values())

    @property
    def macro_f1(self) -> float | None:
        """Mean F1 of the tags that occur in gold; None when there is none."""
        return _macro(self.tags)

    def to_json(self) -> dict[str, object]:
        """Return everything in JSON types, figures first."""
        besides = {} if self.total is None else {"positive": self.positive, **self.total.to_json()}
        return {
            "metric": self.metric,
            "primary": self.primary,
            "empty": self.empty,
            **besides,
            "accuracy": self.accuracy,
            "correct": self.correct,
            "macro_f1": self.macro_f1,
            "macro_types": self.macro_types,
            "sentences": self.sentences,
            "words": self.words,
            "tags": {name: counts.to_json() for name, counts in self.tags.items()},
            "confusion": {gold: dict(row) for gold, row in self.confusion.items()},
        }


Score: TypeAlias = SpanScore | TagScore | QaScore


def score(
    metric: Metric, gold: Tags, predicted: Tags, labels: Sequence[str] = (), *, positive: str | None = None
) -> Score:
    """Score a whole split of one task.

    Args:
        metric: `span_f1` or `srl_f1` for BIO2 tags, `accuracy`, `macro_f1` or `f1` for raw ones, `qa_f1` for
            answers.
        gold: The tags of every word of every sentence.
        predicted: As many tags for the same sentences in the same order.
        labels: The task's labels. They order the rows, and a label that occurs nowhere still gets a row.
        positive: The label that `f1` is about; None for another metric.

    Raises:
        MptError: A sentence has fewer or more predicted tags than gold ones, or ill-formed BIO2 tags.
    """
    known = get_args(Metric)
    if metric not in known:
        raise MptError(f'metric "{metric}" is not one of {", ".join(known)}.{did_you_mean(metric, known)}')
    assert (metric == "f1") == (positive is not None), "f1 is that of a label, no other metric is"
    if metric == "qa_f1":
        return qa_score(gold, predicted)
    check_lengths(gold, predicted)
    if metric in ("span_f1", "srl_f1"):
        return _score_spans(gold, predicted, labels, metric)
    return _score_tags(gold, predicted, labels, metric, positive)


def scored_spans(metric: Metric, tags: Tags, side: str) -> Iterator[frozenset[Scored]]:
    """Yield what span F1 (or F1 over arguments) counts of every sentence, refusing tags that are not valid BIO2."""
    yield from all_spans(tags, side) if metric == "span_f1" else map(arguments, all_spans(tags, side))


def all_spans(tags: Tags, side: str) -> Iterator[frozenset[Span]]:
    """Yield the spans of every sentence, refusing tags that are not valid BIO2."""
    for number, sentence in enumerate(tags, start=1):
        for word, problem in check_tags(sentence, "iob2"):
            raise MptError(
                f"sentence {number}, word {word + 1}: {side} tags are not valid BIO2: {problem}. Span F1 needs valid "
                "BIO2: read gold with its declared scheme, decode predictions with constrained=True."
            )
        yield frozenset(spans(sentence))


def check_lengths(gold: Tags, predicted: Tags) -> None:
    """Refuse predictions that are not one tag for every gold word.

    Raises:
        MptError: Naming the first sentences that differ, counted from 1.
    """
    if len(gold) != len(predicted):
        raise MptError(
            f"{len(predicted)} sentences were predicted, gold has {len(gold)}. Score every sentence of the split, once."
        )
    problems = [
        f"sentence {number}: {len(b)} predicted tags for {len(a)} words. Every word is scored, so give each one a tag."
        for number, (a, b) in enumerate(zip(gold, predicted, strict=True), start=1)
        if len(a) != len(b)
    ]
    if problems:
        more = [f"... and {len(problems) - 20} more sentences"] if len(problems) > 20 else []
        raise MptError(problems[:20] + more)


def _score_spans(gold: Tags, predicted: Tags, labels: Sequence[str], metric: Metric) -> SpanScore:
    pairs: Counter[tuple[str, str]] = Counter()
    right: Counter[str] = Counter()
    categories: Counter[str] = Counter()
    for wanted, found in zip(
        scored_spans(metric, gold, "gold"), scored_spans(metric, predicted, "predicted"), strict=True
    ):
        right.update(span.type for span in wanted & found)
        for gold_span, span in pair_spans(wanted - found, found - wanted):
            pairs[gold_span.type if gold_span else NONE, span.type if span else NONE] += 1
            categories[category(gold_span, span)] += 1
    pairs.update({(name, name): count for name, count in right.items()})
    names = [label[2:] for label in labels if label != "O"]
    if metric == "srl_f1":
        names = [role_of(name) for name in names if is_argument(name)]
    names = _ordered(names, pairs)
    types = _counts(names, right, pairs)
    return SpanScore(
        metric=metric,
        total=_sum(types),
        types=types,
        errors=SpanErrors(**{field.name: categories[field.name] for field in fields(SpanErrors)}),
        confusion=_confusion([*names, NONE], pairs),
        sentences=len(gold),
        words=sum(map(len, gold)),
        with_predicates=_tagged_counts(gold, predicted) if metric == "srl_f1" else None,
    )


def _tagged_counts(gold: Tags, predicted: Tags) -> Counts:
    """Counts over the spans as they are tagged, whatever they stand for."""
    pairs = list(zip(all_spans(gold, "gold"), all_spans(predicted, "predicted"), strict=True))
    return Counts(
        tp=sum(len(wanted & found) for wanted, found in pairs),
        fp=sum(len(found - wanted) for wanted, found in pairs),
        fn=sum(len(wanted - found) for wanted, found in pairs),
    )


def _score_tags(gold: Tags, predicted: Tags, labels: Sequence[str], metric: Metric, positive: str | None) -> TagScore:
    pairs: Counter[tuple[str, str]] = Counter()
    for sentence in zip(gold, predicted, strict=True):
        pairs.update(zip(*sentence, strict=True))
    names = _ordered(labels if positive is None else [*labels, positive], pairs)
    right = Counter({name: pairs[name, name] for name in names})
    return TagScore(
        metric=metric,
        positive=positive,
        correct=right.total(),
        tags=_counts(names, right, pairs),
        confusion=_confusion(names, pairs),
        sentences=len(gold),
        words=pairs.total(),
    )


def _ordered(labels: Sequence[str], pairs: Mapping[tuple[str, str], int]) -> list[str]:
    """Name the rows: the task's own labels in their order, then what else occurs, sorted."""
    known = list(dict.fromkeys(labels))
    occurring = {name for pair in pairs for name in pair} - {NONE}
    return known + sorted(occurring - set(known))


def _counts(names: Sequence[str], right: Counter[str], pairs: Counter[tuple[str, str]]) -> dict[str, Counts]:
    """Count each name: a wrong pair is one fn of its gold name and one fp of its predicted name."""
    gold, predicted = Counter[str](), Counter[str]()
    for (wanted, found), count in pairs.items():
        gold[wanted] += count
        predicted[found] += count
    return {
        name: Counts(tp=right[name], fp=predicted[name] - right[name], fn=gold[name] - right[name]) for name in names
    }


def _sum(rows: Mapping[str, Counts]) -> Counts:
    return Counts(
        tp=sum(row.tp for row in rows.values()),
        fp=sum(row.fp for row in rows.values()),
        fn=sum(row.fn for row in rows.values()),
    )


def _macro(rows: Mapping[str, Counts]) -> float | None:
    figures = [row.f1 for row in rows.values() if row.support and row.f1 is not None]
    return sum(figures) / len(figures) if figures else None


def _confusion(names: Sequence[str], pairs: Mapping[tuple[str, str], int]) -> Confusion:
    """Arrange the pairs as a table in row order, without its zeros."""
    table = {gold: {name: pairs[gold, name] for name in names if pairs.get((gold, name))} for gold in names}
    return {gold: row for gold, row in table.items() if row}
