import pytest
from hypothesis import given
from hypothesis import strategies as st
from seqeval.metrics import f1_score

from mpt.data.families.metrics import score, sentence_counts
from mpt.data.families.spans import Argument, arguments
from mpt.data.tags import spans

LABELS = ("A0", "A1", "R-A0", "C-A0", "C-A1", "C-R-A0", "V", "C-V")


def tags_of(*texts):
    """`A0 A0+ . V` stands for B-A0 I-A0 O B-V."""
    return [
        ["O" if it == "." else f"I-{it[:-1]}" if it.endswith("+") else f"B-{it}" for it in text.split()]
        for text in texts
    ]


@st.composite
def corpora(draw):
    """Valid gold and predictions that often agree."""

    def build(steps):
        tags = []
        for choice in steps:
            inside = tags and tags[-1] != "O"
            tags.append(choice if choice != "+" else f"I-{tags[-1][2:]}" if inside else "O")
        return tags

    steps = st.sampled_from(["+", "+", "O", *(f"B-{label}" for label in LABELS)])
    gold, predicted = [], []
    for _ in range(draw(st.integers(1, 4))):
        wanted = draw(st.lists(steps, min_size=1, max_size=10))
        changes = draw(st.lists(st.none() | st.none() | steps, min_size=len(wanted), max_size=len(wanted)))
        found = [new or old for old, new in zip(wanted, changes, strict=True)]
        gold.append(build(wanted))
        predicted.append(build(found))
    return gold, predicted


def plainly(gold, predicted):
    """The counting of srl-eval.pl (Carreras and Marquez 2005) written down step by step: (tp, fp, fn) of every role."""

    def read(tags):
        phrases, word = [], 0
        while word < len(tags):
            end = word + 1
            if tags[word] != "O":
                while end < len(tags) and tags[end] == "I-" + tags[word][2:]:
                    end += 1
                phrases.append([tags[word][2:], word, end - 1])
            word = end
        props = []
        for kind, first, last in phrases:
            if kind.startswith("C-"):
                head = next((it for it in reversed(props) if it[0] == kind[2:]), None)
                if head is not None:
                    head[1].append((first, last))
                    continue
                kind = kind[2:]
            props.append((kind, [(first, last)]))
        return props

    counts = {}
    for a, b in zip(gold, predicted, strict=True):
        left = read(a)
        for prop in read(b):
            row = counts.setdefault(prop[0], [0, 0, 0])
            if prop in left:
                left.remove(prop)
                row[0] += 1
            else:
                row[1] += 1
        for kind, _ in left:
            counts.setdefault(kind, [0, 0, 0])[2] += 1
    counts.pop("V", None)
    return {kind: tuple(row) for kind, row in counts.items()}


@pytest.mark.parametrize(
    ("gold", "predicted", "counts"),
    [
        ("A0 V A1 A1+", "A0 V A1 A1+", (2, 0, 0)),
        ("A0 V A1 A1+", "A0 . A1 A1+", (2, 0, 0)),  # a missed V costs nothing
        ("A0 V", "A0 A0", (1, 1, 0)),
        ("A0 V C-A0", "A0 V C-A0", (1, 0, 0)),  # two pieces, one argument
        ("A0 V C-A0", "A0 V .", (0, 1, 1)),  # and right only with both
        ("A0 V C-A0 C-A0", "A0 V C-A0 C-A0+", (0, 1, 1)),
        ("A0 V C-A0", "A0 V A0", (0, 2, 1)),
        (". V A1", ". V C-A1", (1, 0, 0)),  # C-X without X is X
        ("C-A1 V A1", "A1 V A1", (2, 0, 0)),
        ("A0 R-A0 V", "A0 R-A0 V", (2, 0, 0)),  # R-X is a role of its own
        ("A0 R-A0 V", "A0 A0+ V", (0, 1, 2)),
        ("A1 A1 V C-A1", "A1 A1 V C-A1", (2, 0, 0)),  # continues the last one
        ("A1 A1 V C-A1", "A1 . V C-A1", (0, 1, 2)),
        ("V . C-V", "V . .", (0, 0, 0)),  # C-V is of the predicate
        (". . C-V", ". . .", (0, 0, 0)),
        ("A0 A0+ V", "A0 C-A0 V", (0, 1, 1)),  # equal words in other pieces
    ],
)
def test_hand_computed(gold, predicted, counts):
    result = score("srl_f1", tags_of(gold), tags_of(predicted))
    assert (result.total.tp, result.total.fp, result.total.fn) == counts


def test_continuations_belong_to_their_own_predicate():
    gold = tags_of("A0 V", ". V C-A0")
    assert {len(arguments(spans(tags))) for tags in gold} == {1}
    assert score("srl_f1", gold, gold).total.tp == 2


def test_the_pieces_of_an_argument():
    (only,) = arguments(spans(tags_of("A1 A1+ V C-A1 . C-A1")[0]))
    assert only == Argument(start=0, end=6, type="A1", pieces=((0, 2), (3, 4), (5, 6)))


@given(corpora())
def test_equals_the_plain_count_in_every_role(corpus):
    result = score("srl_f1", *corpus)
    assert {name: (row.tp, row.fp, row.fn) for name, row in result.rows.items()} == plainly(*corpus)


@given(corpora())
def test_every_argument_is_counted_once(corpus):
    result = score("srl_f1", *corpus)
    errors = result.errors
    assert result.total.support == result.total.tp + errors.type + errors.boundary + errors.both + errors.missed
    assert result.total.fp == errors.type + errors.boundary + errors.both + errors.spurious
    assert sentence_counts("srl_f1", *corpus).sum(axis=0).tolist() == [
        result.total.tp,
        result.total.fp,
        result.total.fn,
    ]


@given(corpora())
def test_with_predicates_it_is_the_figure_of_seqeval(corpus):
    counts = score("srl_f1", *corpus).with_predicates
    assert (counts.f1 or 0.0) == pytest.approx(f1_score(*corpus, zero_division=0))
    assert score("span_f1", *corpus).total == counts
    assert score("span_f1", *corpus).with_predicates is None


def test_rows_are_the_roles_in_label_order():
    labels = ["O", *(f"{prefix}-{label}" for label in ("A1", "V", "C-A1", "C-A0", "R-A0") for prefix in "BI")]
    result = score("srl_f1", tags_of("V A0"), tags_of("V A0"), labels)
    assert list(result.rows) == ["A1", "A0", "R-A0"]
    assert result.to_json()["with_predicates"]["tp"] == 2
    assert (result.metric, result.primary) == ("srl_f1", 1.0)


def test_other_borders_are_told_from_another_role():
    result = score("srl_f1", tags_of("A0 V C-A0", "A0 A0+ V"), tags_of("A0 C-A0 V", "A1 A1+ V"))
    assert (result.errors.boundary, result.errors.type) == (1, 1)
    same_hull = score("srl_f1", tags_of("A0 . C-A0"), tags_of("A0 A0+ A0+"))
    assert (same_hull.errors.boundary, same_hull.errors.type) == (1, 0)
