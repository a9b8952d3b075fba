"""Tasks as a backbone sees them: windows of word pieces in flat arrays, and no object for an example.

A *word* here is a place that is scored. In a sentence every word is one; a text that gets one label has one for the
whole, and so has every choice; in a passage every piece is one that an answer may begin or end at.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Int32, Int64, Shaped, UInt8

from mpt.data.families.family import SoftmaxOver
from mpt.data.manifest.task_spec import Split
from mpt.data.ragged import ranges, starts_of
from mpt.data.shards import Shards
from mpt.data.tasks import Task


@dataclass(frozen=True, slots=True, kw_only=True)
class Places:
    """Where examples come from.

    Attributes:
        paths: Files.
        files: Index of each example's file among them.
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
        max_answer: Most pieces of an answer.
        no_answer_above: "No answer" is the prediction where its score is above the best answer's by more than this;
            None where it never is.
    """

    texts: tuple[str, ...]
    of: Int32[np.ndarray, " examples"]
    answers: tuple[tuple[str, ...], ...] | None
    starts: Int32[np.ndarray, " words"]
    ends: Int32[np.ndarray, " words"]
    max_answer: int
    no_answer_above: float | None


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
    """Examples as windows of word pieces, in flat arrays.

    Attributes:
        pieces: Piece ids of all windows, specials included.
        piece_starts: Start of each window in `pieces`, and the total.
        segments: Segment (token type) of every piece; None when all are in the first.
        positions: For every word of every example, in order: the column of its window where it is scored.
        widths: Pieces of every word, from its column on, whose states are averaged; None where one stands for the word.
        word_starts: Start of each window's words in `positions`, and the total.
        labels: Label id of every word; where scores are normalised over words, a bit for each column that the word is
            right in. None for text without labels.
        softmax_over: What the scores of a word are normalised over.
        windows_of: First window of each example, and the total.
        places: Where each example comes from.
        trunk: What the layers below the prompts make of the pieces, where that is kept; None computes it in every step.
        passages: Of questions about passages; None elsewhere.
    """

    pieces: Int32[np.ndarray, " pieces"]
    piece_starts: Int64[np.ndarray, " windows+1"]
    segments: UInt8[np.ndarray, " pieces"] | None = None
    positions: Int32[np.ndarray, " words"]
    widths: Int32[np.ndarray, " words"] | None = None
    word_starts: Int64[np.ndarray, " windows+1"]
    labels: Int32[np.ndarray, " words"] | None
    softmax_over: SoftmaxOver = "labels"
    windows_of: Int64[np.ndarray, " examples+1"]
    places: Places
    trunk: TrunkStates | None = None
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
        if self.softmax_over != "example":
            return self.window_pieces
        counts = np.diff(self.windows_of)
        return np.maximum.reduceat(self.window_pieces, self.windows_of[:-1]) * counts

    @property
    def unit_terms(self) -> Int64[np.ndarray, " units"]:
        """Terms of the loss in each unit: its words, or one where the words are alternatives."""
        if self.softmax_over == "labels":
            return self.window_words
        return np.ones(len(self) if self.softmax_over == "window" else len(self.places), dtype=np.int64)

    def windows_in(self, units: Int64[np.ndarray, " units"]) -> Int64[np.ndarray, " rows"]:
        """The windows of some units."""
        if self.softmax_over != "example":
            return units
        return ranges(self.windows_of[units], self.windows_of[units + 1] - self.windows_of[units])

    def terms_of(self, units: Int64[np.ndarray, " units"]) -> int:
        """Terms of the loss in some units; looks at no others, which may be many."""
        return int(self.words_of(units).sum()) if self.softmax_over == "labels" else len(units)

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

    def example_of(self, window: int) -> int:
        """Index of the example that a window is part of."""
        return int(np.searchsorted(self.windows_of, window, side="right")) - 1


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
        passages=None if split.passages is None else _select_passages(split.passages, examples, words),
    )


def _select_passages(
    passages: Passages, examples: Int64[np.ndarray, " n"], words: Int64[np.ndarray, " words"]
) -> Passages:
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


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodedTask:
    """One task with its splits as word pieces.

    Attributes:
        task: The task, its examples left out.
        splits: Its encoded splits by name; without train where that is streamed.
        shards: Train, where it is streamed.
    """

    task: Task
    splits: Mapping[Split, EncodedSplit]
    shards: Shards | None = None

    @property
    def train_pieces(self) -> int:
        """Word pieces to train on, specials included."""
        if self.shards is not None:
            return sum(size.pieces for size in self.shards.sizes)
        return int(self.splits["train"].window_pieces.sum())

    @property
    def train_words(self) -> int:
        """Words to train on."""
        if self.shards is not None:
            return sum(size.words for size in self.shards.sizes)
        return int(self.splits["train"].window_words.sum())

    def part(self, split: Split, units: Int64[np.ndarray, " n"]) -> tuple[EncodedSplit, Int64[np.ndarray, " n"]]:
        """What holds some units of training, those of a micro-batch, and their numbers in it."""
        if split == "train" and self.shards is not None:
            return self.shards.part(units)
        return self.splits[split], units

    def gold(self, split: Split, examples: Sequence[int]) -> list[tuple[str, ...]]:
        """What is right: a sentence's tags, a text's label, the number of a choice, the answers that are accepted."""
        encoded, names = self.splits[split], self.task.labels
        assert encoded.labels is not None, "a task's examples have labels"
        if encoded.passages is not None:
            assert encoded.passages.answers is not None, "a task's questions have answers"
            return [encoded.passages.answers[example] for example in examples]
        bounds = encoded.example_words
        words = (encoded.labels[bounds[example] : bounds[example + 1]] for example in examples)
        if encoded.softmax_over == "example":
            return [(str(int(right.argmax())),) for right in words]
        return [tuple(names[label] for label in labels.tolist()) for labels in words]

    def places(self, split: Split, units: Sequence[int]) -> list[str]:
        """`file:line` of the examples that some units of training are, or are part of."""
        encoded, own = self.part(split, np.array(units))
        whole = encoded.softmax_over == "example"
        return [encoded.places.where(unit if whole else encoded.example_of(unit)) for unit in own.tolist()]
