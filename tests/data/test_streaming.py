"""Streamed tasks hold what the same files hold in one piece, an example once an epoch, and little of it at a time."""

import json

import numpy as np
import pytest
from common.runs import sentences
from hypothesis import given, settings
from hypothesis import strategies as st

from mpt.base.errors import DataError, ManifestError
from mpt.data.cache import read_tasks, text_cache
from mpt.data.encoded import OPEN, ShardSize
from mpt.data.manifest.reading import load_manifest
from mpt.data.order.plan import Plan, StreamOrder, StreamSize

SHARDS = 5


def entity(kind):
    return "O" if kind == "O" else f"B-{kind}"


def spec(**changes):
    fields = {
        "family": "ner",
        "files": {"train": "train-*.txt", "dev": "dev.txt"},
        "columns": {"word": 0, "tag": 1},
        "scheme": "iob2",
        "labels": ["PER", "LOC"],
        "streamed": True,
    }
    return {name: value for name, value in {**fields, **changes}.items() if value is not None}


def write(folder, **changes):
    manifest = folder / "manifest.yaml"
    manifest.write_text(json.dumps({"version": 1, "name": "streams", "tasks": {"people": spec(**changes)}}))
    return load_manifest(manifest)


@pytest.fixture
def folder(tmp_path):
    for number in range(SHARDS):
        (tmp_path / f"train-{number}.txt").write_text(sentences(4 + 3 * number, ["PER", "LOC"], entity, number))
    (tmp_path / "dev.txt").write_text(sentences(5, ["PER"], entity, "dev"))
    return tmp_path


@pytest.fixture
def word_pieces(load):
    return load("bert").word_pieces


@pytest.fixture(params=[True, False], ids=["kept", "not kept"])
def opened(request, folder, word_pieces):
    kept = text_cache(folder / "cache", 2**30) if request.param else None

    def read(**changes):
        (task,), notices = read_tasks(write(folder, **changes), word_pieces, kept=kept)
        return task, notices

    return read


def size(lengths):
    values, counts = np.unique(lengths, return_counts=True)
    return ShardSize(units=len(lengths), pieces=sum(lengths), words=sum(lengths), lengths=values, counts=counts)


def stream(shards, read=None, rate=1.0):
    found = [(np.array(lengths), np.array(lengths)) for lengths in shards]
    return StreamSize(name="t", rate=rate, shards=[size(lengths) for lengths in shards], read=read or found.__getitem__)


SIZES = st.lists(st.lists(st.integers(1, 40), min_size=1, max_size=30), min_size=1, max_size=6)


@given(SIZES, st.integers(0, 5), st.integers(4, 200))
def test_an_epoch_has_every_window_once_shard_after_shard(shards, seed, tokens):
    order = StreamOrder(stream(shards), seed=seed, tokens=tokens)
    lengths, owner = np.concatenate(shards), np.repeat(range(len(shards)), [len(them) for them in shards])
    number = 0
    for epoch in range(3):
        seen, visited = [], []
        while len(seen) < len(lengths):
            windows = order.batch(number)
            assert len(windows) == 1 or len(windows) * lengths[windows].max() <= tokens
            assert order.words_of(windows) == lengths[windows].sum()
            (shard,) = set(owner[windows].tolist())
            visited += [shard] if visited[-1:] != [shard] else []
            seen += windows.tolist()
            number += 1
        assert sorted(seen) == list(range(len(lengths)))
        assert sorted(visited) == list(range(len(shards)))
        assert order.epochs(number) == epoch + 1


@settings(max_examples=30)
@given(SIZES, st.permutations(range(40)))
def test_any_micro_batch_can_be_asked_for(shards, numbers):
    forwards = StreamOrder(stream(shards), seed=1, tokens=60)
    expected = [forwards.batch(number).tolist() for number in range(40)]
    asked = StreamOrder(stream(shards), seed=1, tokens=60)
    assert {number: asked.batch(number).tolist() for number in numbers} == dict(enumerate(expected))


def test_orders_differ_between_epochs_and_seeds():
    shards = [[8] * 12] * 8
    orders = [StreamOrder(stream(shards), seed=seed, tokens=32) for seed in (0, 1)]
    epochs = [str([order.batch(24 * epoch + i).tolist() for i in range(24)]) for order in orders for epoch in range(2)]
    assert len(set(epochs)) == 4


def test_an_epoch_of_one_large_file_is_whole_and_new():
    lengths = (np.arange(4000) * 7919 % 23 + 4).tolist()  # as many as eight pools of an ordinary task
    order = StreamOrder(stream([lengths]), seed=0, tokens=96)
    numbers = range(round(1 / order.epochs(1)))
    epochs = [[order.batch(epoch * len(numbers) + number).tolist() for number in numbers] for epoch in range(2)]
    assert all(sorted(np.concatenate(epoch).tolist()) == list(range(4000)) for epoch in epochs)
    assert epochs[0] != epochs[1]


def test_a_far_step_reads_the_shards_it_needs():
    asked = []
    lengths = [[10] * 20] * 1000

    def read(shard):
        asked.append(shard)
        return np.array(lengths[shard]), np.array(lengths[shard])

    plan = Plan([stream(lengths, read)], seed=0, tokens=100, micro_batches=2)
    assert asked == []
    plan.step(10**6)
    assert len(asked) == 1


def test_a_stream_holds_what_the_files_hold_in_one_piece(opened, word_pieces):
    streamed, _ = opened()
    whole, _ = opened(streamed=False)
    train = whole.splits["train"]
    assert set(streamed.splits) == {"dev"} and len(streamed.splits["dev"].places) == 5
    assert streamed.task.labels == whole.task.labels and dict(streamed.task.digests) == dict(whole.task.digests)
    assert (streamed.train_pieces, streamed.train_words) == (whole.train_pieces, whole.train_words)
    assert streamed.shards.starts[-1] == len(train)
    for window in range(len(train)):
        part, (own,) = streamed.part("train", np.array([window]))
        for name, starts in (("pieces", "piece_starts"), ("labels", "word_starts"), ("positions", "word_starts")):
            theirs = getattr(train, name)[slice(*getattr(train, starts)[window : window + 2])]
            ours = getattr(part, name)[slice(*getattr(part, starts)[own : own + 2])]
            assert ours.tolist() == theirs.tolist()
        assert streamed.places("train", [window]) == whole.places("train", [window])


def test_few_shards_are_held(opened, monkeypatch):
    task, _ = opened()
    for window in range(task.shards.starts[-1]):
        task.part("train", np.array([window]))
    assert task.shards.open.cache_info().currsize <= OPEN < SHARDS
    assert task.shards.open.cache_info().misses == SHARDS


def test_a_file_that_changes_meanwhile_is_refused(opened, folder):
    task, _ = opened()
    (folder / "train-3.txt").write_text("Ada B-PER\n")
    with pytest.raises(DataError, match=r"train-3.txt: the file has changed since the run began"):
        task.part("train", task.shards.starts[3:4])


def test_problems_of_all_shards_are_told(opened, folder):
    (folder / "train-1.txt").write_text("Ada B-PER\nBob B-ORG\n")
    (folder / "train-4.txt").write_text("Ada\n")
    with pytest.raises(DataError) as caught:
        opened()
    assert 'train-1.txt:2: label "ORG"' in str(caught.value) and "train-4.txt:1" in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"labels": None}, "labels"),
        ({"files": {"train": "train-*.txt"}, "dev_fraction": 0.1}, "dev_fraction"),
        ({"test_fraction": 0.1}, "test_fraction"),
        ({"max_examples": 5}, "max_examples"),
    ],
)
def test_what_needs_all_of_train_is_refused(folder, changes, field):
    with pytest.raises(ManifestError, match=rf"tasks\.people\.{field}"):
        write(folder, **changes)
