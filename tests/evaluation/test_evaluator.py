from dataclasses import replace

import numpy as np
import pytest
import torch
from common.runs import make_parts

from mpt.data.batch import collate
from mpt.data.encoded import encode_task
from mpt.data.sentence import Sentence
from mpt.data.tokenization import encode
from mpt.evaluation import evaluator
from mpt.evaluation.decode import decode_many
from mpt.evaluation.evaluator import evaluate_task, evaluate_tasks, predict_split, word_scores
from mpt.evaluation.metrics import score


@pytest.fixture(scope="module")
def parts(world):
    return make_parts(world)


def long_task(parts, words=40):
    """The places task with one sentence of several windows among short ones in dev."""
    task = parts.loaded[1]
    names = ("Ada", "Kiev", "in", "Bob")
    long = Sentence(
        words=tuple(names[i % 4] for i in range(words)),
        tags=tuple(("B-PER", "B-LOC", "O", "B-PER")[i % 4] for i in range(words)),
        path="long.txt",
        lines=tuple(range(1, words + 1)),
    )
    dev = task.splits["dev"]
    encoded, _ = encode_task(
        replace(task, splits={**task.splits, "dev": (*dev[:3], long, *dev[3:6])}), parts.tagger.backbone.word_pieces
    )
    assert len(encoded.splits["dev"]) > 7
    return encoded


def test_every_word_of_every_sentence_has_one_row_of_scores(parts):
    encoded = long_task(parts)
    scores = word_scores(parts.tagger, "places", encoded.splits["dev"], np.arange(7))
    lengths = [len(sentence.words) for sentence in parts.loaded[1].splits["dev"][:6]]
    assert [len(one) for one in scores] == [*lengths[:3], 40, *lengths[3:]]
    assert all(one.shape[1] == len(parts.tagger.head("places").labels) for one in scores)


def test_scores_are_those_of_every_window_by_itself(parts):
    encoded = long_task(parts)
    split = encoded.splits["dev"]
    scores = np.concatenate(word_scores(parts.tagger, "places", split, np.arange(7)))
    alone = []
    with torch.inference_mode():
        for window in range(len(split)):
            alone.append(parts.tagger("places", collate(split, np.array([window]), pad=0)).numpy())
    np.testing.assert_allclose(scores, np.concatenate(alone), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("tokens", [64, 200, 4096])
def test_the_size_of_a_batch_changes_no_tag(parts, tokens, monkeypatch):
    encoded = long_task(parts)
    monkeypatch.setattr(evaluator, "TOKENS", tokens)
    tags = predict_split(parts.tagger, "places", encoded.splits["dev"], span_task=True)
    monkeypatch.undo()
    assert tags == predict_split(parts.tagger, "places", encoded.splits["dev"], span_task=True)


def test_some_sentences_in_any_order(parts):
    split = parts.tasks[1].splits["dev"]
    whole = predict_split(parts.tagger, "places", split, span_task=True)
    some = predict_split(parts.tagger, "places", split, span_task=True, sentences=np.array([5, 0, 17]))
    assert some == [whole[5], whole[0], whole[17]]


def test_nothing_to_tag_gives_nothing(parts):
    split, _ = encode([], parts.tagger.backbone.word_pieces, None)
    assert predict_split(parts.tagger, "places", split, span_task=True) == []


def test_a_score_is_gold_against_decoded_tags(parts):
    encoded = parts.tasks[1]
    split, gold = encoded.splits["dev"], parts.loaded[1].splits["dev"]
    scores = word_scores(parts.tagger, "places", split, np.arange(len(gold)))
    tags = decode_many(scores, encoded.task.labels, True)
    expected = score("span_f1", [sentence.tags for sentence in gold], tags, encoded.task.labels)
    assert evaluate_task(parts.tagger, encoded, "dev") == expected


def test_words_with_a_tag_each_are_scored_by_accuracy(parts):
    encoded = parts.tasks[2]
    tags = predict_split(parts.tagger, "words", encoded.splits["dev"], span_task=False)
    gold = [sentence.tags for sentence in parts.loaded[2].splits["dev"]]
    right = sum(g == t for one, other in zip(gold, tags, strict=True) for g, t in zip(one, other, strict=True))
    found = evaluate_task(parts.tagger, encoded, "dev")
    assert found.metric == "accuracy"
    assert found.primary == pytest.approx(right / sum(map(len, gold)))


def test_a_long_sentence_counts_whole(parts):
    encoded = long_task(parts)
    found = evaluate_task(parts.tagger, encoded, "dev")
    words = 40 + sum(len(sentence.words) for sentence in parts.loaded[1].splits["dev"][:6])
    assert (found.sentences, found.words) == (7, words)


def test_a_limit_scores_a_fixed_sample(parts):
    encoded = parts.tasks[1]
    sample = evaluate_task(parts.tagger, encoded, "dev", limit=10)
    assert sample.sentences == 10
    assert evaluate_task(parts.tagger, encoded, "dev", limit=10) == sample
    assert sample.words != sum(len(sentence.words) for sentence in parts.loaded[1].splits["dev"][:10]), (
        "not the first ten"
    )
    whole = evaluate_task(parts.tagger, encoded, "dev")
    assert evaluate_task(parts.tagger, encoded, "dev", limit=30) == whole
    assert evaluate_task(parts.tagger, encoded, "dev", limit=999) == whole


def test_all_tasks_by_name(parts):
    scores = evaluate_tasks(parts.tagger, parts.tasks, "dev", limit=5)
    assert list(scores) == ["people", "places", "words"]
    assert all(scores[one.task.name] == evaluate_task(parts.tagger, one, "dev", limit=5) for one in parts.tasks)


def test_evaluation_is_without_dropout_and_leaves_no_gradient(world):
    parts = make_parts(world, dropout=0.5)
    split = parts.tasks[0].splits["dev"]
    one, other = (np.concatenate(word_scores(parts.tagger, "people", split, np.arange(30))) for _ in range(2))
    np.testing.assert_array_equal(one, other)
    assert all(parameter.grad is None for parameter in parts.tagger.parameters())
