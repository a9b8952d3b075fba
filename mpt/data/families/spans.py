"""Spans and arguments of predicates counted: which are right, and what kind of mistake each mistake is.

There is one span F1. Gold and predictions are valid BIO2 (readers check the one, decoding makes the other), and on
valid sequences conlleval, seqeval and seqeval's strict mode agree with the figures here. Ill-formed tags are refused,
since every repair rule would give another score.

Arguments are counted as the shared tasks on semantic roles do. The predicate's own span (V) is no argument. `C-X`
continues the last `X` before it, and both are one argument in pieces, right only when all pieces are; where there is no
such `X`, it is one. `R-X` (a relative pronoun, for one) is a role of its own.

Source:
    Carreras and Marquez 2005, "Introduction to the CoNLL-2005 Shared Task: Semantic Role Labeling", and its scorer
    srl-eval.pl.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import TypeAlias

from mpt.base.errors import MptError
from mpt.data.families.family import Metric
from mpt.data.families.scores import NONE, LabelScore, SpanErrors, summed, tabulate
from mpt.data.tags import Span, check_tags, spans

PREDICATE = "V"
CONTINUED = "C-"
Tags: TypeAlias = Sequence[Sequence[str]]


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class Argument:
    """One argument of a predicate: from its first word to behind its last, its role, and each piece as such borders."""

    start: int
    end: int
    type: str
    pieces: tuple[tuple[int, int], ...]


Scored: TypeAlias = Span | Argument
"""What F1 counts: spans, or arguments."""


def arguments(found: Iterable[Span]) -> frozenset[Argument]:
    """The arguments of one predicate, given the spans of its sentence."""
    roles: list[tuple[str, list[tuple[int, int]]]] = []
    last: dict[str, list[tuple[int, int]]] = {}
    for span in sorted(found):
        role, piece = span.type.removeprefix(CONTINUED), (span.start, span.end)
        if span.type != role and role in last:
            last[role].append(piece)
        else:
            last[role] = [piece]
            roles.append((role, last[role]))
    return frozenset(
        Argument(start=pieces[0][0], end=pieces[-1][1], type=role, pieces=tuple(pieces))
        for role, pieces in roles
        if role != PREDICATE
    )


def score_spans(gold: Tags, predicted: Tags, labels: Sequence[str], metric: Metric) -> LabelScore:
    """Score BIO2 tags by `span_f1` or `srl_f1`; see `mpt.data.families.metrics.score`."""
    pairs: Counter[tuple[str, str]] = Counter()
    right: Counter[str] = Counter()
    categories: Counter[str] = Counter()
    for wanted, found in zip(_counted(metric, gold, "gold"), _counted(metric, predicted, "predicted"), strict=True):
        right.update(span.type for span in wanted & found)
        for gold_span, span in _paired(wanted - found, found - wanted):
            pairs[gold_span.type if gold_span else NONE, span.type if span else NONE] += 1
            categories[_category(gold_span, span)] += 1
    pairs.update({(name, name): count for name, count in right.items()})
    names = [label[2:] for label in labels if label != "O"]
    tagged = None
    if metric == "srl_f1":
        names = [role for name in names if (role := name.removeprefix(CONTINUED)) != PREDICATE]
        tagged = summed(span_counts("span_f1", gold, predicted))
    types, confusion = tabulate(names, right, pairs)
    return LabelScore(
        metric=metric,
        total=summed([(row.tp, row.fp, row.fn) for row in types.values()]),
        rows=types,
        errors=SpanErrors(**{field.name: categories[field.name] for field in fields(SpanErrors)}),
        confusion=confusion,
        sentences=len(gold),
        words=sum(map(len, gold)),
        with_predicates=tagged,
    )


def span_counts(metric: Metric, gold: Tags, predicted: Tags) -> list[tuple[int, int, int]]:
    """(tp, fp, fn) of every sentence."""
    pairs = zip(_counted(metric, gold, "gold"), _counted(metric, predicted, "predicted"), strict=True)
    return [(len(wanted & found), len(found - wanted), len(wanted - found)) for wanted, found in pairs]


def _counted(metric: Metric, tags: Tags, side: str) -> Iterator[frozenset[Scored]]:
    """Yield what a metric counts of every sentence, refusing tags that are not valid BIO2."""
    for number, sentence in enumerate(tags, start=1):
        for word, problem in check_tags(sentence, "iob2"):
            raise MptError(
                f"sentence {number}, word {word + 1}: {side} tags are not valid BIO2: {problem}. Span F1 needs valid "
                "BIO2: read gold with its declared scheme, decode predictions with constrained=True."
            )
        yield frozenset(spans(sentence)) if metric == "span_f1" else arguments(spans(sentence))


def _paired(gold: frozenset[Scored], predicted: frozenset[Scored]) -> Iterator[tuple[Scored | None, Scored | None]]:
    """Pair the wrong spans of one sentence one to one, the closest first; None stands for a missing partner.

    Overlaps of one type are closest, then long overlaps, then the order in the sentence. Spans with equal borders
    overlap nothing else, so they always find each other. An argument in several pieces reaches from its first to its
    last.
    """
    overlaps = [(a, b) for a in gold for b in predicted if a.start < b.end and b.start < a.end]
    free_gold, free_predicted = set(gold), set(predicted)
    for a, b in sorted(overlaps, key=_closeness):
        if a in free_gold and b in free_predicted:
            free_gold.remove(a)
            free_predicted.remove(b)
            yield a, b
    yield from ((a, None) for a in free_gold)
    yield from ((None, b) for b in free_predicted)


def _closeness(pair: tuple[Scored, Scored]) -> tuple[bool, int, int, int]:
    a, b = pair
    overlap = min(a.end, b.end) - max(a.start, b.start)
    return a.type != b.type, -overlap, a.start, b.start


def _category(gold: Scored | None, predicted: Scored | None) -> str:
    """Name the field of `SpanErrors` that a pair of wrong spans counts towards."""
    if gold is None or predicted is None:
        return "spurious" if gold is None else "missed"
    if replace(gold, type=predicted.type) == predicted:
        return "type"
    return "boundary" if gold.type == predicted.type else "both"
