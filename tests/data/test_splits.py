import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpt.base.errors import DataError
from mpt.data.example import Sentence
from mpt.data.splits import comparable, content_hash, sample_sentences, split_dev


def sentence(text: str, *, path: str = "f", line: int = 1, document: int | None = None) -> Sentence:
    words = tuple(text.split())
    return Sentence(words=words, tags=("O",) * len(words), path=path, lines=(line,) * len(words), document=document)


MANY = [sentence(f"sentence number {i}", line=i + 1) for i in range(200)]
corpora = st.lists(st.sampled_from("abcdefgh"), min_size=2, max_size=40).map(lambda it: [sentence(x) for x in it])


def test_the_hash_is_the_same_everywhere_and_unambiguous():
    assert content_hash(["EU", "rejects"], "dev").hex() == "74f6b3d55f5a259bcc5bc82f84ecfe85"
    assert content_hash(["a b"]) != content_hash(["a", "b"])
    assert content_hash(["a"], 1) != content_hash(["a"], 2)


def test_sentences_are_compared_without_case_and_punctuation():
    assert comparable(["The", "U.S.", ",", "too", "!"]) == ("the", "u.s.", "too")
    assert comparable(["!", "?"]) == ("!", "?")


# Samples


def test_a_sample_is_pinned():
    assert [it.lines[0] for it in sample_sentences(MANY, 5, seed=0)] == [1, 52, 91, 113, 147]


def test_a_sample_keeps_the_order_and_nests():
    small, large = sample_sentences(MANY, 20, seed=3), sample_sentences(MANY, 60, seed=3)
    assert [it.lines[0] for it in large] == sorted(it.lines[0] for it in large)
    assert {it.words for it in small} < {it.words for it in large}


def test_a_sample_does_not_depend_on_the_order_of_the_file():
    shuffled = random.Random(0).sample(MANY, len(MANY))
    assert {it.words for it in sample_sentences(shuffled, 30, seed=1)} == {
        it.words for it in sample_sentences(MANY, 30, seed=1)
    }


def test_seeds_give_other_samples_and_every_sentence_a_fair_chance():
    counts = dict.fromkeys((it.words for it in MANY), 0)
    for seed in range(200):
        for it in sample_sentences(MANY, 50, seed=seed):
            counts[it.words] += 1
    assert sum(counts.values()) == 200 * 50
    assert min(counts.values()) > 25 and max(counts.values()) < 80  # binomial, mean 50, standard deviation 6.1


@given(corpora, st.data())
def test_a_sample_has_the_size_and_is_a_part(sentences, data):
    count = data.draw(st.integers(1, len(sentences)))
    found = sample_sentences(sentences, count, seed=0)
    assert len(found) == count
    assert all(it in sentences for it in found)


@pytest.mark.parametrize("count", [0, 201, -1])
def test_an_impossible_sample_is_refused(count):
    with pytest.raises(DataError, match=f"asked for {count} sentences, there are 200. Ask for 1 to 200."):
        sample_sentences(MANY, count, seed=0)


# Dev splits


def test_dev_is_pinned_and_near_its_share():
    train, dev = split_dev(MANY, 0.1)
    assert (len(train), len(dev)) == (180, 20)
    assert [it.lines[0] for it in dev][:3] == [2, 3, 16]


@given(corpora, st.floats(0.01, 0.5))
def test_train_and_dev_part_the_sentences_and_share_no_content(sentences, fraction):
    if len({it.words for it in sentences}) < 2:
        with pytest.raises(DataError, match="f: holds one different sentence, so no dev split can be taken from it"):
            split_dev(sentences, fraction)
        return
    train, dev = split_dev(sentences, fraction)
    assert train and dev
    assert sorted(it.words for it in train + dev) == sorted(it.words for it in sentences)
    assert not {it.words for it in train} & {it.words for it in dev}


def test_sentences_that_differ_in_case_and_punctuation_stay_on_one_side():
    sentences = [sentence(f"{a}ello {i} {b}") for i in range(50) for a in "hH" for b in "!."]
    train, dev = split_dev(sentences, 0.2)
    assert (len(train), len(dev)) == (160, 40)
    assert not {comparable(it.words) for it in train} & {comparable(it.words) for it in dev}


def test_documents_stay_whole():
    sentences = [sentence(f"word{d} word{i}", document=d, line=i) for d in range(10) for i in range(d + 5)]
    train, dev = split_dev(sentences, 0.2, by_document=True)
    assert not {it.document for it in train} & {it.document for it in dev}
    assert 0.1 < len(dev) / len(sentences) < 0.3


def test_documents_of_two_files_are_told_apart():
    sentences = [sentence(f"{path} {i}", path=path, document=1) for path in "abcd" for i in range(5)]
    _, dev = split_dev(sentences, 0.25, by_document=True)
    assert len({it.path for it in dev}) == 1
    with pytest.raises(DataError, match="a: holds one document"):
        split_dev(sentences[:5], 0.25, by_document=True)


def test_a_document_larger_than_the_share_is_taken_rather_than_none():
    sentences = [sentence(f"x{d} {i}", document=d) for d, size in ((1, 50), (2, 40)) for i in range(size)]
    train, dev = split_dev(sentences, 0.05, by_document=True)
    assert (len(train), len(dev)) == (50, 40)
