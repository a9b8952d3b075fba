"""Questions about passages to word pieces: windows over the passage, the question in each.

A window is [question, part of the passage]. Its scored places are one that stands for "no answer here", the first
special piece ([CLS]), or the last piece where the backbone is causal and that piece alone has read everything; then
every piece of the passage. Each keeps the characters it covers, so that answers are cut out of the passage and nothing
needs the tokenizer again. An answer that begins or ends inside of a piece is trained as the pieces that cover it.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Int32, Int64

from mpt.base.errors import DataError
from mpt.data.example import Example, Question
from mpt.data.families.answers import Found, QaScore, answer_of, find_answer, score_found
from mpt.data.families.task_family import Scores, TaskFamily
from mpt.data.families.tokenization import WordPieces, capped, noticed
from mpt.data.manifest.family_specs import QaSpec
from mpt.data.ragged import bounds_of, joined, starts_of
from mpt.data.windows import EncodedSplit, Passages, places_of

START, END = 1, 2  # bits of the columns of a head
_Array = Int32[np.ndarray, " n"]


def encode_questions(
    questions: Sequence[Question], word_pieces: WordPieces, spec: QaSpec, *, labelled: bool
) -> tuple[EncodedSplit, list[str]]:
    """Tokenise questions and passages.

    Windows overlap by `spec.stride` pieces, at most by half a window. A question takes at most `spec.max_question`
    pieces, and half of what the backbone takes.

    Returns:
        The windows, with what is right if `labelled`, and notices for the user.

    Raises:
        DataError: `spec.long` is "error" and a passage does not fit one window; all of them are named.
    """
    build = _Builder(word_pieces, spec, labelled=labelled)
    asked = _tokenised({it.question.strip() for it in questions}, word_pieces)
    read = _tokenised({it.passage for it in questions}, word_pieces)
    for question in questions:
        build.add(question, asked[question.question.strip()], read[question.passage])
    if build.windowed and spec.long_policy == "error":
        told = [f"{where}: does not fit one window. Shorten it, or set long: window" for where in build.windowed]
        raise DataError(capped(told))
    return build.split(questions), build.notices()


class PassageFamily(TaskFamily):
    """A question has an answer that is a part of its passage, or none."""

    @property
    def _qa(self) -> QaSpec:
        assert isinstance(self.spec, QaSpec), "the manifest refuses other formats"
        return self.spec

    def encode(
        self, examples: Sequence[Example], word_pieces: WordPieces, labels: Sequence[str] | None
    ) -> tuple[EncodedSplit, list[str]]:
        """Windows over the passages; see `encode_questions`."""
        questions = [example for example in examples if isinstance(example, Question)]
        return encode_questions(questions, word_pieces, self._qa, labelled=labels is not None)

    def gold(self, split: EncodedSplit, examples: Sequence[int], labels: Sequence[str]) -> list[tuple[str, ...]]:
        """The answers that are accepted."""
        assert split.passages is not None and split.passages.answers is not None, "a task's questions have answers"
        return [split.passages.answers[example] for example in examples]

    def decode(
        self, scores: Scores, split: EncodedSplit, examples: Int64[np.ndarray, " n"], labels: Sequence[str]
    ) -> list[list[str]]:
        """The answer as one item: a part of the passage, or "" for none."""
        return [[answer_of(it, self.spec.no_answer_limit)] for it in self._find(scores, split, examples)]

    def score(
        self, scores: Scores, split: EncodedSplit, examples: Int64[np.ndarray, " n"], labels: Sequence[str]
    ) -> QaScore:
        """Judge answers, and where there may be none also with the best limit for that."""
        gold = self.gold(split, examples.tolist(), labels)
        return score_found(gold, self._find(scores, split, examples), self.spec.no_answer_limit)

    def _find(self, scores: Scores, split: EncodedSplit, examples: Int64[np.ndarray, " n"]) -> list[Found]:
        pairs = zip(scores, examples.tolist(), strict=True)
        return [find_answer(own, split, example, max_answer=self._qa.max_answer) for own, example in pairs]


class _Builder:
    """Windows of one question after the other."""

    def __init__(self, word_pieces: WordPieces, spec: QaSpec, *, labelled: bool) -> None:
        self.word_pieces, self.spec, self.labelled = word_pieces, spec, labelled
        self.room = word_pieces.room - len(word_pieces.between)
        self.pieces, self.positions, self.labels = list[_Array](), list[_Array](), list[_Array]()
        self.spans = list[Int32[np.ndarray, "words 2"]]()
        self.heads, self.counts = list[int](), list[int]()
        self.cut, self.windowed, self.uncovered = list[str](), list[str](), list[str]()

    def add(self, question: Question, asked: Any, read: Any) -> None:
        """Add the windows of one question."""
        pieces = self.word_pieces
        ids = asked.ids or [pieces.unknown or 0]
        limit = min(self.spec.max_question, self.room // 2)
        if len(ids) > limit:
            self.cut.append(f"{question.where} ({len(ids)} word pieces)")
        head = [*pieces.prefix, *ids[:limit], *pieces.between]
        room = self.room - min(len(ids), limit)
        spans = np.array(read.offsets, dtype=np.int32).reshape(-1, 2)
        wanted = _covering(question, spans) if self.labelled else None
        if wanted is None and question.answers:
            self.uncovered.append(question.where)
        shown = _windows(len(spans), room, min(self.spec.stride, room // 2))
        if len(shown) > 1:
            self.windowed.append(f"{question.where} ({len(spans)} word pieces)")
        self.counts.append(len(shown))
        for first, last in shown:
            window = np.array([*head, *read.ids[first:last], *pieces.suffix], dtype=np.int32)
            nowhere = len(window) - 1 if pieces.last_piece else 0
            self.pieces.append(window)
            self.heads.append(len(head))
            self.positions.append(np.array([nowhere, *range(len(head), len(head) + last - first)], dtype=np.int32))
            self.labels.append(_labels(last - first, wanted, first))
            self.spans.append(np.concatenate([np.full((1, 2), -1, dtype=np.int32), spans[first:last]]))

    def split(self, questions: Sequence[Question]) -> EncodedSplit:
        """All windows."""
        starts, word_starts = bounds_of(self.pieces), bounds_of(self.positions)
        spans = joined([own.reshape(-1) for own in self.spans])
        numbers: dict[str, int] = {}
        of = [numbers.setdefault(question.passage, len(numbers)) for question in questions]
        segments = None
        if self.word_pieces.second_segment:
            second = np.repeat(starts[:-1] + self.heads, np.diff(starts)) <= np.arange(starts[-1])
            segments = (second * self.word_pieces.second_segment).astype(np.uint8)
        return EncodedSplit(
            pieces=joined(self.pieces),
            piece_starts=starts,
            segments=segments,
            positions=joined(self.positions),
            word_starts=word_starts,
            labels=joined(self.labels) if self.labelled else None,
            one_right=True,
            windows_of=starts_of(np.array(self.counts, dtype=np.int64)),
            places=places_of([(question.path, question.lines[0]) for question in questions]),
            passages=Passages(
                texts=tuple(numbers),
                of=np.array(of, dtype=np.int32),
                answers=tuple(question.tags for question in questions) if self.labelled else None,  # type: ignore[misc]
                starts=np.ascontiguousarray(spans[::2]),
                ends=np.ascontiguousarray(spans[1::2]),
            ),
        )

    def notices(self) -> list[str]:
        """What the user should know, one line a kind."""
        return noticed(
            (self.windowed, "questions whose passages are read in overlapping windows"),
            (self.cut, f"questions longer than {self.spec.max_question} word pieces or half a window, cut at the end"),
            (self.uncovered, "questions whose first answer has no word piece, trained as without an answer"),
        )


def _tokenised(texts: set[str], word_pieces: WordPieces) -> dict[str, Any]:
    """Pieces of each text, with the characters that they cover."""
    ordered = sorted(texts)
    return dict(zip(ordered, word_pieces.tokenizer.encode_batch(ordered, add_special_tokens=False), strict=True))


def _windows(count: int, room: int, overlap: int) -> list[tuple[int, int]]:
    """First and last piece (excluded) of windows that cover all pieces; one window of nothing where there are none."""
    shown = [(0, min(room, count))]
    while shown[-1][1] < count:
        first = shown[-1][1] - overlap
        shown.append((first, min(first + room, count)))
    return shown


def _covering(question: Question, spans: Int32[np.ndarray, "n 2"]) -> tuple[int, int] | None:
    """First and last piece that the first answer has characters in."""
    if not question.answers:
        return None
    answer = question.answers[0]
    inside = np.flatnonzero((spans[:, 0] < answer.end) & (spans[:, 1] > answer.start))
    return (int(inside[0]), int(inside[-1])) if len(inside) else None


def _labels(count: int, wanted: tuple[int, int] | None, first: int) -> _Array:
    """Bits of a window's places: the answer's ends where it shows all of it, else "no answer here"."""
    labels = np.zeros(1 + count, dtype=np.int32)
    if wanted is not None and first <= wanted[0] and wanted[1] < first + count:
        labels[1 + wanted[0] - first] |= START
        labels[1 + wanted[1] - first] |= END
    else:
        labels[0] = START | END
    return labels
