"""Say how far the choice of test sentences moves the difference between two systems."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import get_args

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from mpt.base.errors import MptError
from mpt.data.families.family import Metric
from mpt.evaluation.answers import answer_scores
from mpt.evaluation.metrics import Tags, check_lengths, scored_spans

DRAWN_AT_A_TIME = 4_000_000
"""Sentences drawn into memory at a time, 16 bytes each. No result depends on it."""


def sentence_counts(
    metric: Metric, gold: Tags, predicted: Tags, *, positive: str | None = None
) -> Float[ndarray, "N 3"]:
    """Count tp, fp and fn of every sentence, as `paired_bootstrap` takes them.

    A wrong word of a raw task is one fp and one fn, so that F1 over the counts is the accuracy. What an answer's F1
    lacks to 1 is an fp and an fn as well, so that F1 over the counts is the mean F1. With `f1` the label `positive`
    alone counts. Macro F1 is no F1 over counts: accuracy stands in for it.
    """
    assert metric in get_args(Metric), metric
    if metric == "qa_f1":
        figures = np.array([f1 for _, f1 in answer_scores(gold, predicted)], dtype=np.float64)
        return np.stack([figures, 1 - figures, 1 - figures], axis=1)
    check_lengths(gold, predicted)
    if metric in ("span_f1", "srl_f1"):
        pairs = zip(scored_spans(metric, gold, "gold"), scored_spans(metric, predicted, "predicted"), strict=True)
        rows = [(len(wanted & found), len(found - wanted), len(wanted - found)) for wanted, found in pairs]
    elif metric == "f1":
        rows = [_label_counts(*pair, positive) for pair in zip(gold, predicted, strict=True)]
    else:
        wrong = [sum(a != b for a, b in zip(*pair, strict=True)) for pair in zip(gold, predicted, strict=True)]
        rows = [(len(tags) - misses, misses, misses) for tags, misses in zip(gold, wrong, strict=True)]
    return np.array(rows, dtype=np.float64).reshape(-1, 3)


def _label_counts(gold: Sequence[str], predicted: Sequence[str], label: str | None) -> tuple[int, int, int]:
    pairs = [(a == label, b == label) for a, b in zip(gold, predicted, strict=True)]
    return pairs.count((True, True)), pairs.count((False, True)), pairs.count((True, False))


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """How much better system a is than system b on the same sentences.

    Attributes:
        difference: Figure of a minus figure of b, in [-1, 1].
        low: Lower end of the confidence interval of the difference.
        high: Upper end. An interval that holds 0 leaves open which system is better.
        confidence: Share of resamples that the interval holds.
        samples: Number of resamples.
    """

    difference: float
    low: float
    high: float
    confidence: float
    samples: int

    def to_json(self) -> dict[str, object]:
        """Return the fields in a fixed order."""
        return {field.name: getattr(self, field.name) for field in fields(self)}


def paired_bootstrap(
    a: Float[ndarray, "N 3"],
    b: Float[ndarray, "N 3"],
    *,
    nothing: float = 1.0,
    samples: int = 10_000,
    confidence: float = 0.95,
    seed: int = 0,
) -> Difference:
    """Compare two systems on one test set by resampling its sentences with replacement.

    The interval says how far the choice of test sentences alone moves the difference. It knows nothing of the choice of
    training seed, which moves prompt tuning more: run several.

    Args:
        a: `sentence_counts` of the first system.
        b: Those of the second, for the same sentences in the same order.
        nothing: Figure of a test set in which neither gold nor predictions hold anything: 0 where it is the F1 of one
            label.
        samples: Number of resamples.
        confidence: Share of resamples inside the interval, cut equally at both ends.
        seed: Seed of the resampling; equal seeds give equal intervals.

    Raises:
        MptError: The two systems were not scored on equally many sentences, or on none.

    Source:
        Percentile interval: Efron and Tibshirani 1993, "An Introduction to the Bootstrap", chapter 13. Use in NLP:
        Koehn 2004, "Statistical Significance Tests for Machine Translation Evaluation".
    """
    if a.shape != b.shape or len(a) == 0:
        raise MptError(f"cannot compare {len(a)} with {len(b)} sentences: score both systems on the same test set.")
    assert samples > 0 and 0 < confidence < 1
    both, rng = np.concatenate([a, b], axis=1), np.random.default_rng(seed)
    drawn = np.concatenate([_resample(both, size, rng) for size in _sizes(samples, len(a))])
    differences = _f1(drawn[:, :3], nothing) - _f1(drawn[:, 3:], nothing)
    low, high = np.quantile(differences, [(1 - confidence) / 2, (1 + confidence) / 2])
    difference = _f1(a.sum(axis=0), nothing) - _f1(b.sum(axis=0), nothing)
    return Difference(
        difference=float(difference), low=float(low), high=float(high), confidence=confidence, samples=samples
    )


def _sizes(samples: int, sentences: int) -> list[int]:
    size = max(1, DRAWN_AT_A_TIME // sentences)
    return [min(size, samples - start) for start in range(0, samples, size)]


def _resample(counts: Float[ndarray, "N 6"], size: int, rng: np.random.Generator) -> Float[ndarray, "K 6"]:
    """Sum the counts of K drawn test sets. How often each sentence was drawn, times its counts, is one product."""
    number = len(counts)
    drawn = rng.integers(0, number, (size, number)) + np.arange(size)[:, None] * number
    return np.bincount(drawn.ravel(), minlength=size * number).reshape(size, number) @ counts


def _f1(counts: Float[ndarray, "*K 3"], nothing: float) -> Float[ndarray, "*K"]:
    tp, fp, fn = counts[..., 0], counts[..., 1], counts[..., 2]
    found = 2 * tp + fp + fn
    return np.where(found > 0, 2 * tp / np.where(found > 0, found, 1), nothing)
