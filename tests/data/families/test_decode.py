from itertools import permutations, product
from time import perf_counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpt.base.errors import MptError
from mpt.data.families import decode as decode_module
from mpt.data.families.decode import decode_many

LABELS = ("O", "B-PER", "I-PER", "B-LOC", "I-LOC")
SHUFFLED = ("I-LOC", "B-PER", "O", "I-PER", "B-LOC")


def decode(scores, labels, constrained):
    return decode_many([scores], labels, constrained)[0]


def is_bio2(tags):
    previous = ["O", *tags[:-1]]
    return all(before[2:] == tag[2:] for before, tag in zip(previous, tags, strict=True) if tag.startswith("I-"))


def brute_force(scores, labels):
    """Every valid sequence, the best one first; ties go to the lowest index at the last word, then the one before."""
    paths = [path for path in product(range(len(labels)), repeat=len(scores)) if is_bio2([labels[i] for i in path])]
    best = max(paths, key=lambda path: (sum(scores[word, i] for word, i in enumerate(path)), [-i for i in path[::-1]]))
    return [labels[i] for i in best]


def integer_scores(max_words):
    """Small whole numbers: sums are exact and ties are frequent."""
    row = st.lists(st.integers(-3, 3), min_size=len(LABELS), max_size=len(LABELS))
    return st.lists(row, min_size=1, max_size=max_words).map(lambda rows: np.array(rows, dtype=np.float32))


@given(integer_scores(5), st.sampled_from([LABELS, SHUFFLED]))
def test_equals_brute_force_with_ties(scores, labels):
    assert decode(scores, labels, True) == brute_force(scores, labels)


@pytest.mark.parametrize("labels", list(permutations(("O", "B-X", "I-X"))))
def test_equals_brute_force_on_every_small_table(labels):
    tables = [np.array(cells, dtype=np.float32).reshape(3, 3) for cells in product((0, 1), repeat=9)]
    assert decode_many(tables, labels, True) == [brute_force(table, labels) for table in tables]


@given(integer_scores(12), st.sampled_from([LABELS, SHUFFLED]))
def test_constrained_is_valid_and_equals_a_valid_argmax(scores, labels):
    tags, argmax = decode(scores, labels, True), decode(scores, labels, False)
    assert is_bio2(tags)
    if is_bio2(argmax):
        assert tags == argmax


@given(st.lists(integer_scores(9), min_size=1, max_size=8))
def test_a_sentence_does_not_depend_on_its_company(sentences):
    together = decode_many(sentences, LABELS, True)
    assert together == [decode(sentence, LABELS, True) for sentence in sentences]


def test_a_sentence_does_not_depend_on_its_company_across_chunks(monkeypatch):
    rng = np.random.default_rng(0)
    sentences = [rng.normal(size=(int(length), 5)) for length in rng.integers(0, 30, 50)]
    together = decode_many(sentences, LABELS, True)
    monkeypatch.setattr(decode_module, "CHUNK", 7)
    assert decode_many(sentences, LABELS, True) == together
    assert [len(tags) for tags in together] == [len(sentence) for sentence in sentences]


def test_the_argmax_is_repaired_by_score_and_not_by_rule():
    # The argmax is O I-PER. Calling the second word O costs 1, the first B-PER costs 5.
    scores = np.array([[5.0, 0.0, 0.0, 0.0, 0.0], [2.0, 0.0, 3.0, 0.0, 0.0]])
    assert decode(scores, LABELS, False) == ["O", "I-PER"]
    assert decode(scores, LABELS, True) == ["O", "O"]
    assert decode(scores * [[0.1], [1.0]], LABELS, True) == ["B-PER", "I-PER"]


def test_large_offsets_do_not_change_the_result():
    # 2**50 and a quarter is a float64; a sum of two such loses the quarter, and with it the entity.
    scores = np.array([[0.0, 0.0, 0.0], [0.0, 0.0, 0.25]])
    assert decode(scores, LABELS[:3], True) == decode(scores + 2.0**50, LABELS[:3], True) == ["B-PER", "I-PER"]


def test_raw_tags_are_the_argmax_with_ties_to_the_lowest_index():
    assert decode(np.array([[1.0, 1.0], [0.0, 2.0]]), ("NOUN", "VERB"), False) == ["NOUN", "VERB"]


def test_empty_input():
    assert decode_many([], LABELS, True) == []
    assert decode_many([np.zeros((0, 5)), np.array([[0.0, 1.0, 9.0, 0.0, 0.0]])], LABELS, True) == [[], ["B-PER"]]
    assert decode(np.zeros((0, 5)), LABELS, True) == []


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_scores_that_are_not_finite_are_refused(bad):
    scores = np.zeros((4, 5))
    scores[2, 1] = bad
    with pytest.raises(MptError, match=r"sentence 2, word 3: a label score is not finite.*lower learning rate"):
        decode_many([np.zeros((1, 5)), scores], LABELS, True)


def test_scores_of_another_head_are_refused():
    with pytest.raises(MptError, match=r"sentence 1: scores have shape \(3, 4\), expected \(words, 5\)"):
        decode(np.zeros((3, 4)), LABELS, True)


@pytest.mark.parametrize(("words", "types"), [(143_000, 1), (20_000, 14), (20_000, 54)])
def test_speed_at_the_size_of_real_test_sets(words, types):
    labels = ("O", *(f"{prefix}-{number}" for number in range(types) for prefix in "BI"))
    rng = np.random.default_rng(0)
    lengths = rng.integers(1, 56, words // 28)
    scores = [rng.normal(size=(int(length), len(labels))).astype(np.float32) for length in lengths]
    start = perf_counter()
    decoded = decode_many(scores, labels, True)
    seconds = perf_counter() - start
    assert all(map(is_bio2, decoded))
    assert seconds < 5, f"{seconds:.1f} s for {words} words and {len(labels)} labels"
