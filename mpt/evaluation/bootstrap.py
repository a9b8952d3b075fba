"""Say how far the choice of test sentences moves the difference between two systems."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from mpt.base.errors import MptError

DRAWN_AT_A_TIME = 4_000_000
"""Sentences drawn into memory at a time, 16 bytes each. No result depends on it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """How much better system a is than system b on the same sentences.

    Attributes:
        difference: Figure of a minus figure of b, in [-1, 1].
        low, high: Its confidence interval. One that holds 0 leaves open which system is better.
        confidence: Share of resamples that the interval holds.
        samples: Number of resamples.
    """

    difference: float
    low: float
    high: float
    confidence: float
    samples: int


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

    Both are given as `mpt.data.families.metrics.sentence_counts` of the same sentences in the same order. A test set in
    which neither gold nor predictions hold anything counts as `nothing`: 0 where the figure is the F1 of one label.
    Resamples outside the interval are cut equally at both ends; equal seeds give equal intervals.

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
    most = max(1, DRAWN_AT_A_TIME // len(a))
    sizes = [min(most, samples - start) for start in range(0, samples, most)]
    drawn = np.concatenate([_resample(both, size, rng) for size in sizes])
    differences = _f1(drawn[:, :3], nothing) - _f1(drawn[:, 3:], nothing)
    low, high = np.quantile(differences, [(1 - confidence) / 2, (1 + confidence) / 2])
    difference = _f1(a.sum(axis=0), nothing) - _f1(b.sum(axis=0), nothing)
    return Difference(
        difference=float(difference), low=float(low), high=float(high), confidence=confidence, samples=samples
    )


def _resample(counts: Float[ndarray, "N 6"], size: int, rng: np.random.Generator) -> Float[ndarray, "K 6"]:
    """Sum the counts of K drawn test sets. How often each sentence was drawn, times its counts, is one product."""
    number = len(counts)
    drawn = rng.integers(0, number, (size, number)) + np.arange(size)[:, None] * number
    return np.bincount(drawn.ravel(), minlength=size * number).reshape(size, number) @ counts


def _f1(counts: Float[ndarray, "*K 3"], nothing: float) -> Float[ndarray, "*K"]:
    tp, fp, fn = counts[..., 0], counts[..., 1], counts[..., 2]
    found = 2 * tp + fp + fn
    return np.where(found > 0, 2 * tp / np.where(found > 0, found, 1), nothing)
