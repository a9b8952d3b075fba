import numpy as np
import pytest
from common.backbones import tiny_backbone
from hypothesis import given
from hypothesis import strategies as st

from mpt.base.errors import DataError
from mpt.data.example import TextExample
from mpt.data.families.texts import encode_texts, fitted
from mpt.model.backbone.backbone import load_backbone


@pytest.fixture(scope="module")
def pieces(tmp_path_factory):
    made = {}

    def of(kind):
        if kind not in made:
            folder = tiny_backbone(tmp_path_factory.mktemp("backbones") / kind, kind)
            made[kind] = load_backbone(str(folder), dtype="float32").word_pieces
        return made[kind]

    return of


def example(*inputs, tags=None, line=1):
    return TextExample(inputs=inputs, tags=tags, path="x.csv", lines=(line,))


def rows(split):
    return [split.pieces[a:b].tolist() for a, b in zip(split.piece_starts[:-1], split.piece_starts[1:], strict=True)]


@pytest.mark.parametrize("kind", ["bert", "roberta", "xlm-roberta", "llama"])
def test_a_text_and_a_pair_look_as_the_tokenizer_makes_them(pieces, kind):
    word_pieces = pieces(kind)
    split, notices = encode_texts(
        [example(("the low river",)), example(("is the river low", "the new river"))],
        word_pieces,
        None,
    )
    tokenizer = word_pieces.tokenizer
    single, pair = rows(split)
    assert single == tokenizer.encode("the low river").ids
    if kind != "llama":  # its own rule for pairs gives the second text no frame
        assert pair == tokenizer.encode("is the river low", "the new river").ids
    assert notices == []
    expected = [len(single) - 1, len(pair) - 1] if kind == "llama" else [0, 0]
    assert split.positions.tolist() == expected
    assert split.unit_terms.tolist() == [1, 1]


def test_the_second_text_of_a_pair_is_in_the_second_segment(pieces):
    word_pieces = pieces("bert")
    split, _ = encode_texts(
        [example(("the low river", "new"), tags=("b",)), example(("low",), tags=("a",))],
        word_pieces,
        ["a", "b"],
    )
    assert split.segments is not None
    assert split.segments.tolist() == [*word_pieces.tokenizer.encode("the low river", "new").type_ids, 0, 0, 0]
    assert split.labels.tolist() == [1, 0]
    alone, _ = encode_texts([example(("low",))], word_pieces, None)
    assert alone.segments is None


def test_choices_are_windows_of_one_unit(pieces):
    split, _ = encode_texts(
        [
            example(("the river", "is low"), ("the river", "is not new"), ("the river", "a"), tags=("2",)),
            example(("low", "a"), ("low", "in the"), tags=("0",)),
        ],
        pieces("bert"),
        ["choice"],
        alternatives=True,
    )
    assert split.labels.tolist() == [0, 0, 1, 1, 0]
    assert split.windows_of.tolist() == [0, 3, 5]
    longest = [max(map(len, part)) for part in (rows(split)[:3], rows(split)[3:])]
    assert split.unit_pieces.tolist() == [3 * longest[0], 2 * longest[1]]
    assert split.windows_in(np.array([1, 0])).tolist() == [3, 4, 0, 1, 2]
    assert split.terms_of(np.array([0, 1])) == 2
    assert split.unit_terms.tolist() == [1, 1]


def test_a_long_text_is_cut_at_its_end_and_a_pair_at_the_longer_one(pieces):
    word_pieces = pieces("bert")
    short, long = "the new river", " ".join(["low"] * 200)
    split, notices = encode_texts(
        [example((long,), line=3), example((short, long), line=5), example((short,))],
        word_pieces,
        None,
    )
    text, pair, _ = rows(split)
    room = word_pieces.room + len(word_pieces.prefix) + len(word_pieces.suffix)
    assert len(text) == len(pair) == room
    assert pair[: len(short.split()) + 2] == word_pieces.tokenizer.encode(short).ids
    assert notices[0].startswith(f"texts longer than {word_pieces.room} word pieces, cut at the end: 2 (first: x.csv:3")
    with pytest.raises(DataError) as caught:
        encode_texts([example((long,), line=3)], word_pieces, None, long="error")
    assert caught.value.problems[0].startswith("x.csv:3 (200 word pieces): longer than")
    assert caught.value.problems[0].endswith("Shorten it, or set long: cut")


def test_a_text_without_word_pieces_is_the_unknown_piece(pieces):
    word_pieces = pieces("bert")
    split, _ = encode_texts([example(("\ufe0f",))], word_pieces, None)
    assert rows(split) == [[*word_pieces.prefix, word_pieces.unknown, *word_pieces.suffix]]


def filled(pieces, template, *inputs, **changes):
    examples = [example(*[texts]) for texts in inputs]
    return encode_texts(examples, pieces, None, template=template, **changes)


@pytest.mark.parametrize("kind", ["bert", "roberta", "xlm-roberta", "modernbert"])
@pytest.mark.parametrize(
    "template", ["{text} is {mask} .", "{mask} the {text}", "low : {text} in {mask} new", "{text} {mask}"]
)
def test_a_filled_template_is_what_the_tokenizer_makes_of_it(pieces, kind, template):
    word_pieces = pieces(kind)
    split, notices = filled(word_pieces, template, ("the low river",), ("new",))
    tokenizer = word_pieces.tokenizer
    mask = tokenizer.id_to_token(word_pieces.mask)
    before = tokenizer.encode_special_tokens
    tokenizer.encode_special_tokens = False  # so that the mask's name is the mask
    expected = [tokenizer.encode(template.format(text=text, mask=mask)).ids for text in ("the low river", "new")]
    tokenizer.encode_special_tokens = before
    assert rows(split) == expected and notices == []
    assert split.positions.tolist() == [row.index(word_pieces.mask) for row in expected]
    assert split.word_starts.tolist() == [0, 1, 2] and split.segments is None


def test_a_template_has_both_texts_of_a_pair_in_the_first_segment(pieces):
    word_pieces = pieces("bert")
    split, _ = filled(word_pieces, "{pair} ? {mask} , {text}", ("the low river", "is new"))
    names = [word_pieces.tokenizer.id_to_token(piece) for piece in rows(split)[0]]
    assert names == ["[CLS]", "is", "new", "?", "[MASK]", ",", "the", "low", "river", "[SEP]"]
    assert split.positions.tolist() == [4] and split.segments is None


def test_the_words_of_a_template_are_never_cut(pieces):
    word_pieces = pieces("bert")
    split, notices = filled(word_pieces, "in {text} is {pair} a {mask} river", ("low " * 70, "new " * 90), ("a", "b"))
    long, short = rows(split)
    text, pair = ([word_pieces.tokenizer.token_to_id(word)] for word in ("low", "new"))
    fixed = [word_pieces.tokenizer.encode(words, add_special_tokens=False).ids for words in ("in", "is", "a", "river")]
    room = word_pieces.window - 2 - sum(map(len, fixed)) - 1
    expected = [
        *[*word_pieces.prefix, *fixed[0], *text * (room - room // 2), *fixed[1], *pair * (room // 2), *fixed[2]],
        *[word_pieces.mask, *fixed[3], *word_pieces.suffix],
    ]
    assert long == expected and len(long) == word_pieces.window
    assert short[split.positions[1]] == long[split.positions[0]] == word_pieces.mask
    assert len(notices) == 1 and "cut at the end: 1 (first: x.csv:1" in notices[0]
    with pytest.raises(DataError, match="longer than the 62 word pieces"):
        filled(word_pieces, "{text} {mask}", ("low " * 70,), long="error")


def test_the_name_of_the_mask_in_a_text_is_text(pieces):
    word_pieces = pieces("bert")
    split, _ = filled(word_pieces, "{text} {mask}", ("a [MASK] {mask}",))
    assert rows(split)[0].count(word_pieces.mask) == 1
    assert split.positions.tolist() == [len(rows(split)[0]) - 2]


@given(st.lists(st.integers(1, 50), min_size=1, max_size=2), st.integers(4, 60))
def test_what_fits_stays_and_what_does_not_fills_the_room(lengths, room):
    kept = fitted(lengths, room)
    assert sum(kept) == min(sum(lengths), room)
    assert all(0 < short <= whole for short, whole in zip(kept, lengths, strict=True))
    if sum(lengths) > room and len(lengths) == 2 and min(lengths) <= room // 2:
        assert kept[lengths.index(min(lengths))] == min(lengths)
