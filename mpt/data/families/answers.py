"""Answers to questions about passages: found from scores, and judged as the evaluation scripts of SQuAD do.

An answer's score is that of its first piece as a start plus that of its last as an end, both in one window; the best
over all windows is the answer. That of "no answer" is the lowest over the windows, since every window says it that does
not show the answer; where a task's questions may have none, it wins when it is the higher, or higher by as much as the
task says.

The arithmetic is that of the script for version 2.0, which gives version 1.1's figures too, save for an accepted answer
that is nothing but articles and punctuation: 2.0 passes it over, 1.1 gives F1 0 even for the same words.

Source: Rajpurkar et al. 2016 and 2018, evaluate-v1.1.py and evaluate-v2.0.py; score of no answer: run_squad.py of BERT.
"""

import re
import string
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from itertools import pairwise

import numpy as np
from jaxtyping import Float32

from mpt.base.errors import MptError
from mpt.data.families.family import Metric
from mpt.data.windows import EncodedSplit

_PUNCTUATION = str.maketrans("", "", string.punctuation)
Answers = Sequence[Sequence[str]]


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerFigures:
    """Figures over some questions: how many, and the means of exact match and F1; None without any."""

    count: int
    exact_match: float | None
    f1: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """The best answer to a question ("" in a passage without a piece), and how far "no answer" scores above it."""

    text: str
    above: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Best:
    """The best mean that a figure can have, and the limit for "no answer" then: None where nothing is answered."""

    value: float
    no_answer_above: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class QaScore:
    """Mean F1 and exact match of one task.

    Attributes:
        total, has_answer, no_answer: All questions, those that have an answer, and those that have none.
        best_exact_match, best_f1: With the best limit for "no answer"; None where every question has an answer.
    """

    total: AnswerFigures
    has_answer: AnswerFigures
    no_answer: AnswerFigures
    best_exact_match: Best | None = None
    best_f1: Best | None = None

    @property
    def metric(self) -> Metric:
        """The name of the headline figure."""
        return "qa_f1"

    @property
    def empty(self) -> bool:
        """Whether there was no question, so that the headline is 1.0 by definition."""
        return self.total.count == 0

    @property
    def primary(self) -> float:
        """Mean F1."""
        return 1.0 if self.total.f1 is None else self.total.f1

    @property
    def sentences(self) -> int:
        """Questions scored."""
        return self.total.count

    @property
    def words(self) -> int:
        """Answers scored, one a question."""
        return self.total.count

    def to_json(self) -> dict[str, object]:
        """Return everything in JSON types, figures first."""
        return {
            "metric": self.metric,
            "primary": self.primary,
            "empty": self.empty,
            "f1": self.total.f1,
            "exact_match": self.total.exact_match,
            "sentences": self.sentences,
            **{name: part for name, part in asdict(self).items() if name != "total"},
        }


def qa_score(gold: Answers, predicted: Answers) -> QaScore:
    """Score one answer ("" for none) for each question, given its accepted answers (none where there is no answer).

    Raises:
        MptError: There are more or fewer predictions than questions.
    """
    scores = answer_scores(gold, predicted)
    return QaScore(
        total=_figures(scores),
        has_answer=_figures([score for score, answers in zip(scores, gold, strict=True) if answers]),
        no_answer=_figures([score for score, answers in zip(scores, gold, strict=True) if not answers]),
    )


def score_found(gold: Answers, found: Sequence[Found], no_answer_above: float | None) -> QaScore:
    """Score what was found, and where "no answer" may be predicted, also with the best limit; see `answer_of`."""
    total = qa_score(gold, [[answer_of(it, no_answer_above)] for it in found])
    if no_answer_above is None or not found:
        return total
    answered = answer_scores(gold, [[it.text] for it in found])
    exact, f1 = (_best(gold, found, column) for column in zip(*answered, strict=True))
    return replace(total, best_exact_match=exact, best_f1=f1)


def _best(gold: Answers, found: Sequence[Found], scores: Sequence[float]) -> Best:
    """`find_best_thresh` of evaluate-v2.0.py: begin with no answer at all, and add the surest answers first."""
    value = best = float(sum(not answers for answers in gold))
    limit = None
    for number in sorted(range(len(found)), key=lambda number: found[number].above):
        value += scores[number] if gold[number] else -float(bool(found[number].text))
        if value > best:
            best, limit = value, found[number].above
    return Best(value=best / len(found), no_answer_above=limit)


def answer_scores(gold: Answers, predicted: Answers) -> list[tuple[float, float]]:
    """(exact match, F1) of each question: the best over its accepted answers, each by itself."""
    if len(gold) != len(predicted):
        raise MptError(f"{len(predicted)} questions were answered, gold has {len(gold)}. Score every question, once.")
    scores = []
    for answers, (found,) in zip(gold, predicted, strict=True):
        accepted = [answer for answer in answers if normalised(answer)] or [""]
        scores.append((max(exact_match(it, found) for it in accepted), max(word_f1(it, found) for it in accepted)))
    return scores


def normalised(answer: str) -> str:
    """Lower case, without ASCII punctuation, English articles and superfluous white space."""
    lowered = answer.lower().translate(_PUNCTUATION)
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", lowered).split())


def exact_match(gold: str, found: str) -> float:
    """Whether two answers are equal when normalised."""
    return float(normalised(gold) == normalised(found))


def word_f1(gold: str, found: str) -> float:
    """F1 of two answers as bags of normalised words; where one is empty, whether both are."""
    wanted, given = normalised(gold).split(), normalised(found).split()
    if not wanted or not given:
        return float(wanted == given)
    same = (Counter(wanted) & Counter(given)).total()
    if not same:
        return 0.0
    precision, recall = same / len(given), same / len(wanted)
    return 2 * precision * recall / (precision + recall)


def answer_of(found: Found, no_answer_above: float | None) -> str:
    """The prediction: the best answer, or "" where "no answer" is above it by more than the limit; None is no limit."""
    return "" if no_answer_above is not None and found.above > no_answer_above else found.text


def find_answer(scores: Float32[np.ndarray, "W 2"], split: EncodedSplit, example: int, *, max_answer: int) -> Found:
    """The best answer of an example, of at most so many pieces, given its words' scores as a start and as an end.

    Of equal scores the earlier window wins, then the shorter answer, then the earlier one.

    Raises:
        MptError: A score is not finite.
    """
    passages = split.passages
    assert passages is not None, "only questions about passages have answers"
    if not np.isfinite(scores).all():
        raise MptError(
            f"question at {split.places.where(example)}: a score is not finite. The weights have diverged: train with "
            "a lower learning rate, or evaluate an earlier checkpoint."
        )
    first, last = split.windows_of[example : example + 2]
    bounds = split.word_starts[first : last + 1]
    best, span, nothing = -np.inf, None, np.inf
    for begin, end in pairwise(bounds):
        window = scores[begin - bounds[0] : end - bounds[0]].astype(np.float64)
        nothing = min(nothing, float(window[0].sum()))
        value, start, stop = _best_span(window[1:], max_answer)
        if value > best:
            best, span = value, (int(begin) + 1 + start, int(begin) + 1 + stop)
    if span is None:
        return Found(text="", above=np.inf)
    text = passages.texts[passages.of[example]]
    return Found(text=text[passages.starts[span[0]] : passages.ends[span[1]]].strip(), above=nothing - best)


def _best_span(scores: Float32[np.ndarray, "W 2"], longest: int) -> tuple[float, int, int]:
    """(score, first piece, last piece) of the best answer in a window; -inf where it has no piece."""
    best, begin, stop = -np.inf, 0, 0
    for more in range(min(longest, len(scores))):
        sums = scores[: len(scores) - more, 0] + scores[more:, 1]
        at = int(sums.argmax())
        if sums[at] > best:
            best, begin, stop = float(sums[at]), at, at + more
    return best, begin, stop


def _figures(scores: Sequence[tuple[float, float]]) -> AnswerFigures:
    if not scores:
        return AnswerFigures(count=0, exact_match=None, f1=None)
    exact, f1 = (sum(column) / len(scores) for column in zip(*scores, strict=True))
    return AnswerFigures(count=len(scores), exact_match=exact, f1=f1)
