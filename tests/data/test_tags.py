import pytest
from hypothesis import given
from hypothesis import strategies as st
from seqeval.metrics.sequence_labeling import get_entities

from mpt.base.errors import DataError
from mpt.data.tags import (
    PREFIXES,
    Span,
    bio_from_spans,
    check_tags,
    fitting_schemes,
    from_bio,
    spans,
    split_tag,
    to_bio,
)

SCHEMES = tuple(PREFIXES)
TYPES = ("PER", "creative-work")


def sequences(scheme: str):
    tags = ["O"] + [f"{prefix}-{kind}" for prefix in PREFIXES[scheme] for kind in TYPES]
    return st.lists(st.sampled_from(tags), max_size=8)


@st.composite
def entities(draw):
    length = draw(st.integers(0, 12))
    found, at = [], 0
    while at < length:
        at += draw(st.integers(0, 2))
        size = draw(st.integers(1, 3))
        if at + size <= length:
            found.append(Span(start=at, end=at + size, type=draw(st.sampled_from(TYPES))))
        at += size
    return found, length


def allowed(scheme: str, previous: str, following: str) -> bool:
    """Tell whether one tag may follow another ("" is a border of the sentence), written down rule by rule."""
    (before, old), (after, new) = split_tag(previous), split_tag(following)
    same = old == new
    if scheme == "io":
        return True
    if scheme == "iob2":
        return after != "I" or (before in ("B", "I") and same)
    if scheme == "iob1":
        return after != "B" or (before in ("B", "I") and same)
    last, single = ("E", "S") if scheme == "iobes" else ("L", "U")
    if before in ("B", "I"):
        return after in ("I", last) and same
    return after in ("", "O", "B", single)


def test_a_tag_is_split_at_its_first_hyphen():
    assert split_tag("B-creative-work") == ("B", "creative-work")
    assert split_tag("O") == ("O", "")
    assert split_tag("NOUN") == ("NOUN", "")


@pytest.mark.parametrize(
    ("scheme", "tags", "wrong"),
    [
        ("iob2", "B-X I-X O B-X B-X", []),
        ("iob2", "O I-X I-X", [1]),
        ("iob2", "B-X I-Y I-Y", [1]),
        ("iob2", "I-X O I-Y", [0, 2]),
        ("iob2", "S-X E-X", [0, 1]),
        ("iob1", "I-X I-X B-X I-X O I-Y I-X", []),
        ("iob1", "O B-X", [1]),
        ("iob1", "I-Y B-X", [1]),
        ("iobes", "S-X B-X E-X B-Y I-Y E-Y O", []),
        ("iobes", "B-X O", [0]),
        ("iobes", "B-X I-X", [1]),
        ("iobes", "O E-X S-X", [1]),
        ("iobes", "B-X E-Y", [0, 1]),
        ("iobes", "I-X I-X I-X", [0]),
        ("bilou", "U-X B-X L-X B-Y I-Y L-Y O", []),
        ("bilou", "B-X I-X U-X", [1]),
        ("io", "I-X I-X I-Y O", []),
        ("io", "B-X I-X", [0]),
        ("raw", "NOUN O B- I-X", []),
        ("iob2", "B- B o NOUN -X O-X", [0, 1, 2, 3, 4, 5]),
    ],
)
def test_each_scheme_names_its_ill_formed_tags(scheme, tags, wrong):
    assert [index for index, _ in check_tags(tags.split(), scheme)] == wrong


def test_an_empty_tag_is_never_well_formed():
    assert check_tags(["NOUN", ""], "raw") == [(1, "the tag is empty")]
    assert check_tags([""], "iob2")


@pytest.mark.parametrize(
    ("tags", "scheme", "message"),
    [
        ("O I-X", "iob2", '"I-X" follows "O": iob2 expects "B-X"'),
        ("I-X", "iob2", '"I-X" starts the sentence: iob2 expects "B-X"'),
        ("B-X I-X", "iobes", '"I-X" ends the sentence: iobes expects "E-X"'),
        ("B-X I-X O", "iobes", '"I-X" is followed by "O": iobes expects "E-X"'),
        ("E-X", "iob2", 'tag "E-X" is not one of iob2, which knows O, B-TYPE, I-TYPE'),
    ],
)
def test_problems_say_what_was_found_and_expected(tags, scheme, message):
    assert [problem for _, problem in check_tags(tags.split(), scheme)] == [message]


@pytest.mark.parametrize("scheme", SCHEMES)
def test_strict_rejects_exactly_what_the_transitions_forbid(scheme):
    @given(sequences(scheme))
    def check(tags):
        legal = all(allowed(scheme, a, b) for a, b in zip(["", *tags], [*tags, ""], strict=True))
        assert (check_tags(tags, scheme) == []) == legal
        if legal:
            assert from_bio(to_bio(tags, scheme), scheme) == tuple(tags)
        else:
            with pytest.raises(DataError):
                to_bio(tags, scheme)

    check()


@given(entities())
def test_spans_survive_every_scheme_but_io(drawn):
    found, length = drawn
    tags = bio_from_spans(reversed(found), length)
    assert check_tags(tags, "iob2") == []
    assert spans(tags) == found
    for scheme in ("iob1", "iob2", "iobes", "bilou"):
        there = from_bio(tags, scheme)
        assert check_tags(there, scheme) == []
        assert to_bio(there, scheme) == tags
        assert spans(there) == found


def test_io_merges_touching_entities_of_one_type_only():
    assert from_bio(["B-X", "B-X", "B-Y"], "io") == ("I-X", "I-X", "I-Y")
    assert to_bio(["I-X", "I-X", "I-Y"], "io") == ("B-X", "I-X", "B-Y")


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("repair", ["begin", "drop"])
def test_repair_gives_valid_tags_and_a_second_repair_changes_nothing(scheme, repair):
    @given(sequences(scheme))
    def check(tags):
        mended = to_bio(tags, scheme, repair)
        assert check_tags(mended, "iob2") == []
        assert to_bio(mended, "iob2", repair) == mended
        if not check_tags(tags, scheme):
            assert mended == to_bio(tags, scheme)

    check()


@pytest.mark.parametrize(
    ("scheme", "tags", "begin", "drop"),
    [
        ("iob2", "O I-X I-X B-X I-Y", "O B-X I-X B-X B-Y", "O O O B-X O"),
        ("iob1", "O B-X I-X", "O B-X I-X", "O O O"),
        ("iobes", "B-X I-X O S-X E-X", "B-X I-X O B-X B-X", "O O O B-X O"),
    ],
)
def test_repair_by_example(scheme, tags, begin, drop):
    assert " ".join(to_bio(tags.split(), scheme, "begin")) == begin
    assert " ".join(to_bio(tags.split(), scheme, "drop")) == drop


@pytest.mark.parametrize("repair", ["error", "begin", "drop"])
def test_no_repair_mends_a_tag_of_another_scheme(repair):
    with pytest.raises(DataError, match='word 1: tag "S-X" is not one of iob2'):
        to_bio(["O", "S-X"], "iob2", repair)


@given(sequences("iob2"))
def test_spans_agree_with_seqeval_on_any_bio_tags(tags):
    assert [(span.type, span.start, span.end - 1) for span in spans(tags)] == get_entities(tags)


@given(entities())
def test_spans_agree_with_seqeval_on_iobes(drawn):
    found, length = drawn
    tags = list(from_bio(bio_from_spans(found, length), "iobes"))
    assert [(span.type, span.start, span.end - 1) for span in spans(tags)] == get_entities(tags)


def test_raw_tags_pass_through():
    assert to_bio(["NOUN", "B-X"], "raw") == ("NOUN", "B-X") == from_bio(["NOUN", "B-X"], "raw")


def test_overlapping_or_outlying_spans_are_a_bug_of_the_caller():
    with pytest.raises(AssertionError, match="overlaps"):
        bio_from_spans([Span(start=0, end=2, type="X"), Span(start=1, end=3, type="Y")], 3)
    with pytest.raises(AssertionError, match="outside"):
        bio_from_spans([Span(start=2, end=4, type="X")], 3)


@pytest.mark.parametrize(
    ("tags", "fitting"),
    [
        ("O I-X I-X", ["iob1", "io"]),
        ("B-X I-X B-X", ["iob2"]),
        ("B-X E-X S-X", ["iobes"]),
        ("B-X L-X U-X", ["bilou"]),
        ("B-X NOUN", []),
        ("O O", ["iob2", "iob1", "iobes", "bilou", "io"]),
    ],
)
def test_fitting_schemes(tags, fitting):
    assert fitting_schemes([tags.split()]) == fitting
