"""Score predicted tags against gold: spans by F1, arguments of predicates by F1, raw tags by accuracy or a kind of F1.

Counts are whole numbers over the whole corpus, divided once at the end: a mean over batches or sentences is another
figure.
"""

from collections import Counter
from collections.abc import Sequence
from typing import TypeAlias, get_args

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from mpt.base.errors import MptError, did_you_mean
from mpt.data.families.answers import QaScore, answer_scores, qa_score
from mpt.data.families.family import Metric
from mpt.data.families.scores import LabelScore, tabulate
from mpt.data.families.spans import Tags, score_spans, span_counts

Score: TypeAlias = LabelScore | QaScore


def score(
    metric: Metric, gold: Tags, predicted: Tags, labels: Sequence[str] = (), *, positive: str | None = None
) -> Score:
    """Score a whole split of one task: tags of every word of every sentence, or accepted answers and one given one.

    Args:
        metric: `span_f1` or `srl_f1` for BIO2 tags, `accuracy`, `macro_f1` or `f1` for raw ones, `qa_f1` for answers.
        gold: What is right.
        predicted: As many for the same sentences in the same order.
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
    _check_lengths(gold, predicted)
    if metric in ("span_f1", "srl_f1"):
        return score_spans(gold, predicted, labels, metric)
    pairs: Counter[tuple[str, str]] = Counter()
    for sentence in zip(gold, predicted, strict=True):
        pairs.update(zip(*sentence, strict=True))
    right = Counter({wanted: count for (wanted, found), count in pairs.items() if wanted == found})
    tags, confusion = tabulate(labels if positive is None else [*labels, positive], right, pairs)
    return LabelScore(
        metric=metric,
        total=None if positive is None else tags[positive],
        positive=positive,
        rows=tags,
        confusion=confusion,
        sentences=len(gold),
        words=pairs.total(),
    )


def sentence_counts(
    metric: Metric, gold: Tags, predicted: Tags, *, positive: str | None = None
) -> Float[ndarray, "N 3"]:
    """Count tp, fp and fn of every sentence, as `mpt.evaluation.bootstrap.paired_bootstrap` takes them.

    A wrong word of a raw task is one fp and one fn, so that F1 over the counts is the accuracy. What an answer's F1
    lacks to 1 is an fp and an fn as well, so that F1 over the counts is the mean F1. With `f1` the label `positive`
    alone counts. Macro F1 is no F1 over counts: accuracy stands in for it.
    """
    assert metric in get_args(Metric), metric
    if metric == "qa_f1":
        figures = np.array([f1 for _, f1 in answer_scores(gold, predicted)], dtype=np.float64)
        return np.stack([figures, 1 - figures, 1 - figures], axis=1)
    _check_lengths(gold, predicted)
    if metric in ("span_f1", "srl_f1"):
        rows = span_counts(metric, gold, predicted)
    elif metric == "f1":
        rows = [_label_counts(*pair, positive) for pair in zip(gold, predicted, strict=True)]
    else:
        wrong = [sum(a != b for a, b in zip(*pair, strict=True)) for pair in zip(gold, predicted, strict=True)]
        rows = [(len(tags) - misses, misses, misses) for tags, misses in zip(gold, wrong, strict=True)]
    return np.array(rows, dtype=np.float64).reshape(-1, 3)


def _label_counts(gold: Sequence[str], predicted: Sequence[str], label: str | None) -> tuple[int, int, int]:
    pairs = [(a == label, b == label) for a, b in zip(gold, predicted, strict=True)]
    return pairs.count((True, True)), pairs.count((False, True)), pairs.count((True, False))


def _check_lengths(gold: Tags, predicted: Tags) -> None:
    """Refuse predictions that are not one tag for every gold word, naming the first sentences that differ."""
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
