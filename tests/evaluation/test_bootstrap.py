import numpy as np
import pytest

from mpt.base.errors import MptError
from mpt.data.families.metrics import score, sentence_counts
from mpt.evaluation import bootstrap
from mpt.evaluation.bootstrap import paired_bootstrap

GOLD = [["B-PER", "I-PER", "O"], ["O", "B-LOC"], ["O"]]
PREDICTED = [["B-PER", "I-PER", "O"], ["B-LOC", "O"], ["B-PER"]]


def system(share_right, sentences=400, seed=0):
    """Counts of a system that finds each of two spans a sentence with a given chance."""
    tp = np.random.default_rng(seed).binomial(2, share_right, sentences)
    return np.stack([tp, 2 - tp, 2 - tp], axis=1)


def test_sentence_counts_of_spans_sum_to_the_score():
    counts = sentence_counts("span_f1", GOLD, PREDICTED)
    assert counts.tolist() == [[1, 0, 0], [0, 1, 1], [0, 1, 0]]
    total = score("span_f1", GOLD, PREDICTED).total
    assert counts.sum(axis=0).tolist() == [total.tp, total.fp, total.fn]


def test_sentence_counts_of_raw_tags_give_accuracy_as_f1():
    gold, predicted = [["A", "B"], ["A"]], [["A", "A"], ["A"]]
    tp, fp, fn = sentence_counts("accuracy", gold, predicted).sum(axis=0)
    assert 2 * tp / (2 * tp + fp + fn) == pytest.approx(score("accuracy", gold, predicted).primary)


def test_sentence_counts_of_one_label_sum_to_its_f1():
    gold, predicted = [["1"], ["1"], ["0"], ["0"]], [["1"], ["0"], ["1"], ["0"]]
    counts = sentence_counts("f1", gold, predicted, positive="1")
    assert counts.tolist() == [[1, 0, 0], [0, 0, 1], [0, 1, 0], [0, 0, 0]]
    nothing = (
        sentence_counts("f1", [["0"]], [["0"]], positive="1"),
        sentence_counts("f1", [["0"]], [["1"]], positive="1"),
    )
    assert paired_bootstrap(*nothing, samples=10).difference == 1, "neither holds anything"
    assert paired_bootstrap(*nothing, nothing=0.0, samples=10).difference == 0, "as the score has it"


def test_difference_is_that_of_the_two_scores():
    worse = [["O"] * 3, *PREDICTED[1:]]
    result = paired_bootstrap(*(sentence_counts("span_f1", GOLD, tags) for tags in (PREDICTED, worse)), samples=10)
    assert result.difference == pytest.approx(
        score("span_f1", GOLD, PREDICTED).primary - score("span_f1", GOLD, worse).primary
    )


def test_a_clear_difference_excludes_zero():
    result = paired_bootstrap(system(0.9), system(0.6, seed=1), samples=2_000)
    assert 0 < result.low < result.difference < result.high


def test_the_interval_holds_the_true_difference_as_often_as_it_says():
    trials = [(system(0.8, 100, seed), system(0.8, 100, 1_000 + seed)) for seed in range(100)]
    results = [paired_bootstrap(a, b, samples=400, confidence=0.8) for a, b in trials]
    assert 70 <= sum(result.low <= 0 <= result.high for result in results) <= 90


def test_pairing_takes_out_what_both_systems_find_hard():
    # System b misses one span more in 40 of 400 sentences: tiny against the spread between sentences, yet certain.
    a = system(0.5)
    b = a.copy()
    b[np.flatnonzero(a[:, 0] > 0)[:40]] += [-1, 1, 1]
    result = paired_bootstrap(a, b, samples=2_000)
    assert result.low > 0
    assert result.high - result.low < 0.06


def test_interval_matches_the_normal_approximation():
    # 400 sentences of one word, right with chance 0.7 against never: the deviation is sqrt(p (1 - p) / 400).
    right = (np.random.default_rng(3).random(400) < 0.7).astype(int)
    a = np.stack([right, 1 - right, 1 - right], axis=1)
    b = np.tile([0, 1, 1], (400, 1))
    result = paired_bootstrap(a, b, samples=4_000)
    share = right.mean()
    width = 2 * 1.96 * np.sqrt(share * (1 - share) / 400)
    assert result.high - result.low == pytest.approx(width, rel=0.1)


def test_equal_systems_differ_by_nothing():
    result = paired_bootstrap(system(0.5), system(0.5), samples=100)
    assert (result.difference, result.low, result.high) == (0, 0, 0)


def test_seeded_and_independent_of_how_the_work_is_cut(monkeypatch):
    a, b = system(0.8), system(0.7, seed=1)
    first = paired_bootstrap(a, b, samples=500, seed=7)
    assert paired_bootstrap(a, b, samples=500, seed=7) == first
    assert paired_bootstrap(a, b, samples=500, seed=8) != first
    monkeypatch.setattr(bootstrap, "DRAWN_AT_A_TIME", 7 * 400)
    assert paired_bootstrap(a, b, samples=500, seed=7) == first


def test_confidence_widens_the_interval():
    narrow, wide = (paired_bootstrap(system(0.8), system(0.7), samples=1_000, confidence=c) for c in (0.5, 0.99))
    assert wide.low < narrow.low < narrow.high < wide.high


def test_other_sentences_are_refused():
    with pytest.raises(
        MptError, match="cannot compare 400 with 399 sentences: score both systems on the same test set"
    ):
        paired_bootstrap(system(0.8), system(0.8, sentences=399))
    with pytest.raises(MptError, match="cannot compare 0 with 0 sentences"):
        paired_bootstrap(np.zeros((0, 3), dtype=int), np.zeros((0, 3), dtype=int))
