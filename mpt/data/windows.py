"""Tasks as a backbone sees them: windows of word pieces in flat arrays, and no object for an example.

A *word* here is a place that is scored. In a sentence every word is one; a text that gets one label has one for the
whole, and so has every choice; in a passage every piece is one that an answer may begin or end at.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Int32, Int64, UInt8

from mpt.data.ragged import ranges, starts_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Places:
    """Where examples come from.

    Attributes:
        paths, files: Files, and the index of each example's among them.
        lines: Line of its first word, counted from 1.
    """

    paths: tuple[str, ...]
    files: Int32[np.ndarray, " examples"]
    lines: Int32[np.ndarray, " examples"]

    def __len__(self) -> int:
        """Number of examples."""
        return len(self.lines)

    def of(self, example: int) -> tuple[str, int]:
        """File and line of an example's first word."""
        return self.paths[self.files[example]], int(self.lines[example])

    def where(self, example: int) -> str:
        """The same as `file:line`."""
        path, line = self.of(example)
        return f"{path}:{line}"


def places_of(places: Sequence[tuple[str, int]]) -> Places:
    """Keep (file, line) of every example as arrays."""
    numbers: dict[str, int] = {}
    files = [numbers.setdefault(path, len(numbers)) for path, _ in places]
    lines = [line for _, line in places]
    return Places(paths=tuple(numbers), files=np.array(files, dtype=np.int32), lines=np.array(lines, dtype=np.int32))


@dataclass(frozen=True, slots=True, kw_only=True)
class Passages:
    """What answers are cut out of, and judged by.

    Attributes:
        texts: Every passage once.
        of: Passage of each example.
        answers: Accepted answers of each example, none where there is no answer; None for text without labels.
        starts: Offset of the first character that each word covers in its passage; -1 for the place of "no answer".
        ends: Offset behind the last.
    """

    texts: tuple[str, ...]
    of: Int32[np.ndarray, " examples"]
    answers: tuple[tuple[str, ...], ...] | None
    starts: Int32[np.ndarray, " words"]
    ends: Int32[np.ndarray, " words"]


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodedSplit:
    """Examples as windows of word pieces, in flat arrays.

    Attributes:
        pieces: Piece ids of all windows, specials included.
        piece_starts: Start of each window in `pieces`, and the total.
        segments: Segment (token type) of every piece; None when all are in the first.
        positions: For every word of every example, in order: the column of its window where it is scored.
        widths: Pieces of every word, from its column on, whose states are averaged; None where one stands for the word.
        word_starts: Start of each window's words in `positions`, and the total.
        labels: Label id of every word; with `one_right` a bit for each column that the word is right in. None for text
            without labels.
        whole: Whether the windows of an example belong together: a unit of training is then an example, else a window.
        one_right: Whether the words of a unit are alternatives of which one is right, so that scores are normalised
            over them; else every word has a label of its own.
        windows_of: First window of each example, and the total.
        places: Where each example comes from.
        passages: Of questions about passages; None elsewhere.
    """

    pieces: Int32[np.ndarray, " pieces"]
    piece_starts: Int64[np.ndarray, " windows+1"]
    segments: UInt8[np.ndarray, " pieces"] | None = None
    positions: Int32[np.ndarray, " words"]
    widths: Int32[np.ndarray, " words"] | None = None
    word_starts: Int64[np.ndarray, " windows+1"]
    labels: Int32[np.ndarray, " words"] | None
    whole: bool = False
    one_right: bool = False
    windows_of: Int64[np.ndarray, " examples+1"]
    places: Places
    passages: Passages | None = None

    def __len__(self) -> int:
        """Number of windows."""
        return len(self.piece_starts) - 1

    @property
    def window_pieces(self) -> Int64[np.ndarray, " windows"]:
        """Word pieces of each window, specials included."""
        return np.diff(self.piece_starts)

    @property
    def window_words(self) -> Int64[np.ndarray, " windows"]:
        """Words scored in each window."""
        return np.diff(self.word_starts)

    @property
    def unit_pieces(self) -> Int64[np.ndarray, " units"]:
        """Padded positions of each unit of training: a window, or an example whose windows belong together."""
        if not self.whole:
            return self.window_pieces
        return np.maximum.reduceat(self.window_pieces, self.windows_of[:-1]) * np.diff(self.windows_of)

    @property
    def unit_terms(self) -> Int64[np.ndarray, " units"]:
        """Terms of the loss in each unit: its words, or one where the words are alternatives."""
        if not self.one_right:
            return self.window_words
        return np.ones(len(self.places) if self.whole else len(self), dtype=np.int64)

    def windows_in(self, units: Int64[np.ndarray, " units"]) -> Int64[np.ndarray, " rows"]:
        """The windows of some units."""
        if not self.whole:
            return units
        return ranges(self.windows_of[units], self.windows_of[units + 1] - self.windows_of[units])

    def units_of(self, windows: Int64[np.ndarray, " rows"]) -> Int64[np.ndarray, " rows"]:
        """The unit that each of some windows is, or is part of."""
        return self.examples_of(windows) if self.whole else windows

    def terms_of(self, units: Int64[np.ndarray, " units"]) -> int:
        """Terms of the loss in some units; looks at no others, which may be many."""
        return len(units) if self.one_right else int(self.words_of(units).sum())

    def pieces_of(self, windows: Int64[np.ndarray, " rows"]) -> Int64[np.ndarray, " rows"]:
        """Word pieces of some windows; looks at no others, which may be many."""
        return self.piece_starts[windows + 1] - self.piece_starts[windows]

    def words_of(self, windows: Int64[np.ndarray, " rows"]) -> Int64[np.ndarray, " rows"]:
        """Words scored in some windows."""
        return self.word_starts[windows + 1] - self.word_starts[windows]

    @property
    def example_words(self) -> Int64[np.ndarray, " examples+1"]:
        """First word of each example, and the total."""
        return self.word_starts[self.windows_of]

    def examples_of(self, windows: Int64[np.ndarray, " rows"]) -> Int64[np.ndarray, " rows"]:
        """The example that each of some windows is part of."""
        return np.searchsorted(self.windows_of, windows, side="right") - 1


def select(split: EncodedSplit, examples: Int64[np.ndarray, " n"]) -> EncodedSplit:
    """Some examples of a split, in the given order: the same arrays as if they alone had been encoded."""
    windows = ranges(split.windows_of[examples], np.diff(split.windows_of)[examples])
    pieces = ranges(split.piece_starts[windows], split.window_pieces[windows])
    words = ranges(split.word_starts[windows], split.window_words[windows])
    segments = None if split.segments is None else split.segments[pieces]
    return replace(
        split,
        pieces=split.pieces[pieces],
        piece_starts=starts_of(split.window_pieces[windows]),
        segments=segments if segments is not None and segments.any() else None,
        positions=split.positions[words],
        widths=None if split.widths is None else split.widths[words],
        word_starts=starts_of(split.window_words[windows]),
        labels=None if split.labels is None else split.labels[words],
        windows_of=starts_of(np.diff(split.windows_of)[examples]),
        places=places_of([split.places.of(example) for example in examples.tolist()]),
        passages=_select_passages(split.passages, examples, words),
    )


def _select_passages(
    passages: Passages | None, examples: Int64[np.ndarray, " n"], words: Int64[np.ndarray, " words"]
) -> Passages | None:
    if passages is None:
        return None
    numbers: dict[str, int] = {}
    texts = (passages.texts[passage] for passage in passages.of[examples].tolist())
    of = [numbers.setdefault(text, len(numbers)) for text in texts]
    answers = passages.answers
    return replace(
        passages,
        texts=tuple(numbers),
        of=np.array(of, dtype=np.int32),
        answers=None if answers is None else tuple(answers[example] for example in examples.tolist()),
        starts=passages.starts[words],
        ends=passages.ends[words],
    )
