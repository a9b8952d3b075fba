"""Words to word pieces, and long sentences to windows.

A word is scored at one of its pieces and in one window only, in training and in evaluation alike, so that nothing is
counted twice and nothing is lost. A sentence that does not fit is covered by overlapping windows of whole words; each
word belongs to the window that shows most context on the word's shorter side. Scores of a split's windows, put one
after the other, are therefore the scores of its words in order: stitching is concatenation.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple, Protocol

import numpy as np
from jaxtyping import Int, Int32, Int64, UInt8

from mpt.base.errors import DataError
from mpt.data.example import Sentence
from mpt.data.manifest.family_specs import PredicateMark
from mpt.data.ragged import ranges, starts_of
from mpt.data.windows import EncodedSplit, places_of

NOTICES_SHOWN = 3  # examples per kind of notice; the count is always given
PROBLEMS_SHOWN = 20
CHUNK = 8192  # sentences that are tokenised together; more are no faster and take more memory


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
        between: Special piece ids between the texts of a pair.
        second_segment: Segment (token type) of a pair's second text, and of the specials behind it.
        segments: Segments that the backbone tells apart; 0 for none.
        unknown: Id for a word that the tokenizer turns into nothing.
        pad: Id that fills rows up.
        mask: Id of the piece that stands for a gap; None where the tokenizer has none.
        room: Most pieces of text in a window, specials not counted.
        before_word: Text put before every word: a space, where the tokenizer tells a word's start by it.
        last_piece: Score a word at its last piece instead of its first: a causal backbone has not read the word before.
        mean: Score a word at all of its pieces, by the mean of their states.
    """

    tokenizer: Any
    prefix: tuple[int, ...]
    suffix: tuple[int, ...]
    between: tuple[int, ...] = ()
    second_segment: int = 0
    segments: int = 0
    unknown: int | None
    pad: int
    mask: int | None = None
    room: int
    before_word: str = ""
    last_piece: bool = False
    mean: bool = False

    @property
    def window(self) -> int:
        """Most pieces of a window, specials included."""
        return self.room + len(self.prefix) + len(self.suffix)


def encode(
    sentences: Sequence[Sentence],
    word_pieces: WordPieces,
    labels: Sequence[str] | None,
    *,
    long: str = "window",
    no_piece: str = "unknown",
    predicate: PredicateMark | None = None,
) -> tuple[EncodedSplit, list[str]]:
    """Tokenise sentences, whose tags are all in `labels` (None leaves them aside), and cut them into windows.

    With `long` "window" a sentence that does not fit is covered by several windows, with `no_piece` "unknown" a word
    without word pieces gets the unknown piece; "error" refuses either. A sentence's predicate closes every window, as
    the second text of a pair ("suffix"), or has the second segment ("segment"); None where sentences have none.

    Returns:
        The windows, and notices for the user: what was windowed, replaced or cut, with counts and first places.

    Raises:
        DataError: A policy is "error" and a sentence or word falls under it; all of them are named, as file:line. Or
            the backbone could not see the predicate.
    """
    _check_seen(sentences, predicate, word_pieces)
    findings = _Findings(room=word_pieces.room, predicate=predicate)
    chunks = [
        _encode_chunk(sentences[start : start + CHUNK], word_pieces, predicate, findings)
        for start in range(0, len(sentences), CHUNK)
    ] or [_NOTHING]
    findings.enforce(long=long, no_piece=no_piece, has_unknown=word_pieces.unknown is not None)
    pieces, window_pieces, segments, positions, widths, window_words, windows_of = map(
        np.concatenate, zip(*chunks, strict=True)
    )
    split = EncodedSplit(
        pieces=pieces.astype(np.int32),
        piece_starts=starts_of(window_pieces),
        segments=segments.astype(np.uint8) if len(segments) else None,
        positions=positions.astype(np.int32),
        widths=widths.astype(np.int32) if word_pieces.mean else None,
        word_starts=starts_of(window_words),
        labels=None if labels is None else _label_ids(sentences, labels),
        windows_of=starts_of(windows_of),
        places=places_of([(sentence.path, sentence.lines[0]) for sentence in sentences]),
    )
    return split, findings.notices()


class _Chunk(NamedTuple):
    """Some sentences as windows: the columns of an `EncodedSplit`, with lengths in place of starts."""

    pieces: Int[np.ndarray, " pieces"]
    window_pieces: Int[np.ndarray, " windows"]
    segments: Int[np.ndarray, " pieces"] | Int[np.ndarray, " 0"]  # none where all pieces are in the first
    positions: Int[np.ndarray, " words"]
    widths: Int[np.ndarray, " words"]
    window_words: Int[np.ndarray, " windows"]
    windows: Int[np.ndarray, " sentences"]


_NOTHING = _Chunk(*[np.zeros(0, dtype=np.int64)] * 7)


def _check_seen(sentences: Sequence[Sentence], predicate: PredicateMark | None, word_pieces: WordPieces) -> None:
    """Refuse a backbone whose words would not learn of the predicate."""
    where = sentences[0].path if sentences else "no sentence"
    if predicate == "segment" and word_pieces.segments < 2:
        raise DataError(
            f"{where}: predicate: segment marks the predicate by its segment (token type), of which this backbone has "
            f"{word_pieces.segments}. Set predicate: suffix, or use a backbone with two, such as BERT"
        )
    if predicate == "suffix" and word_pieces.last_piece:
        raise DataError(
            f"{where}: predicate: suffix puts the predicate behind the sentence, where the words of a causal backbone "
            "do not see it. Use a backbone that reads in both directions"
        )


def _encode_chunk(
    sentences: Sequence[Sentence], word_pieces: WordPieces, predicate: PredicateMark | None, findings: "_Findings"
) -> _Chunk:
    """Tokenise some sentences and cut them into windows, in whole arrays."""
    words = _Words(sentences, word_pieces, predicate, findings)
    cover, windows_of = _cover(words.counts, words.sentence_starts, words.rooms)
    first, last, begin, end = cover.T
    piece_starts = starts_of(words.counts)
    text = piece_starts[last] - piece_starts[first]
    before, after = len(word_pieces.prefix), len(word_pieces.suffix)
    owners = np.repeat(np.arange(len(sentences)), windows_of)
    window_starts = starts_of(text + before + after + (words.reminders[owners] if predicate == "suffix" else 0))
    pieces = np.empty(window_starts[-1], dtype=np.int32)
    shown = ranges(first, last - first)
    pieces[ranges(window_starts[:-1] + before, text)] = words.pieces[ranges(words.starts[shown], words.counts[shown])]
    _put(word_pieces.prefix, pieces, window_starts[:-1])
    _put(word_pieces.suffix, pieces, window_starts[1:] - after)
    segments = np.zeros(0, dtype=np.uint8)
    if predicate == "suffix":
        segments = _remind(pieces, window_starts[1:] - after, words, owners, word_pieces)
    elif predicate == "segment":
        segments = np.zeros(len(pieces), dtype=np.uint8)
        marked = words.predicates[owners]
        seen = (first <= marked) & (marked < last)
        starts = window_starts[:-1] + before + piece_starts[marked] - piece_starts[first]
        segments[ranges(starts[seen], words.counts[marked[seen]])] = 1
        findings.unmarked += [sentences[owner].where for owner in np.unique(owners[~seen]).tolist()]
    scored = piece_starts[1:] - 1 if word_pieces.last_piece and not word_pieces.mean else piece_starts[:-1]
    positions = scored - np.repeat(piece_starts[first] - before, end - begin)
    narrow, widths = positions.astype(np.int32), words.counts.astype(np.int32)
    return _Chunk(pieces, np.diff(window_starts), segments, narrow, widths, end - begin, windows_of)


def _put(special: Sequence[int], pieces: Int32[np.ndarray, " pieces"], starts: Int64[np.ndarray, " windows"]) -> None:
    """Write the same pieces from each start on."""
    for column, piece in enumerate(special):
        pieces[starts + column] = piece


def _remind(
    pieces: Int32[np.ndarray, " pieces"],
    ends: Int64[np.ndarray, " windows"],
    words: "_Words",
    owners: Int64[np.ndarray, " windows"],
    word_pieces: WordPieces,
) -> UInt8[np.ndarray, " pieces"] | UInt8[np.ndarray, " 0"]:
    """Put the predicate of each window's sentence before `ends`, as a pair's second text; return the segments."""
    counts = words.reminders[owners] - len(word_pieces.between)
    starts = ends - counts
    _put(word_pieces.between, pieces, starts - len(word_pieces.between))
    pieces[ranges(starts, counts)] = words.pieces[ranges(words.starts[words.predicates[owners]], counts)]
    if not word_pieces.second_segment:
        return np.zeros(0, dtype=np.uint8)
    segments = np.zeros(len(pieces), dtype=np.uint8)
    segments[ranges(starts, counts + len(word_pieces.suffix))] = word_pieces.second_segment
    return segments


class _Words:
    """The words of some sentences as word pieces.

    Words of a split text do not influence each other, so each different word is tokenised once.

    Attributes:
        sentence_starts: First word of each sentence, and the total.
        counts: Pieces of each word: at least one, at most what a window holds.
        starts: Where they begin in `pieces`.
        pieces: Piece ids of the different words.
        predicates: The word that is each sentence's predicate; its first where sentences have none.
        reminders: Pieces that show it behind the text, those before it included.
        rooms: Pieces of text that a window of each sentence has room for.
    """

    def __init__(
        self, sentences: Sequence[Sentence], word_pieces: WordPieces, mark: PredicateMark | None, findings: "_Findings"
    ) -> None:
        self.sentence_starts = starts_of(np.array([len(sentence.words) for sentence in sentences]))
        numbers: dict[str, int] = {}
        words = (numbers.setdefault(word, len(numbers)) for sentence in sentences for word in sentence.words)
        which = np.fromiter(words, dtype=np.int64, count=self.sentence_starts[-1])
        encoding: Encoding = word_pieces.tokenizer.encode(
            [word_pieces.before_word + word for word in numbers], is_pretokenized=True, add_special_tokens=False
        )
        unknown = -1 if word_pieces.unknown is None else word_pieces.unknown
        self.pieces = np.array([*encoding.ids, unknown], dtype=np.int32)
        sizes = np.bincount(np.array(encoding.word_ids, dtype=np.int64), minlength=len(numbers))
        starts = starts_of(sizes)[:-1]
        starts[sizes == 0] = len(encoding.ids)
        self.starts = starts[which]
        self.predicates = self.sentence_starts[:-1]
        if mark is not None:
            self.predicates = self.predicates + np.array([it.predicate or 0 for it in sentences], dtype=np.int64)
        self.rooms = np.full(len(sentences), word_pieces.room)
        self.reminders = np.zeros(len(sentences), dtype=np.int64)
        self.counts = np.clip(sizes, 1, word_pieces.room)[which]
        if mark == "suffix":
            between = len(word_pieces.between)
            half = (word_pieces.room - between + 1) // 2  # a predicate so long is told as a word that is cut
            self.reminders = between + np.minimum(self.counts[self.predicates], half)
            self.rooms -= self.reminders
            self.counts = np.minimum(self.counts, np.repeat(self.rooms, np.diff(self.sentence_starts)))
        findings.add(sentences, self, sizes[which])


def _cover(
    counts: Int64[np.ndarray, " words"],
    sentence_starts: Int64[np.ndarray, " sentences+1"],
    rooms: Int64[np.ndarray, " sentences"],
) -> tuple[Int64[np.ndarray, "windows 4"], Int64[np.ndarray, " sentences"]]:
    """The windows of all sentences, as `windows` gives them for one, and how many each sentence has."""
    begin, end = sentence_starts[:-1], sentence_starts[1:]
    fits = np.add.reduceat(counts, begin) <= rooms
    long = np.flatnonzero(~fits)
    several = [np.array(windows(counts[begin[i] : end[i]], int(rooms[i]))) + begin[i] for i in long]
    owners = np.concatenate([np.flatnonzero(fits), np.repeat(long, [len(them) for them in several])])
    cover = np.concatenate([np.stack([begin, end, begin, end], axis=1)[fits], *several])
    return cover[np.argsort(owners, kind="stable")], np.bincount(owners, minlength=len(fits))


def _label_ids(sentences: Sequence[Sentence], labels: Sequence[str]) -> Int32[np.ndarray, " words"]:
    """Label of every word, counted by the tags alone, so that it shows when a word got no place in a window."""
    ids = {label: i for i, label in enumerate(labels)}
    assert all(sentence.tags is not None for sentence in sentences), "a task's sentences have tags"
    return np.fromiter((ids[tag] for sentence in sentences for tag in sentence.tags or ()), dtype=np.int32)


class _Findings:
    """What is worth telling about the windows: places of words and sentences."""

    def __init__(self, *, room: int, predicate: PredicateMark | None) -> None:
        self.room = f"{room} word pieces" + (" less those of the predicate" if predicate == "suffix" else "")
        self.without_piece, self.cut_words = list[str](), list[str]()
        self.windowed, self.unmarked = list[str](), list[str]()

    def add(self, sentences: Sequence[Sentence], words: _Words, sizes: Int64[np.ndarray, " words"]) -> None:
        """Note what stands out among some sentences, given how many pieces the tokenizer made of each word."""
        starts = words.sentence_starts

        def where(word: int) -> str:
            sentence = int(np.searchsorted(starts, word, side="right")) - 1
            it, index = sentences[sentence], word - int(starts[sentence])
            return f"{it.path}:{it.lines[index]} {it.words[index]!r}"

        self.without_piece += [where(word) for word in np.flatnonzero(sizes == 0).tolist()]
        self.cut_words += [where(word) for word in np.flatnonzero(sizes > words.counts).tolist()]
        totals = np.add.reduceat(words.counts, starts[:-1])
        self.windowed += [
            f"{sentences[i].where} ({len(sentences[i].words)} words, {totals[i]} word pieces)"
            for i in np.flatnonzero(totals > words.rooms).tolist()
        ]

    def enforce(self, *, long: str, no_piece: str, has_unknown: bool) -> None:
        """Raise for what the task's policies forbid."""
        remedy = ", and has no unknown piece to stand in for it. Remove the word from the file"
        if has_unknown:
            remedy = ". Remove the word from the file, or set no_piece: unknown"
        told = f"sentence is longer than the {self.room} the backbone takes. Split it, or set long: window"
        lacking = self.without_piece if no_piece == "error" or not has_unknown else []
        problems = [f"{where}: the tokenizer turns this word into no word piece{remedy}" for where in lacking]
        if long == "error":
            problems += [f"{where}: {told}" for where in (*self.windowed, *self.cut_words)]
        if problems:
            raise DataError(capped(problems))

    def notices(self) -> list[str]:
        """What the user should know, one line a kind."""
        return noticed(
            (self.windowed, f"sentences longer than {self.room}, read in overlapping windows"),
            (self.without_piece, "words without a word piece, read as the unknown piece"),
            (self.cut_words, f"words longer than {self.room}, only their first pieces read"),
            (self.unmarked, "sentences with windows without their predicate, which predicate: suffix puts into all"),
        )


def noticed(*kinds: tuple[Sequence[str], str]) -> list[str]:
    """A line for each kind of finding: what it is, how often, and the first places."""
    return [f"{what}: {len(found):,} (first: {', '.join(found[:NOTICES_SHOWN])})" for found, what in kinds if found]


def capped(problems: Sequence[str]) -> list[str]:
    """The first problems in words, and the number of the others."""
    more = len(problems) - PROBLEMS_SHOWN
    return [*problems[:PROBLEMS_SHOWN], *([f"... and {more} more"] if more > 0 else [])]


def windows(counts: Int64[np.ndarray, " words"], room: int) -> list[tuple[int, int, int, int]]:
    """Cover words of 1 to `room` pieces each by windows of at most `room` pieces, and share the words out.

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
