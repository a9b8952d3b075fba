"""Words to word pieces, and long sentences to windows.

A word is scored at one of its pieces and in one window only, in training and in evaluation alike, so that nothing is
counted twice and nothing is lost. A sentence that does not fit is covered by overlapping windows of whole words; each
word belongs to the window that shows most context on the word's shorter side. Scores of a split's windows, put one
after the other, are therefore the scores of its words in order: stitching is concatenation.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Protocol

import numpy as np
from jaxtyping import Int32, Int64, Shaped

from mpt.data.sentence import Sentence
from mpt.errors import DataError

NOTICES_SHOWN = 3  # examples per kind of notice; the count is always given


class Encoding(Protocol):
    """What a `tokenizers.Encoding` offers and this module needs."""

    ids: list[int]
    word_ids: list[int | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class WordPieces:
    """How a backbone wants its text.

    Attributes:
        tokenizer: The fast tokenizer's core (`tokenizers.Tokenizer`), without truncation and padding.
        prefix: Special piece ids before the text.
        suffix: Special piece ids after the text.
        unknown: Id for a word that the tokenizer turns into nothing.
        pad: Id that fills rows up.
        room: Most pieces of text in a window, specials not counted.
        before_word: Text put before every word: a space, where the tokenizer tells a word's start by it.
        last_piece: Score a word at its last piece instead of its first: a causal backbone has not read the word before.
    """

    tokenizer: Any
    prefix: tuple[int, ...]
    suffix: tuple[int, ...]
    unknown: int | None
    pad: int
    room: int
    before_word: str = ""
    last_piece: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class TrunkStates:
    """Outputs of a backbone's lower layers for every piece of a split.

    Attributes:
        depth: How many layers, counted from the first.
        values: The outputs: float32, or bfloat16 as its bits in uint16.
    """

    depth: int
    values: Shaped[np.ndarray, "pieces H"]


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodedSplit:
    """Sentences as windows of word pieces, in flat arrays.

    Attributes:
        pieces: Piece ids of all windows, specials included.
        piece_starts: Start of each window in `pieces`, and the total.
        positions: For every word of every sentence, in order: the column of its window where it is scored.
        word_starts: Start of each window's words in `positions`, and the total.
        labels: Label id of every word, or None for text without labels.
        windows_of: First window of each sentence, and the total.
        trunk: What the layers below the prompts make of the pieces, where that is kept; None computes it in every step.
    """

    pieces: Int32[np.ndarray, " pieces"]
    piece_starts: Int64[np.ndarray, " windows+1"]
    positions: Int32[np.ndarray, " words"]
    word_starts: Int64[np.ndarray, " windows+1"]
    labels: Int32[np.ndarray, " words"] | None
    windows_of: Int64[np.ndarray, " sentences+1"]
    trunk: TrunkStates | None = None

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

    def sentence_of(self, window: int) -> int:
        """Index of the sentence that a window is part of."""
        return int(np.searchsorted(self.windows_of, window, side="right")) - 1


def encode(
    sentences: Sequence[Sentence],
    word_pieces: WordPieces,
    labels: Sequence[str] | None,
    *,
    long: str = "window",
    no_piece: str = "unknown",
) -> tuple[EncodedSplit, list[str]]:
    """Tokenise sentences and cut them into windows.

    Args:
        sentences: Sentences whose tags are all in `labels`.
        word_pieces: The backbone's tokenizer.
        labels: The task's labels; None leaves the tags aside.
        long: "window" covers a sentence that does not fit by several windows, "error" refuses it.
        no_piece: "unknown" gives a word without word pieces the unknown piece, "error" refuses it.

    Returns:
        The windows, and notices for the user: what was windowed, replaced or cut, with counts and first places.

    Raises:
        DataError: A policy is "error" and a sentence or word falls under it; all of them are named, as file:line.
    """
    builder = _Builder(word_pieces, {label: i for i, label in enumerate(labels)} if labels is not None else None)
    encodings: Iterable[Encoding] = word_pieces.tokenizer.encode_batch(
        [[word_pieces.before_word + word for word in sentence.words] for sentence in sentences],
        is_pretokenized=True,
        add_special_tokens=False,
    )
    for sentence, encoding in zip(sentences, encodings, strict=True):
        builder.add(sentence, encoding)
    builder.enforce(long=long, no_piece=no_piece)
    return builder.build(), builder.notices()


class _Builder:
    """Collects windows and what is worth telling about them."""

    def __init__(self, word_pieces: WordPieces, label_ids: Mapping[str, int] | None) -> None:
        self.word_pieces = word_pieces
        self.label_ids = label_ids
        self.pieces: list[int] = []
        self.piece_starts = [0]
        self.positions: list[int] = []
        self.word_starts = [0]
        self.labels: list[int] = []
        self.windows_of = [0]
        self.without_piece: list[str] = []
        self.windowed: list[str] = []
        self.cut_words: list[str] = []

    def add(self, sentence: Sentence, encoding: Encoding) -> None:
        """Append one sentence's windows."""
        words = self._pieces_of_words(sentence, encoding)
        counts = np.array([len(word) for word in words])
        if counts.sum() > self.word_pieces.room:
            self.windowed.append(f"{sentence.where} ({len(words)} words, {counts.sum()} word pieces)")
        prefix, suffix = self.word_pieces.prefix, self.word_pieces.suffix
        for first, last, begin, end in windows(counts, self.word_pieces.room):
            starts = np.cumsum([len(prefix), *counts[first:last]])
            columns = starts[1:] - 1 if self.word_pieces.last_piece else starts[:-1]
            self.positions += columns[begin - first : end - first].tolist()
            self.pieces += [*prefix, *(piece for word in words[first:last] for piece in word), *suffix]
            self.piece_starts.append(len(self.pieces))
            self.word_starts.append(len(self.positions))
        self.windows_of.append(len(self.piece_starts) - 1)
        if self.label_ids is not None:
            assert sentence.tags is not None, sentence.where
            self.labels += [self.label_ids[tag] for tag in sentence.tags]

    def _pieces_of_words(self, sentence: Sentence, encoding: Encoding) -> list[list[int]]:
        """Piece ids of each word: at least one, at most what a window holds."""
        words: list[list[int]] = [[] for _ in sentence.words]
        for piece, word in zip(encoding.ids, encoding.word_ids, strict=True):
            assert word is not None, "special tokens were asked to be left out"
            words[word].append(piece)
        for index, word in enumerate(words):
            where = f"{sentence.path}:{sentence.lines[index]} {sentence.words[index]!r}"
            if not word:
                self.without_piece.append(where)
                words[index] = [-1 if self.word_pieces.unknown is None else self.word_pieces.unknown]
            elif len(word) > self.word_pieces.room:
                self.cut_words.append(where)
                words[index] = word[: self.word_pieces.room]
        return words

    def enforce(self, *, long: str, no_piece: str) -> None:
        """Raise for what the task's policies forbid."""
        problems = []
        if no_piece == "error" or self.word_pieces.unknown is None:
            remedy = (
                ", and has no unknown piece to stand in for it. Remove the word from the file"
                if self.word_pieces.unknown is None
                else ". Remove the word from the file, or set no_piece: unknown"
            )
            problems += [
                f"{where}: the tokenizer turns this word into no word piece{remedy}" for where in self.without_piece
            ]
        if long == "error":
            problems += [
                f"{where}: sentence is longer than the {self.word_pieces.room} word pieces the backbone takes. "
                "Split it, or set long: window"
                for where in [*self.windowed, *self.cut_words]
            ]
        if problems:
            raise DataError(problems[:20] + ([f"... and {len(problems) - 20} more"] if len(problems) > 20 else []))

    def notices(self) -> list[str]:
        """What the user should know, one line a kind."""
        kinds = (
            (self.windowed, f"sentences longer than {self.word_pieces.room} word pieces, read in overlapping windows"),
            (self.without_piece, "words without a word piece, read as the unknown piece"),
            (self.cut_words, f"words longer than {self.word_pieces.room} word pieces, only their first pieces read"),
        )
        return [
            f"{what}: {len(places):,} (first: {', '.join(places[:NOTICES_SHOWN])})" for places, what in kinds if places
        ]

    def build(self) -> EncodedSplit:
        """The collected windows as arrays."""
        return EncodedSplit(
            pieces=np.array(self.pieces, dtype=np.int32),
            piece_starts=np.array(self.piece_starts, dtype=np.int64),
            positions=np.array(self.positions, dtype=np.int32),
            word_starts=np.array(self.word_starts, dtype=np.int64),
            labels=np.array(self.labels, dtype=np.int32) if self.label_ids is not None else None,
            windows_of=np.array(self.windows_of, dtype=np.int64),
        )


def windows(counts: Int64[np.ndarray, " words"], room: int) -> list[tuple[int, int, int, int]]:
    """Cover words by windows of at most `room` pieces and share the words out.

    Args:
        counts: Pieces of each word, each at least 1 and at most `room`.
        room: Pieces of a window.

    Returns:
        (first, last, begin, end) of each window: it shows the words `first:last` and scores the words `begin:end`, at
        least one. The scored ranges follow each other without gap or overlap.
    """
    ends = np.concatenate([[0], np.cumsum(counts)])
    spans: list[tuple[int, int]] = []
    first = 0
    while True:
        last = int(np.searchsorted(ends, ends[first] + room, side="right")) - 1
        spans.append((first, last))
        if last == len(counts):
            break
        # Half a window on, in pieces; farther where the next word is so large that it would not be in the window yet.
        half, fits = np.searchsorted(ends, [ends[first] + room // 2, ends[last + 1] - room], side="left")
        first = min(max(first + 1, int(half), int(fits)), last)
    # A word seen by two windows goes to the one where its nearer edge is farther away; the border between two
    # neighbours is the middle of what both see, and ties go to the earlier.
    borders = [0]
    for (_, last), (first, _) in pairwise(spans):
        middle = (ends[first] + ends[last]) / 2
        centres = (ends[first:last] + ends[first + 1 : last + 1]) / 2
        borders.append(max(borders[-1], first + int(np.searchsorted(centres, middle, side="right"))))
    borders.append(len(counts))
    return [(first, last, borders[i], borders[i + 1]) for i, (first, last) in enumerate(spans)]
