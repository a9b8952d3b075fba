"""Turn label scores into tags: constrained Viterbi over BIO2 for span tasks, argmax for raw tasks.

Promises: a constrained result is always valid BIO2 and has the highest total score of all valid sequences; where the
argmax is valid it is the result; the result of a sentence does not depend on what it is decoded together with. Equal
totals are resolved to the lowest label index, looking at the last word first.

BIO2 lets `O` and `B-X` follow everything and `I-X` follow `B-X` and `I-X` alone. So the best predecessor of most labels
is one shared maximum and that of `I-X` a maximum of two, and a word costs O(labels) and not O(labels squared).
"""

from collections.abc import Iterator, Sequence

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy import ndarray

from mpt.base.errors import MptError

# Sentences that are padded together. They are sorted by length first, so more would only cost memory.
CHUNK = 512


def decode_many(scores: Sequence[Float[ndarray, "W C"]], labels: Sequence[str], constrained: bool) -> list[list[str]]:
    """Return one tag a word for every sentence, in the order given.

    Scores of a sentence, which may be empty, are words by labels, of any float type. With `constrained` the labels are
    `O`, `B-X` and `I-X`, and the best valid BIO2 sequence is searched; else the best tag of each word is taken.

    Raises:
        MptError: A score is not finite, or the columns are not the labels.
    """
    best = [_argmax(number, sentence, labels) for number, sentence in enumerate(scores, start=1)]
    if constrained:
        begin = _begin_of(labels)
        invalid = [index for index, path in enumerate(best) if not _is_valid(path, begin)]
        for chunk in _chunks(invalid, scores):
            paths = _viterbi([scores[index] for index in chunk], begin)
            for index, path in zip(chunk, paths, strict=True):
                best[index] = path
    names = np.array(labels, dtype=object)
    return [names[path].tolist() for path in best]


def decode_choices(scores: Sequence[Float[ndarray, "W C"]]) -> list[list[str]]:
    """Return the number of the best choice of every example (choices by one column), as one item; the first of equals.

    Raises:
        MptError: A score is not finite.
    """
    return [[str(int(_argmax(number, choices.T, range(len(choices)))[0]))] for number, choices in enumerate(scores, 1)]


def _argmax(number: int, scores: Float[ndarray, "W C"], labels: Sequence[object]) -> Int[ndarray, "W"]:
    if scores.ndim != 2 or scores.shape[1] != len(labels):
        raise MptError(
            f"sentence {number}: scores have shape {scores.shape}, expected (words, {len(labels)}): one column for "
            "each label. These scores belong to another head."
        )
    if not np.isfinite(scores).all():
        word = int(np.argwhere(~np.isfinite(scores))[0, 0])
        raise MptError(
            f"sentence {number}, word {word + 1}: a label score is not finite. The weights have diverged: train with a "
            "lower learning rate, or evaluate an earlier checkpoint."
        )
    return scores.argmax(axis=1)


def _begin_of(labels: Sequence[str]) -> Int[ndarray, "C"]:
    """Return for every `I-X` the index of `B-X`, and -1 for the labels that may stand anywhere."""
    index = {label: number for number, label in enumerate(labels)}
    for label in labels:
        assert label == "O" or label[:2] in ("B-", "I-"), f"not a BIO2 label: {label!r}"
        assert not label.startswith("I-") or f"B-{label[2:]}" in index, f"{label!r} without its B- label"
    return np.array([index[f"B-{label[2:]}"] if label.startswith("I-") else -1 for label in labels])


def _is_valid(path: Int[ndarray, "W"], begin: Int[ndarray, "C"]) -> bool:
    """Whether every `I-X` of the path stands right after a `B-X` or an `I-X`."""
    previous = np.concatenate([[-1], path[:-1]])
    needed = begin[path]
    return bool(((needed < 0) | (previous == needed) | (previous == path)).all()) if len(path) else True


def _chunks(indices: list[int], scores: Sequence[Float[ndarray, "W C"]]) -> Iterator[list[int]]:
    by_length = sorted(indices, key=lambda index: len(scores[index]))
    for start in range(0, len(by_length), CHUNK):
        yield by_length[start : start + CHUNK]


def _viterbi(sentences: Sequence[Float[ndarray, "W C"]], begin: Int[ndarray, "C"]) -> list[Int[ndarray, "W"]]:
    """Find the best valid path of each of N sentences that are not empty, side by side."""
    lengths = np.array([len(sentence) for sentence in sentences])
    scores_NWC = _pad(sentences, lengths)
    inside = np.flatnonzero(begin >= 0)
    total_NC = np.where(begin < 0, scores_NWC[:, 0], -np.inf)
    back_NWC = np.zeros(scores_NWC.shape, dtype=np.int16 if len(begin) < 2**15 else np.int32)
    for word in range(1, scores_NWC.shape[1]):
        # A finished sentence keeps its totals; then its best label is its own best predecessor through the padding.
        step_NC, back_NWC[:, word] = _advance(total_NC, scores_NWC[:, word], begin, inside)
        total_NC = np.where((word < lengths)[:, None], step_NC, total_NC)
    return _trace(total_NC, back_NWC, lengths)


def _pad(sentences: Sequence[Float[ndarray, "W C"]], lengths: Int[ndarray, "N"]) -> Float[ndarray, "N W C"]:
    """Stack sentences of N lengths; every word's best label is moved to 0, which keeps sums small and exact."""
    padded = np.zeros((len(sentences), int(lengths.max()), sentences[0].shape[1]), dtype=np.float64)
    for row, sentence in zip(padded, sentences, strict=True):
        row[: len(sentence)] = sentence
    return padded - padded.max(axis=2, keepdims=True)


def _advance(
    total_NC: Float[ndarray, "N C"],
    scores_NC: Float[ndarray, "N C"],
    begin: Int[ndarray, "C"],
    inside: Int[ndarray, "I"],
) -> tuple[Float[ndarray, "N C"], Int[ndarray, "N C"]]:
    """Extend the best path to every label by one word; return the new totals and each label's best predecessor."""
    back_NC = np.repeat(total_NC.argmax(axis=1)[:, None], len(begin), axis=1)
    from_begin_NI, from_inside_NI = total_NC[:, begin[inside]], total_NC[:, inside]
    prefer_begin_NI: Bool[ndarray, "N I"] = (from_begin_NI > from_inside_NI) | (
        (from_begin_NI == from_inside_NI) & (begin[inside] < inside)
    )
    back_NC[:, inside] = np.where(prefer_begin_NI, begin[inside], inside)
    return np.take_along_axis(total_NC, back_NC, axis=1) + scores_NC, back_NC


def _trace(
    total_NC: Float[ndarray, "N C"], back_NWC: Int[ndarray, "N W C"], lengths: Int[ndarray, "N"]
) -> list[Int[ndarray, "W"]]:
    """Follow the best predecessors from the last word to the first."""
    rows, (num_rows, num_words, _) = np.arange(len(lengths)), back_NWC.shape
    path_NW = np.empty((num_rows, num_words), dtype=np.int64)
    path_NW[:, -1] = total_NC.argmax(axis=1)
    for word in range(num_words - 1, 0, -1):
        path_NW[:, word - 1] = back_NWC[rows, word, path_NW[:, word]]
    return [path[:length] for path, length in zip(path_NW, lengths.tolist(), strict=True)]
