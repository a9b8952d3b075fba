import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from common.backbones import KINDS
from hypothesis import example, given
from hypothesis import strategies as st

from mpt.base.errors import DataError
from mpt.data.example import Sentence
from mpt.data.families import tokenization
from mpt.data.families.tokenization import encode, windows
from mpt.data.formats.sentences import read_sentences
from mpt.data.formats.source import SourceFormat

ROOT = Path(__file__).parents[3]
LABELS = ("O", "B-X", "I-X")
TEXT = ("The", "lowest", "river", "is", "not", "low", ",", "Don't", "U.S.", "42", "in-low", "low")
BYTE_LEVEL = ("roberta", "modernbert", "llama", "qwen2")
SPLIT_TEXT = {"is_pretokenized": True, "add_special_tokens": False}


def sentence(*words, tags=None, line=1):
    return Sentence(
        words=words, tags=tags or ("O",) * len(words), path="f.txt", lines=tuple(range(line, line + len(words)))
    )


def pieces_of(split, window):
    return split.pieces[split.piece_starts[window] : split.piece_starts[window + 1]].tolist()


def tokens_of(word_pieces, ids):
    return [word_pieces.tokenizer.id_to_token(piece) for piece in ids]


def scored(split, word_pieces):
    """The piece at which each word is scored, in the order of the words."""
    starts = np.repeat(split.piece_starts[:-1], split.window_words)
    return tokens_of(word_pieces, split.pieces[starts + split.positions].tolist())


@pytest.fixture
def bert(load):
    return load("bert").word_pieces


# Windows


@st.composite
def counts_and_room(draw):
    room = draw(st.integers(1, 24))
    largest = draw(st.sampled_from(sorted({1, min(3, room), room})))
    return draw(st.lists(st.integers(1, largest), min_size=1, max_size=40)), room


@given(counts_and_room())
@example(([2, 2, 3], 4))  # a word too large for the next half window
@example(([1, 1, 1, 2], 3))
@example(([4, 4, 4], 4))
def test_windows(counts_room):
    counts, room = counts_room
    found = windows(np.array(counts), room)
    ends = np.concatenate([[0], np.cumsum(counts)])

    def context(window, word):
        """Pieces that a window shows on the shorter side of a word; -1 where it does not show the word."""
        first, last, _, _ = window
        return min(ends[word] - ends[first], ends[last] - ends[word + 1]) if first <= word < last else -1

    owner = {word: window for window in found for word in range(window[2], window[3])}
    assert [word for _, _, begin, end in found for word in range(begin, end)] == list(range(len(counts)))
    for first, last, begin, end in found:
        assert first <= begin < end <= last
        assert ends[last] - ends[first] <= room
    for word, window in owner.items():
        best = max(context(other, word) for other in found)
        assert window == next(other for other in found if context(other, word) == best)  # ties go to the earlier


def test_what_fits_is_one_window():
    assert windows(np.array([1, 2, 3]), 6) == [(0, 3, 0, 3)]


def test_windows_of_words_of_one_piece():
    # Each shows 8 words, starts 4 after the one before and gives the borders to the one that sees more.
    assert windows(np.ones(16, dtype=int), 8) == [(0, 8, 0, 6), (4, 12, 6, 10), (8, 16, 10, 16)]


# Words and pieces


@pytest.mark.parametrize("kind", KINDS)
def test_words_have_the_pieces_of_running_text(load, kind):
    word_pieces = load(kind).word_pieces
    split, notices = encode([sentence(*TEXT)], word_pieces, LABELS)
    text = pieces_of(split, 0)[len(word_pieces.prefix) :]
    text = text[: len(text) - len(word_pieces.suffix)]
    # A word before it, since a tokenizer may treat the very first word of a text in another way.
    running = word_pieces.tokenizer.encode("low " + " ".join(TEXT), add_special_tokens=False).ids
    head = word_pieces.tokenizer.encode("low", add_special_tokens=False).ids
    assert running[: len(head)] == head
    assert text == running[len(head) :]
    assert notices == []


@pytest.mark.parametrize("kind", KINDS)
def test_a_word_has_the_same_pieces_wherever_it_stands(load, kind):
    word_pieces = load(kind).word_pieces
    split, _ = encode([sentence("low", "low", "low"), sentence("low")], word_pieces, LABELS)
    first, second, third = np.split(split.pieces[len(word_pieces.prefix) : split.piece_starts[1]][:3], 3)
    assert first == second == third
    assert scored(split, word_pieces)[3] == tokens_of(word_pieces, [int(first[0])])[0]
    if kind in BYTE_LEVEL:
        assert tokens_of(word_pieces, [int(first[0])]) == ["\u0120low"]


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("bert", ["the", "low", "doctor"]),  # the first piece
        ("roberta", ["\u0120the", "\u0120low", "\u0120"]),
        ("llama", ["\u0120the", "est", "r"]),  # the last: a causal model has not read the word before it
    ],
)
def test_where_words_are_scored(load, kind, expected):
    word_pieces = load(kind).word_pieces
    split, _ = encode([sentence("the", "lowest", "doctor")], word_pieces, LABELS)
    assert scored(split, word_pieces) == expected


@pytest.mark.parametrize("kind", KINDS)
def test_windows_carry_the_special_pieces_of_the_backbone(load, kind):
    word_pieces = load(kind).word_pieces
    split, _ = encode([sentence("low")], word_pieces, LABELS)
    assert pieces_of(split, 0) == word_pieces.tokenizer.encode(word_pieces.before_word + "low").ids


@pytest.mark.parametrize("invisible", ["\u200b", "\ufe0f", "\u00ad"])
def test_words_without_pieces_keep_the_alignment(bert, invisible):
    words = ("low", invisible, "river", invisible, invisible)
    split, notices = encode([sentence(*words, tags=("O", "B-X", "I-X", "O", "B-X"), line=7)], bert, LABELS)
    assert scored(split, bert) == ["low", "[UNK]", "river", "[UNK]", "[UNK]"]
    assert split.labels.tolist() == [0, 1, 2, 0, 1]
    (notice,) = notices
    assert notice.startswith("words without a word piece, read as the unknown piece: 3 (first: f.txt:8 ")


def test_words_without_pieces_can_be_refused(bert):
    sentences = [sentence("low", "\u200b", line=4), sentence("\ufe0f", line=9)]
    with pytest.raises(DataError) as caught:
        encode(sentences, bert, LABELS, no_piece="error")
    assert [problem.partition(" ")[0] for problem in caught.value.problems] == ["f.txt:5", "f.txt:9"]
    assert "into no word piece" in str(caught.value) and "no_piece: unknown" in str(caught.value)


@pytest.mark.parametrize("no_piece", ["unknown", "error"])
def test_without_an_unknown_piece_there_is_no_stand_in(bert, no_piece):
    with pytest.raises(DataError, match=r"f\.txt:2.*no word piece.*Remove the word") as caught:
        encode([sentence("low", "\u200b")], replace(bert, unknown=None), LABELS, no_piece=no_piece)
    assert "no_piece" not in str(caught.value)  # no setting helps


def test_many_problems_are_counted(bert):
    with pytest.raises(DataError) as caught:
        encode([sentence(*["\u200b"] * 50)], bert, LABELS, no_piece="error")
    assert len(caught.value.problems) == 21 and caught.value.problems[-1] == "... and 30 more"


# Long sentences


def test_a_long_sentence_is_read_in_windows(bert):
    room = replace(bert, room=8)
    words = sentence(*["low", "new"] * 10, tags=LABELS[:1] * 19 + ("B-X",))
    split, notices = encode([sentence("the"), words, sentence("a")], room, LABELS)
    assert split.windows_of.tolist() == [0, 1, len(split) - 1, len(split)]
    assert [split.examples_of(window) for window in range(len(split))] == [0, *[1] * (len(split) - 2), 2]
    assert split.window_pieces.max() == 8 + 2
    assert scored(split, bert) == ["the", *["low", "new"] * 10, "a"]
    assert split.labels.tolist() == [0] * 20 + [1, 0]
    place = "f.txt:1 (20 words, 20 word pieces)"
    assert notices == [f"sentences longer than 8 word pieces, read in overlapping windows: 1 (first: {place})"]


def test_long_sentences_can_be_refused(bert):
    sentences = [sentence(*["low"] * 9, line=3), sentence(*["low"] * 8), sentence("x" * 9, line=40)]
    with pytest.raises(DataError) as caught:
        encode(sentences, replace(bert, room=8), LABELS, long="error")
    assert [problem.partition(" ")[0] for problem in caught.value.problems] == ["f.txt:3", "f.txt:40"]
    assert "8 word pieces" in str(caught.value) and "long: window" in str(caught.value)


def test_a_giant_word_is_cut_to_a_window(bert):
    split, notices = encode([sentence("low", "x" * 50, "new")], replace(bert, room=8), LABELS)
    assert scored(split, bert) == ["low", "x", "new"]
    assert split.window_pieces.max() == 8 + 2
    notice = f"words longer than 8 word pieces, only their first pieces read: 1 (first: f.txt:2 {'x' * 50!r})"
    assert notice in notices


WORDS = st.lists(
    st.sampled_from(["low", "lowest", "\u200b", "x" * 7, "x" * 30, "Don't", "the"]), min_size=1, max_size=25
)


@given(st.data(), st.lists(WORDS, min_size=1, max_size=5), st.integers(4, 20), st.booleans(), st.booleans())
def test_every_word_is_scored_once_in_order(tiny_word_pieces, data, texts, room, last_piece, mean):
    """Whatever the windows, words follow each other with their own pieces and label: stitching is concatenation."""
    word_pieces = replace(tiny_word_pieces, room=room, last_piece=last_piece, mean=mean)
    tags = [data.draw(st.lists(st.sampled_from(LABELS), min_size=len(t), max_size=len(t))) for t in texts]
    sentences = [sentence(*words, tags=tuple(t)) for words, t in zip(texts, tags, strict=True)]
    split, _ = encode(sentences, word_pieces, LABELS)
    of_word = {
        word: word_pieces.tokenizer.encode(word, add_special_tokens=False).tokens[:room]
        for words in texts
        for word in words
    }
    where = -1 if last_piece and not mean else 0
    expected = [of_word[word] or ["[UNK]"] for words in texts for word in words]
    assert scored(split, word_pieces) == [pieces[where] for pieces in expected]
    if mean:
        starts = np.repeat(split.piece_starts[:-1], split.window_words) + split.positions
        whole = [split.pieces[it : it + width] for it, width in zip(starts, split.widths, strict=True)]
        assert [tokens_of(word_pieces, pieces.tolist()) for pieces in whole] == expected
    else:
        assert split.widths is None
    assert split.labels.tolist() == [LABELS.index(tag) for t in tags for tag in t]
    assert (split.window_pieces <= room + 2).all()
    assert (split.window_words >= 1).all()
    words_of = np.diff(split.word_starts[split.windows_of])
    assert words_of.tolist() == [len(words) for words in texts]


@pytest.fixture(scope="module")
def tiny_word_pieces(tiny_folder):
    from mpt.model.backbone.backbone import load_backbone

    return load_backbone(str(tiny_folder("bert")), dtype="float32").word_pieces


def test_text_without_labels(bert):
    untagged = Sentence(words=("low", "new"), tags=None, path="f.txt", lines=(1, 2))
    split, _ = encode([untagged], bert, None)
    assert split.labels is None and len(split.positions) == 2


def test_nothing_is_no_windows(bert):
    split, notices = encode([], bert, LABELS)
    assert len(split) == 0 and split.windows_of.tolist() == [0] and notices == []


def test_real_text(bert):
    data = Path(os.environ.get("MPT_DATA") or ROOT / "../shared/data") / "wnut17" / "dev.conll"
    if not data.is_file():
        pytest.skip(f"{data} is not there")
    source = SourceFormat(format="conll", scheme="iob2", tag_column=1, delimiter="tab")
    sentences = read_sentences(data, source)
    labels = sorted({tag for one in sentences for tag in one.tags})
    split, notices = encode(sentences, replace(bert, room=40), labels)
    words = [word for one in sentences for word in one.words]
    assert len(split.positions) == len(words) == int(split.window_words.sum()) > 10_000
    assert split.labels.tolist() == [labels.index(tag) for one in sentences for tag in one.tags]
    assert len(split) > len(sentences) and notices  # long tweets are windowed
    assert split.window_pieces.max() <= 42
    encodings = bert.tokenizer.encode_batch(words, add_special_tokens=False)
    assert scored(split, bert) == [encoding.tokens[0] if encoding.tokens else "[UNK]" for encoding in encodings]


@pytest.mark.parametrize("kind", ["bert", "roberta"])
def test_a_special_piece_in_the_text_is_text(load, kind):
    pieces = load(kind).word_pieces
    word = "[SEP]" if kind == "bert" else "</s>"
    (special,) = pieces.suffix
    split, _ = encode([sentence("low", word, "low")], pieces, LABELS)
    assert pieces_of(split, 0).count(special) == 1


def test_chunks_leave_no_trace(bert, monkeypatch):
    """Sentences are tokenised some thousands at a time; how many changes no array and no notice."""
    texts = [["low"], ["new"] * 30, ["\u200b", "lowest"], ["x" * 20, "the"], ["Don't"], ["low"] * 17, ["in"]]
    sentences = [sentence(*words, tags=("B-X",) * len(words), line=9 * i + 1) for i, words in enumerate(texts)]
    sentences[4] = replace(sentences[4], path="other.txt")
    word_pieces = replace(bert, room=8)
    whole, told = encode(sentences, word_pieces, LABELS)
    assert len(told) == 3
    for chunk in (1, 2, 3):
        monkeypatch.setattr(tokenization, "CHUNK", chunk)
        split, notices = encode(sentences, word_pieces, LABELS)
        assert notices == told
        for name in ("pieces", "piece_starts", "positions", "word_starts", "labels", "windows_of"):
            np.testing.assert_array_equal(getattr(split, name), getattr(whole, name), strict=True)
        assert [split.places.where(i) for i in range(7)] == [it.where for it in sentences]


@pytest.mark.parametrize("kind", KINDS)
def test_pieces_of_a_word_do_not_depend_on_its_neighbours(load, kind):
    """What lets each different word be tokenised once."""
    word_pieces = load(kind).word_pieces
    alone = [word_pieces.tokenizer.encode([word_pieces.before_word + word], **SPLIT_TEXT).ids for word in TEXT]
    together = word_pieces.tokenizer.encode([word_pieces.before_word + word for word in TEXT], **SPLIT_TEXT)
    assert together.ids == [piece for pieces in alone for piece in pieces]


# Predicates


def asking(*words, predicate, line=1):
    return replace(sentence(*words, line=line), predicate=predicate)


def test_the_predicate_closes_the_window_as_the_second_text_of_a_pair(bert):
    asked = [asking("low", "new", predicate=1), asking("lowest", "the", "low", predicate=0)]
    split, _ = encode(asked, bert, LABELS, predicate="suffix")
    plain, _ = encode(asked, bert, LABELS)
    pair = bert.tokenizer.encode(["lowest", "the", "low"], ["lowest"], is_pretokenized=True)
    assert pieces_of(split, 1) == pair.ids
    assert split.segments[split.piece_starts[1] :].tolist() == pair.type_ids
    assert split.positions.tolist() == plain.positions.tolist() and split.labels.tolist() == plain.labels.tolist()
    assert plain.segments is None


def test_the_predicate_is_marked_by_its_segment(bert):
    asked = [asking("low", "lowest", "new", predicate=1), asking("low", predicate=0)]
    split, notices = encode(asked, bert, LABELS, predicate="segment")
    plain, _ = encode(asked, bert, LABELS)
    assert split.pieces.tolist() == plain.pieces.tolist() and split.positions.tolist() == plain.positions.tolist()
    size = len(bert.tokenizer.encode("lowest", add_special_tokens=False).ids)
    start = int(plain.positions[1])
    expected = [0] * len(pieces_of(plain, 0))
    expected[start : start + size] = [1] * size
    assert split.segments.tolist() == [*expected, 0, 1, 0] and notices == []


@given(words=st.lists(st.sampled_from(TEXT), min_size=1, max_size=60), data=st.data(), room=st.integers(12, 40))
def test_every_window_shows_the_predicate_and_every_word_is_scored_at_itself(bert_pieces, words, data, room):
    small = replace(bert_pieces, room=room)
    predicate = data.draw(st.integers(0, len(words) - 1))
    split, _ = encode([asking(*words, predicate=predicate)], small, LABELS, predicate="suffix")
    plain, _ = encode([asking(*words, predicate=predicate)], replace(small, room=10_000), LABELS)
    shown = small.tokenizer.encode(words[predicate], add_special_tokens=False).ids
    end = [*small.between, *shown, *small.suffix]
    for window in range(len(split)):
        pieces = pieces_of(split, window)
        assert pieces[-len(end) :] == end
        assert len(pieces) <= room + len(small.prefix) + len(small.suffix)
        own = split.segments[split.piece_starts[window] : split.piece_starts[window + 1]]
        assert own.tolist() == [0] * (len(pieces) - len(shown) - 1) + [1] * (len(shown) + 1)
    assert scored(split, small) == scored(plain, small)


@pytest.fixture(scope="module")
def bert_pieces(tiny_folder):
    from mpt.model.backbone.backbone import load_backbone

    return load_backbone(str(tiny_folder("bert")), dtype="float32").word_pieces


def test_windows_that_do_not_show_a_marked_predicate_are_told(bert):
    long = asking(*["low"] * 100, predicate=0, line=7)
    split, notices = encode([long], bert, LABELS, predicate="segment")
    first = split.segments[: split.piece_starts[1]]
    assert first.sum() == 1 and split.segments.sum() == 1
    assert any("without their predicate" in notice and "f.txt:7" in notice for notice in notices)


def test_a_predicate_that_leaves_no_room_is_cut_and_told(bert):
    word = "low" * 33
    split, notices = encode([asking("low", word, "new", predicate=1)], bert, LABELS, predicate="suffix")
    assert int(split.window_pieces.max()) <= bert.room + len(bert.prefix) + len(bert.suffix)
    assert any(notice.startswith("words longer than") and "less those of the predicate" in notice for notice in notices)
    assert len(split.positions) == 3


@pytest.mark.parametrize("kind", ["roberta", "modernbert"])
def test_segments_are_refused_where_there_are_none(load, kind):
    with pytest.raises(
        DataError, match=r"predicate: segment marks .* of which this backbone has [01]. Set predicate: suf"
    ):
        encode([asking("low", predicate=0)], load(kind).word_pieces, LABELS, predicate="segment")


def test_a_suffix_is_refused_where_words_do_not_see_it(load):
    with pytest.raises(DataError, match="causal backbone"):
        encode([asking("low", predicate=0)], load("llama").word_pieces, LABELS, predicate="suffix")


def test_without_segments_the_suffix_stands_alone(load):
    word_pieces = load("roberta").word_pieces
    split, _ = encode([asking("low", "new", predicate=1)], word_pieces, LABELS, predicate="suffix")
    new = word_pieces.tokenizer.encode([" new"], is_pretokenized=True, add_special_tokens=False).ids
    assert pieces_of(split, 0)[-len(new) - 1 - len(word_pieces.between) :] == [
        *word_pieces.between,
        *new,
        *word_pieces.suffix,
    ]
    assert split.segments is None
