"""Sort the spans that a model got wrong into categories, and pair them with what they should have been."""

from collections.abc import Iterator
from dataclasses import dataclass, fields, replace

from mpt.evaluation.roles import Scored


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

    def to_json(self) -> dict[str, int]:
        """Return the categories in a fixed order."""
        return {field.name: getattr(self, field.name) for field in fields(self)}


def pair_spans(gold: frozenset[Scored], predicted: frozenset[Scored]) -> Iterator[tuple[Scored | None, Scored | None]]:
    """Pair the wrong spans of one sentence one to one, the closest first; None stands for a missing partner.

    Overlaps of one type are closest, then long overlaps, then the order in the sentence. Spans with equal borders
    overlap nothing else, so they always find each other. An argument in several pieces reaches from its first to its
    last.
    """
    overlaps = [(a, b) for a in gold for b in predicted if a.start < b.end and b.start < a.end]
    overlaps.sort(key=_closeness)
    free_gold, free_predicted = set(gold), set(predicted)
    for a, b in overlaps:
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


def category(gold: Scored | None, predicted: Scored | None) -> str:
    """Name the field of `SpanErrors` that a pair of wrong spans counts towards."""
    if gold is None or predicted is None:
        return "spurious" if gold is None else "missed"
    if replace(gold, type=predicted.type) == predicted:
        return "type"
    return "boundary" if gold.type == predicted.type else "both"
