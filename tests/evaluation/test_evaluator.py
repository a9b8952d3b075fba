from dataclasses import replace
from threading import get_ident
from time import sleep

import numpy as np
import pytest
import torch
from common.runs import make_parts

from mpt.data.encoded import encode_task
from mpt.data.example import Sentence
from mpt.data.families.decode import decode_many
from mpt.data.families.metrics import score
from mpt.data.families.of_task import family_of
from mpt.data.families.tokenization import encode
from mpt.data.order.batch import collate
from mpt.evaluation import scoring
from mpt.evaluation.evaluator import evaluate_task, evaluate_tasks, predict_split, word_scores
from mpt.evaluation.scoring import batch_tokens
from mpt.model.backbone.backbone import load_backbone
from mpt.model.scorer import Scorer


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
        replace(task, splits={**task.splits, "dev": (*dev[:3], long, *dev[3:6])}), parts.scorer.backbone.word_pieces
    )
    assert len(encoded.splits["dev"]) > 7
    return encoded


def test_every_word_of_every_sentence_has_one_row_of_scores(parts):
    encoded = long_task(parts)
    scores = word_scores(parts.scorer, "places", encoded.splits["dev"], np.arange(7))
    lengths = [len(sentence.words) for sentence in parts.loaded[1].splits["dev"][:6]]
    assert [len(one) for one in scores] == [*lengths[:3], 40, *lengths[3:]]
    assert all(one.shape[1] == len(parts.scorer.head("places").labels) for one in scores)


def scores_alone(scorer, split):
    """Scores of every word, each window in a batch of its own."""
    with torch.inference_mode():
        return np.concatenate(
            [scorer(collate(split, np.array([i]), pad=0, tasks=("places",)))[0].numpy() for i in range(len(split))]
        )


def bfloat16(parts):
    """The same prompts and heads over the backbone in bfloat16."""
    backbone = load_backbone(parts.scorer.backbone.identity.reference, dtype="bfloat16")
    return Scorer(backbone, parts.scorer.state, parts.scorer.heads())


@pytest.fixture
def threads():
    """Sets the threads that torch has, until the end of the test."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.mark.parametrize("tokens", [16, 64, 200, 4096])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_scores_are_those_of_every_window_by_itself(parts, tokens, dtype, monkeypatch):
    split, scorer = long_task(parts).splits["dev"], parts.scorer if dtype == "float32" else bfloat16(parts)
    monkeypatch.setattr(scoring, "CPU_TOKENS", tokens)
    scores = np.concatenate(word_scores(scorer, "places", split, np.arange(7)))
    # bfloat16 has 8 bits, and what is summed in another order differs in the last of them in every layer.
    tolerance = 1e-4 if dtype == "float32" else 2**-5
    alone = scores_alone(scorer, split)
    np.testing.assert_allclose(scores, alone, rtol=tolerance, atol=tolerance * np.abs(alone).max())


def test_a_window_longer_than_a_batch_is_one_by_itself(parts, monkeypatch):
    split, seen = long_task(parts).splits["dev"], []
    monkeypatch.setattr(scoring, "CPU_TOKENS", 50)
    monkeypatch.setattr(scoring, "collate", lambda split, rows, **how: seen.append(rows) or collate(split, rows, **how))
    word_scores(parts.scorer, "places", split, np.arange(7))
    longer = [rows for rows in seen if split.window_pieces[rows].max() > 50]
    assert longer and all(len(rows) == 1 for rows in longer)
    assert any(len(rows) > 1 for rows in seen)
    assert sorted(np.concatenate(seen).tolist()) == list(range(len(split)))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_number_of_threads_changes_no_bit(parts, dtype, threads, monkeypatch):
    split, scorer = long_task(parts).splits["dev"], parts.scorer if dtype == "float32" else bfloat16(parts)
    used = set()
    monkeypatch.setattr(scoring, "CPU_TOKENS", 64)
    monkeypatch.setattr(
        scoring, "collate", lambda *args, **pad: used.add(get_ident()) or sleep(0.01) or collate(*args, **pad)
    )
    found = []
    for count in (1, 3):
        used.clear()
        threads(count)
        found.append(np.concatenate(word_scores(scorer, "places", split, np.arange(7))))
        assert len(used) == count
    np.testing.assert_array_equal(*found)


@pytest.mark.parametrize(("device", "tokens"), [("cpu", scoring.CPU_TOKENS), ("cuda", scoring.GPU_TOKENS)])
def test_a_batch_has_the_size_of_the_device(device, tokens):
    assert batch_tokens(torch.device(device)) == tokens


@pytest.mark.parametrize("tokens", [64, 200, 4096])
def test_the_size_of_a_batch_changes_no_tag(parts, tokens, monkeypatch):
    encoded = long_task(parts)
    monkeypatch.setattr(scoring, "CPU_TOKENS", tokens)
    tags = predict_split(parts.scorer, "places", encoded.splits["dev"], family=family_of(parts.loaded[1].spec))
    monkeypatch.undo()
    assert tags == predict_split(parts.scorer, "places", encoded.splits["dev"], family=family_of(parts.loaded[1].spec))


def test_some_sentences_in_any_order(parts):
    split = parts.tasks[1].splits["dev"]
    family = family_of(parts.loaded[1].spec)
    whole = predict_split(parts.scorer, "places", split, family=family)
    some = predict_split(parts.scorer, "places", split, family=family, examples=np.array([5, 0, 17]))
    assert some == [whole[5], whole[0], whole[17]]


def test_nothing_to_tag_gives_nothing(parts):
    split, _ = encode([], parts.scorer.backbone.word_pieces, None)
    assert predict_split(parts.scorer, "places", split, family=family_of(parts.loaded[1].spec)) == []


def test_a_score_is_gold_against_decoded_tags(parts):
    encoded = parts.tasks[1]
    split, gold = encoded.splits["dev"], parts.loaded[1].splits["dev"]
    scores = word_scores(parts.scorer, "places", split, np.arange(len(gold)))
    tags = decode_many(scores, encoded.task.labels, True)
    expected = score("span_f1", [sentence.tags for sentence in gold], tags, encoded.task.labels)
    assert evaluate_task(parts.scorer, encoded, "dev") == expected


def test_words_with_a_tag_each_are_scored_by_accuracy(parts):
    encoded = parts.tasks[2]
    tags = predict_split(parts.scorer, "words", encoded.splits["dev"], family=family_of(parts.loaded[2].spec))
    gold = [sentence.tags for sentence in parts.loaded[2].splits["dev"]]
    right = sum(g == t for one, other in zip(gold, tags, strict=True) for g, t in zip(one, other, strict=True))
    found = evaluate_task(parts.scorer, encoded, "dev")
    assert found.metric == "accuracy"
    assert found.primary == pytest.approx(right / sum(map(len, gold)))


def test_a_long_sentence_counts_whole(parts):
    encoded = long_task(parts)
    found = evaluate_task(parts.scorer, encoded, "dev")
    words = 40 + sum(len(sentence.words) for sentence in parts.loaded[1].splits["dev"][:6])
    assert (found.sentences, found.words) == (7, words)


def test_a_limit_scores_a_fixed_sample(parts):
    encoded = parts.tasks[1]
    sample = evaluate_task(parts.scorer, encoded, "dev", limit=10)
    assert sample.sentences == 10
    assert evaluate_task(parts.scorer, encoded, "dev", limit=10) == sample
    assert sample.words != sum(len(sentence.words) for sentence in parts.loaded[1].splits["dev"][:10]), (
        "not the first ten"
    )
    whole = evaluate_task(parts.scorer, encoded, "dev")
    assert evaluate_task(parts.scorer, encoded, "dev", limit=30) == whole
    assert evaluate_task(parts.scorer, encoded, "dev", limit=999) == whole


def test_all_tasks_by_name(parts):
    scores = evaluate_tasks(parts.scorer, parts.tasks, "dev", limit=5)
    assert list(scores) == ["people", "places", "words"]
    assert all(scores[one.task.name] == evaluate_task(parts.scorer, one, "dev", limit=5) for one in parts.tasks)


def test_evaluation_is_without_dropout_and_leaves_no_gradient(world):
    parts = make_parts(world, dropout=0.5)
    split = parts.tasks[0].splits["dev"]
    one, other = (np.concatenate(word_scores(parts.scorer, "people", split, np.arange(30))) for _ in range(2))
    np.testing.assert_array_equal(one, other)
    assert all(parameter.grad is None for parameter in parts.scorer.parameters())
