"""Rows of unequal length, laid end to end in one flat array."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Int, Int32, Int64


def starts_of(lengths: Int[np.ndarray, " rows"]) -> Int64[np.ndarray, " rows+1"]:
    """Where each row starts, and the total."""
    return np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])


def ranges(starts: Int64[np.ndarray, " rows"], lengths: Int64[np.ndarray, " rows"]) -> Int64[np.ndarray, " total"]:
    """`range(start, start + length)` of every row, one after the other."""
    before = starts_of(lengths)
    return np.arange(before[-1]) + np.repeat(starts - before[:-1], lengths)


def bounds_of(rows: Sequence[Int[np.ndarray, " n"]]) -> Int64[np.ndarray, " rows+1"]:
    """Where each row starts once they are joined, and the total."""
    return starts_of(np.array([len(row) for row in rows], dtype=np.int64))


def joined(rows: Sequence[Int32[np.ndarray, " n"]]) -> Int32[np.ndarray, " total"]:
    """All rows, one after the other."""
    return np.concatenate(rows) if rows else np.zeros(0, dtype=np.int32)
