import re
import string
from random import Random

import numpy as np
import pytest

from mpt.base.errors import MptError
from mpt.data.families.answers import (
    Found,
    answer_of,
    answer_scores,
    find_answer,
    normalised,
    qa_score,
    score_found,
    word_f1,
)
from mpt.data.families.metrics import score, sentence_counts
from mpt.data.windows import EncodedSplit, Passages, places_of
from mpt.evaluation.bootstrap import paired_bootstrap


def official(gold, found):
    """(exact, F1) as the script of version 2.0 defines them, written down anew and slowly."""

    def norm(text):
        text = "".join(char for char in text.lower() if char not in set(string.punctuation))
        return " ".join(re.compile(r"\b(a|an|the)\b", re.UNICODE).sub(" ", text).split())

    def one(answer):
        wanted, given = norm(answer).split(), norm(found).split()
        if not wanted or not given:
            return int(wanted == given)
        left, same = list(wanted), 0
        for word in given:
            if word in left:
                left.remove(word)
                same += 1
        if same == 0:
            return 0
        precision, recall = same / len(given), same / len(wanted)
        return (2 * precision * recall) / (precision + recall)

    gold = [answer for answer in gold if norm(answer)] or [""]
    return max(int(norm(answer) == norm(found)) for answer in gold), max(map(one, gold))


@pytest.mark.parametrize(
    ("gold", "found", "exact", "f1"),
    [
        (["Denver Broncos"], "the Denver Broncos!", 1, 1),
        (["Denver Broncos", "Broncos"], "broncos", 1, 1),
        (["Denver Broncos"], "Broncos of Denver", 0, 0.8),
        (["a b b"], "b b b", 0, 0.8),
        (["1989"], "1990", 0, 0),
        ([], "", 1, 1),
        ([], "Denver", 0, 0),
        (["Denver"], "", 0, 0),
        (["the", "Rome"], "Rome", 1, 1),
        (["Theatre of an era"], "theatre  of  era", 1, 1),
        (["co-op"], "coop", 1, 1),
    ],
)
def test_figures_by_hand(gold, found, exact, f1):
    assert answer_scores([gold], [[found]]) == [(exact, pytest.approx(f1))]


def test_figures_are_those_of_an_independent_count():
    rng = Random(0)
    words = ["the", "a", "An", "Rome", "rome,", "1,000", "co-op", "--", "\u00c9tat", "of", ""]

    def text():
        return " ".join(rng.choice(words) for _ in range(rng.randrange(5)))

    gold = [[text() for _ in range(rng.randrange(4))] for _ in range(3000)]
    found = [[text()] for _ in gold]
    assert answer_scores(gold, found) == [official(it, one) for it, (one,) in zip(gold, found, strict=True)]


def test_a_score_has_parts():
    result = qa_score([["Rome"], ["big Rome"], []], [["rome"], ["Rome"], ["x"]])
    assert result.total.count == 3 and result.total.exact_match == pytest.approx(1 / 3)
    assert result.primary == pytest.approx((1 + 2 / 3 + 0) / 3)
    assert (result.has_answer.count, result.no_answer.count, result.no_answer.f1) == (2, 1, 0)
    assert score("qa_f1", [["x"]], [["x"]]).primary == 1.0
    assert qa_score([], []).empty and qa_score([], []).primary == 1.0
    assert result.to_json()["f1"] == result.primary
    with pytest.raises(MptError, match="1 questions were answered, gold has 2"):
        qa_score([["a"], ["b"]], [["a"]])


def test_the_bootstrap_resamples_the_mean_f1():
    gold = [["Rome of old"], ["x"], [], ["y z"]]
    one, other = [["Rome"], ["x"], [""], ["y"]], [["Rome"], ["w"], ["q"], ["z y"]]
    found = paired_bootstrap(*(sentence_counts("qa_f1", gold, them) for them in (one, other)), samples=50)
    assert found.difference == pytest.approx(qa_score(gold, one).primary - qa_score(gold, other).primary)
    assert found.low <= found.difference <= found.high
    perfect = sentence_counts("qa_f1", gold, [["Rome of old"], ["x"], [""], ["y z"]])
    assert paired_bootstrap(perfect, perfect, samples=9).difference == 0


def split_of(text, windows):
    """A split of one example whose words are given as spans of characters, window by window."""
    spans = [span for window in windows for span in [(-1, -1), *window]]
    counts = [1 + len(window) for window in windows]
    starts = np.concatenate([[0], np.cumsum(counts)])
    return EncodedSplit(
        pieces=np.zeros(len(spans), dtype=np.int32),
        piece_starts=starts,
        positions=np.zeros(len(spans), dtype=np.int32),
        word_starts=starts,
        labels=None,
        one_right=True,
        windows_of=np.array([0, len(windows)]),
        places=places_of([("x.json", 1)]),
        passages=Passages(
            texts=(text,),
            of=np.zeros(1, dtype=np.int32),
            answers=None,
            starts=np.array([a for a, _ in spans], dtype=np.int32),
            ends=np.array([b for _, b in spans], dtype=np.int32),
        ),
    )


def find(split, *rows, max_answer=30):
    found = find_answer(np.array(rows, dtype=np.float32), split, 0, max_answer=max_answer)
    return found


def decode(split, *rows, max_answer=30, no_answer_above=None):
    return answer_of(find(split, *rows, max_answer=max_answer), no_answer_above)


WORDS = [(0, 1), (2, 3), (4, 5)]


def test_the_best_span_has_its_end_at_or_behind_its_start():
    split = split_of("a b c", [WORDS])
    assert decode(split, (0, 0), (0, 9), (5, 0), (0, 1)) == "a"
    assert decode(split, (0, 0), (0, 9), (5, 5), (0, 1)) == "b"


def test_an_answer_is_no_longer_than_allowed():
    rows = ((0, 0), (9, 0), (0, 1), (0, 9))
    assert decode(split_of("a b c", [WORDS]), *rows) == "a b c"
    assert decode(split_of("a b c", [WORDS]), *rows, max_answer=2) == "a b"


def test_windows_are_compared_and_never_joined():
    split = split_of("a b c d", [WORDS[:2], [(4, 5), (6, 7)]])
    assert decode(split, (0, 0), (9, 0), (0, 1), (0, 0), (0, 0), (0, 9)) == "a b"
    assert decode(split, (0, 0), (3, 0), (0, 1), (0, 0), (0, 0), (2, 9)) == "d"


def test_no_answer_is_the_lowest_over_windows_and_only_where_it_may_be():
    windows = [WORDS[:2], [(4, 5)]]
    high, low = ((9, 9), (1, 1), (0, 0)), ((0, 0), (1, 2))
    assert decode(split_of("a b c", windows), *high, *low, no_answer_above=0.0) == "c"
    assert decode(split_of("a b c", windows), *high, (4, 0), *low[1:], no_answer_above=0.0) == ""
    assert decode(split_of("a b c", windows), *high, (4, 0), *low[1:]) == "c"
    assert decode(split_of("a b c", windows), *high, (3, 0), *low[1:], no_answer_above=0.0) == "c", "a tie is an answer"


def test_no_answer_may_have_to_be_higher_by_more():
    rows = ((2, 2), (1, 1), (0, 0), (0, 0))
    assert find(split_of("a b c", [WORDS]), *rows) == Found(text="a", above=2.0)
    answers = [decode(split_of("a b c", [WORDS]), *rows, no_answer_above=limit) for limit in (1.9, 2.0, -3.0)]
    assert answers == ["", "a", ""]


def official_best(gold, found, scores):
    """`find_best_thresh` as the script has it, written down anew."""
    value = best = sum(1 for answers in gold if not answers)
    limit = None
    for number in sorted(range(len(gold)), key=lambda i: found[i].above):
        if gold[number]:
            value += scores[number]
        else:
            value += -1 if found[number].text else 0
        if value > best:
            best, limit = value, found[number].above
    return best / len(gold), limit


def test_the_best_limit_is_found_among_all():
    rng = Random(1)
    for _ in range(100):
        count = rng.randrange(1, 12)
        gold = [[] if rng.random() < 0.4 else ["Rome of old"] for _ in range(count)]
        found = [Found(text=rng.choice(["Rome", "Rome of old", "x"]), above=rng.gauss(0, 2)) for _ in range(count)]
        result = score_found(gold, found, 0.0)
        exact, f1 = zip(*(official(it, one.text) for it, one in zip(gold, found, strict=True)), strict=True)
        for best, scores, name in ((result.best_exact_match, exact, "exact_match"), (result.best_f1, f1, "f1")):
            assert (best.value, best.no_answer_above) == pytest.approx(official_best(gold, found, scores))
            limits = [-100.0, *(it.above for it in found)]
            every = [getattr(score_found(gold, found, limit).total, name) for limit in limits]
            assert best.value == pytest.approx(max(every))
            if best.no_answer_above is not None:
                at = getattr(score_found(gold, found, best.no_answer_above).total, name)
                assert at == pytest.approx(best.value)
    assert score_found([["x"]], [Found(text="x", above=9.0)], None).best_f1 is None
    assert score_found([[]], [Found(text="x", above=-9.0)], 0.0).best_f1.no_answer_above is None


def test_the_best_span_is_that_of_trying_all():
    rng = np.random.default_rng(0)
    for _ in range(50):
        count = int(rng.integers(1, 12))
        spans, rows = [(2 * i, 2 * i + 1) for i in range(count)], rng.normal(size=(1 + count, 2)).astype(np.float32)
        text = " ".join(chr(97 + i) for i in range(count))
        pairs = [(i, j) for i in range(count) for j in range(i, min(count, i + 4))]
        every = [(float(rows[1 + i, 0]) + float(rows[1 + j, 1]), i, j) for i, j in pairs]
        _, i, j = max(every)
        assert decode(split_of(text, [spans]), *rows, max_answer=4) == text[2 * i : 2 * j + 1]


def test_scores_that_are_not_finite_are_refused():
    with pytest.raises(MptError, match="diverged"):
        decode(split_of("a b c", [WORDS]), (0, 0), (np.nan, 0), (0, 0), (0, 0))


def test_a_passage_without_pieces_has_no_answer():
    assert decode(split_of("\u200b", [[]]), (0, 0)) == ""
    assert normalised("The  A-Team's an") == "ateams" and word_f1("x", "") == 0
