import json
import random
from dataclasses import asdict
from time import perf_counter

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from seqeval.metrics import classification_report
from seqeval.scheme import IOB2
from sklearn.metrics import f1_score

from mpt.base.errors import MptError
from mpt.data.families.metrics import score
from mpt.data.families.scores import NONE, Counts, LabelScore
from mpt.data.tags import Span, bio_from_spans

LABELS = ("O", "B-PER", "I-PER", "B-LOC", "I-LOC", "B-misc-work", "I-misc-work")


def bio(max_words=12):
    """Valid BIO2, made without the code under test: a word continues the entity before it, starts one, or is O."""
    step = st.sampled_from(["continue", "O", "B-PER", "B-LOC", "B-misc-work"])

    def build(steps):
        tags = []
        for choice in steps:
            inside = tags and tags[-1] != "O"
            tags.append(choice if choice != "continue" else f"I-{tags[-1][2:]}" if inside else "O")
        return tags

    return st.lists(step, min_size=1, max_size=max_words).map(build)


def corpora():
    """Gold and predictions of equal lengths."""
    pair = st.tuples(bio(), bio()).map(lambda tags: tuple(side[: min(map(len, tags))] for side in tags))
    return st.lists(pair, min_size=1, max_size=6).map(lambda pairs: tuple(map(list, zip(*pairs, strict=True))))


def conlleval(gold, predicted):
    """The counting loop of conlleval (Tjong Kim Sang 2004): chunks are right when they start and end together."""

    def starts(before, tag):
        return tag != "O" and (tag[0] == "B" or before == "O" or before[2:] != tag[2:])

    def ends(tag, after):
        return tag != "O" and (after == "O" or after[0] == "B" or after[2:] != tag[2:])

    right = found_gold = found_predicted = 0
    for a, b in zip(gold, predicted, strict=True):
        a, b, running = ["O", *a, "O"], ["O", *b, "O"], False
        for word in range(1, len(a) - 1):
            start_a, start_b = starts(a[word - 1], a[word]), starts(b[word - 1], b[word])
            found_gold, found_predicted = found_gold + start_a, found_predicted + start_b
            if start_a or start_b:
                running = start_a and start_b and a[word][2:] == b[word][2:]
            end_a, end_b = ends(a[word], a[word + 1]), ends(b[word], b[word + 1])
            if end_a or end_b:
                right, running = right + (running and end_a and end_b), False
    return right, found_predicted - right, found_gold - right


@given(corpora())
def test_equals_conlleval(corpus):
    total = score("span_f1", *corpus).total
    assert (total.tp, total.fp, total.fn) == conlleval(*corpus)


@given(corpora(), st.sampled_from([{}, {"mode": "strict", "scheme": IOB2}]))
def test_equals_seqeval_in_default_and_strict_mode(corpus, mode):
    assume(any(tag != "O" for side in corpus for sentence in side for tag in sentence))  # there seqeval says 0
    theirs = classification_report(*corpus, output_dict=True, zero_division=0, **mode)
    ours = score("span_f1", *corpus)
    assert ours.primary == pytest.approx(theirs["micro avg"]["f1-score"])
    for name, row in {**ours.rows, "micro avg": ours.total}.items():
        assert row.support == theirs[name]["support"]
        figures = (row.precision, row.recall, row.f1)
        assert figures == pytest.approx([theirs[name][key] for key in ("precision", "recall", "f1-score")]), name


@given(corpora())
def test_every_span_is_counted_once(corpus):
    result = score("span_f1", *corpus, labels=LABELS)
    wrong = result.errors
    paired = wrong.type + wrong.boundary + wrong.both
    assert result.total.fn == paired + wrong.missed
    assert result.total.fp == paired + wrong.spurious
    off_diagonal = sum(n for gold, row in result.confusion.items() for name, n in row.items() if gold != name)
    assert off_diagonal == wrong.type + wrong.both + wrong.missed + wrong.spurious


@given(corpora())
def test_gold_against_itself_is_perfect(corpus):
    gold, _ = corpus
    result = score("span_f1", gold, gold)
    assert result.primary == 1.0
    assert not any(asdict(result.errors).values())


def spans_score(gold, predicted, length=10):
    return score("span_f1", [bio_from_spans(gold, length)], [bio_from_spans(predicted, length)], LABELS)


def span(kind, start, end):
    return Span(type=kind, start=start, end=end)


@pytest.mark.parametrize(
    ("gold", "predicted", "category"),
    [
        ([span("PER", 2, 4)], [span("LOC", 2, 4)], "type"),
        ([span("PER", 2, 4)], [span("PER", 3, 6)], "boundary"),
        ([span("PER", 2, 4)], [span("LOC", 1, 4)], "both"),
        ([span("PER", 2, 4)], [], "missed"),
        ([], [span("PER", 2, 4)], "spurious"),
    ],
)
def test_error_categories(gold, predicted, category):
    errors = asdict(spans_score(gold, predicted).errors)
    assert errors == {name: int(name == category) for name in ("type", "boundary", "both", "missed", "spurious")}


def test_spans_that_only_touch_are_not_paired():
    errors = spans_score([span("PER", 2, 4)], [span("PER", 4, 6)]).errors
    assert (errors.missed, errors.spurious, errors.boundary) == (1, 1, 0)


def test_one_prediction_over_two_gold_spans_pairs_with_the_closest_and_misses_the_other():
    gold = [span("LOC", 0, 2), span("PER", 2, 3), span("PER", 3, 6)]
    result = spans_score(gold, [span("PER", 0, 6)])
    assert asdict(result.errors) == {"type": 0, "boundary": 1, "both": 0, "missed": 2, "spurious": 0}
    assert result.confusion == {"PER": {"PER": 1, NONE: 1}, "LOC": {NONE: 1}}


def test_pairs_prefer_the_same_type_and_then_the_longer_overlap():
    by_type = spans_score([span("LOC", 0, 4), span("PER", 4, 6)], [span("PER", 0, 6)])
    assert by_type.confusion == {"PER": {"PER": 1}, "LOC": {NONE: 1}}
    by_length = spans_score([span("LOC", 0, 2), span("misc-work", 2, 6)], [span("PER", 0, 6)])
    assert by_length.confusion == {"LOC": {NONE: 1}, "misc-work": {"PER": 1}}


def test_confusion_by_type():
    gold = [span("PER", 0, 1), span("LOC", 2, 3), span("misc-work", 4, 6)]
    predicted = [span("PER", 0, 1), span("PER", 2, 3), span("LOC", 8, 9)]
    confusion = spans_score(gold, predicted).confusion
    assert confusion == {"PER": {"PER": 1}, "LOC": {"PER": 1}, "misc-work": {NONE: 1}, NONE: {"LOC": 1}}


def test_spans_at_the_end_and_side_by_side():
    # A scorer that forgets the last word or merges neighbours gives other counts.
    tags = ["B-PER", "B-PER", "I-PER", "O", "B-LOC"]
    assert score("span_f1", [tags], [tags]).total == Counts(tp=3, fp=0, fn=0)
    assert score("span_f1", [tags], [[*tags[:-1], "O"]]).total == Counts(tp=2, fp=0, fn=1)


def test_corpus_f1_is_not_the_mean_of_sentence_f1():
    gold = [["B-PER"], ["B-PER", "B-PER", "B-PER", "B-PER"]]
    predicted = [["O"], ["B-PER", "B-PER", "B-PER", "B-PER"]]
    assert score("span_f1", gold, predicted).primary == pytest.approx(8 / 9)


def test_nothing_against_nothing_is_one_and_says_so():
    result = score("span_f1", [["O", "O"]], [["O", "O"]], LABELS)
    assert (result.primary, result.empty, result.total.f1, result.macro_f1) == (1.0, True, None, None)
    assert result.rows["PER"].to_json()["f1"] is None
    nothing_found = score("span_f1", [["B-PER"]], [["O"]])
    assert (nothing_found.primary, nothing_found.empty, nothing_found.total.precision) == (0.0, False, 0.0)
    only_spurious = score("span_f1", [["O"]], [["B-PER"]])
    assert (only_spurious.primary, only_spurious.empty, only_spurious.total.recall) == (0.0, False, 0.0)


def test_macro_is_over_types_in_gold_and_states_how_many():
    gold = [["B-PER", "O", "B-LOC"]]
    predicted = [["B-PER", "B-misc-work", "O"]]
    result = score("span_f1", gold, predicted, LABELS)
    assert (result.macro_f1, result.macro_types) == (0.5, 2)


def test_rows_follow_the_labels_and_unknown_types_come_last_sorted():
    result = score("span_f1", [["B-b", "O"]], [["B-PER", "B-a"]], LABELS)
    assert list(result.rows) == ["PER", "LOC", "misc-work", "a", "b"]


def test_accuracy_and_rows_by_tag():
    result = score("accuracy", [["DET", "NOUN"], ["VERB"]], [["DET", "VERB"], ["VERB"]], ("DET", "NOUN", "VERB", "X"))
    assert (result.correct, result.words, result.sentences) == (2, 3, 2)
    assert result.primary == pytest.approx(2 / 3)
    assert result.rows["VERB"] == Counts(tp=1, fp=1, fn=0)
    assert result.rows["X"].f1 is None
    assert result.confusion == {"DET": {"DET": 1}, "NOUN": {"VERB": 1}, "VERB": {"VERB": 1}}
    assert (result.macro_f1, result.macro_types) == (pytest.approx((1 + 0 + 2 / 3) / 3), 3)


def test_f1_of_one_label_is_scikit_learns():
    rng = random.Random(0)
    for _ in range(200):
        size, labels = rng.randrange(1, 12), "ab" if rng.random() < 0.5 else "abc"
        gold, predicted = ([rng.choice(labels) for _ in range(size)] for _ in range(2))
        (wanted,) = f1_score(gold, predicted, labels=["a"], average=None, zero_division=0)
        result = score("f1", [[it] for it in gold], [[it] for it in predicted], ("b", "a"), positive="a")
        assert result.primary == pytest.approx(wanted)


def test_f1_of_a_label_that_occurs_nowhere_is_zero():
    result = score("f1", [["b"]], [["b"]], ("b",), positive="a")
    assert (result.primary, result.total.f1, result.accuracy, result.empty) == (0.0, None, 1.0, False)
    assert result.to_json() | {"positive": "a", "metric": "f1", "f1": None} == result.to_json()
    assert "positive" not in score("macro_f1", [["b"]], [["b"]], ("b",)).to_json()


def test_part_of_speech_tags_have_no_span_f1():
    # seqeval reads NOUN as an entity of type OUN.
    with pytest.raises(MptError, match=r'sentence 1, word 1: gold tags are not valid BIO2: tag "NOUN"'):
        score("span_f1", [["NOUN"]], [["NOUN"]])


def test_ill_formed_predictions_are_refused():
    with pytest.raises(MptError, match=r'sentence 2, word 2: predicted tags are not valid BIO2: "I-PER" follows "O"'):
        score("span_f1", [["O"], ["O", "O"]], [["O"], ["O", "I-PER"]])


def test_truncated_predictions_are_refused_by_sentence():
    with pytest.raises(MptError) as caught:
        score("span_f1", [["O"] * 3, ["O"], ["O"] * 2], [["O"] * 2, ["O"], ["O"] * 3])
    assert [problem.split(".")[0] for problem in caught.value.problems] == [
        "sentence 1: 2 predicted tags for 3 words",
        "sentence 3: 3 predicted tags for 2 words",
    ]
    with pytest.raises(MptError, match="1 sentences were predicted, gold has 2"):
        score("accuracy", [["A"], ["A"]], [["A"]])


def test_many_problems_are_capped():
    with pytest.raises(MptError) as caught:
        score("accuracy", [["A"]] * 30, [[]] * 30)
    assert len(caught.value.problems) == 21
    assert caught.value.problems[-1] == "... and 10 more sentences"


def test_unknown_metric():
    with pytest.raises(
        MptError,
        match=r'metric "span-f1" is not one of span_f1, srl_f1, .*\. Did you mean "span_f1"\?',
    ):
        score("span-f1", [], [])


def test_json_holds_plain_values_and_reads_back():
    spans_result = score("span_f1", [["B-PER", "O"]], [["B-LOC", "O"]], LABELS)
    tags_result = score("accuracy", [["DET"]], [["NOUN"]])
    assert isinstance(spans_result, LabelScore) and spans_result.errors is not None
    assert isinstance(tags_result, LabelScore) and tags_result.errors is None
    for result in (spans_result, tags_result):
        written = json.loads(json.dumps(result.to_json(), allow_nan=False))
        assert (written["metric"], written["primary"]) == (result.metric, result.primary)
    assert spans_result.to_json()["errors"] == {"type": 1, "boundary": 0, "both": 0, "missed": 0, "spurious": 0}
    assert spans_result.to_json()["types"]["misc-work"]["f1"] is None


def test_scoring_every_evaluation_costs_little():
    sentence = ["O", "B-PER", "I-PER", "O", "O", "B-LOC", "O", "B-LOC", "O", "O"] * 2
    gold, predicted = [sentence] * 7_000, [[*sentence[1:], "O"]] * 7_000
    predicted = [["O" if tags[0][0] == "I" else tags[0], *tags[1:]] for tags in predicted]
    start = perf_counter()
    score("span_f1", gold, predicted)
    assert perf_counter() - start < 5
