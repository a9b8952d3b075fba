import numpy as np
import pytest

from corpus import DEFAULT_DATA, FILES, LENGTHS, read_corpus, synthetic_sentences
from mpt.data.families.tokenization import encode


@pytest.fixture
def no_data(tmp_path, monkeypatch):
    monkeypatch.setenv("MPT_DATA", str(tmp_path))


def test_without_data_the_output_says_that_sentences_are_synthetic(no_data, load, tmp_path):
    corpus = read_corpus(load("bert").word_pieces, pieces=3000)
    assert corpus.origin.startswith("synthetic sentences")
    assert f"bc5cdr/train.tsv is not in {tmp_path}" in corpus.origin


def test_the_slice_has_as_many_pieces_as_asked_for(no_data, load):
    word_pieces = load("bert", longest_window=256).word_pieces
    corpus = read_corpus(word_pieces, pieces=3000)
    split, _ = encode(corpus.task.splits["train"], word_pieces, corpus.task.labels)
    assert corpus.pieces == split.window_pieces.sum()
    assert 3000 <= corpus.pieces < 3000 + 300 * 10


@pytest.mark.parametrize("name", LENGTHS)
def test_synthetic_sentences_have_the_lengths_of_the_corpora(name):
    drawn = [len(sentence.words) for sentence in synthetic_sentences(name, "train", 4000)]
    expected = np.array(LENGTHS[name].split(), dtype=float)[4:-4:4]
    found = np.quantile(drawn, np.linspace(0, 1, 33))[4:-4:4]
    np.testing.assert_allclose(found, expected, atol=2)


def test_synthetic_places_are_the_entities(no_data, load):
    corpus = read_corpus(load("bert").word_pieces, pieces=3000)
    assert corpus.task.labels == ("O", "B-place", "I-place")
    tagged = {
        word for s in corpus.task.splits["train"] for word, tag in zip(s.words, s.tags, strict=True) if tag != "O"
    }
    assert tagged == {"london", "paris", "france", "river"}


def test_data_sets_take_turns_and_keep_their_labels(load, monkeypatch):
    monkeypatch.delenv("MPT_DATA", raising=False)
    if not all((DEFAULT_DATA / name).is_file() for name in FILES):
        pytest.skip(f"bc5cdr and wnut17 are not in {DEFAULT_DATA}")
    corpus = read_corpus(load("bert").word_pieces, pieces=3000)
    train = corpus.task.splits["train"]
    assert ["bc5cdr" in sentence.path for sentence in train[:4]] == [True, False, True, False]
    assert all("bc5cdr" in sentence.path for sentence in corpus.task.splits["dev"])
    assert {"B-Chemical", "I-Disease", "B-person"} <= set(corpus.task.labels)
