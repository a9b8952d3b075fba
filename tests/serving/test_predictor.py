import json

import numpy as np
import pytest
from common.runs import WORDS

from mpt.base.errors import CheckpointError, DataError, MptError
from mpt.data.example import Sentence
from mpt.data.families.metrics import score
from mpt.data.formats.source import SourceFormat
from mpt.data.manifest.reading import load_manifest
from mpt.data.tags import check_tags
from mpt.data.tasks import load_tasks
from mpt.evaluation.evaluator import evaluate_task
from mpt.experiments.execution import encode_tasks
from mpt.serving.predictor import Predictor
from mpt.serving.saved import open_saved


@pytest.fixture(scope="module")
def saved(world):
    return open_saved(world.run)


@pytest.fixture(scope="module")
def places(saved):
    return Predictor(saved, "places")


def sentence(*words, path="x.txt"):
    return Sentence(words=words, tags=None, path=path, lines=tuple(range(1, len(words) + 1)))


def column(path, index):
    return [line.split()[index] for line in path.read_text().splitlines() if line.strip()]


def test_predictions_are_those_that_evaluation_scores(world, saved, places):
    (task,), _ = load_tasks(load_manifest(world.data / "mixture.yaml"), names=["places"], splits=("dev",))
    tags, notices = places.predict(task.splits["dev"])
    gold = [one.tags for one in task.splits["dev"]]
    (encoded,), _ = encode_tasks([task], saved.scorer.backbone)
    assert score("span_f1", gold, tags, task.labels) == evaluate_task(saved.scorer, encoded, "dev")
    assert notices == []


def test_one_valid_tag_for_every_word(places):
    rng = np.random.default_rng(0)
    words = [word for group in WORDS.values() for word in group.split()]
    sentences = [sentence(*rng.choice(words, size=n)) for n in (1, 2, 5, 9)]
    tags, _ = places.predict(sentences)
    assert [len(one) for one in tags] == [1, 2, 5, 9]
    for one in tags:
        assert list(check_tags(tuple(one), "iob2")) == []


def test_tags_do_not_depend_on_the_other_sentences(places):
    sentences = [sentence("Ada", "in", "Kiev"), sentence("Bob"), sentence(*["of"] * 20)]
    together, _ = places.predict(sentences)
    assert together == [places.predict([one])[0][0] for one in sentences]


def test_a_long_sentence_and_a_word_without_piece_are_tagged_with_a_notice(places):
    tags, notices = places.predict([sentence(*["Kiev"] * 30), sentence("Ada", "\u200b", "Bob")])
    assert [len(one) for one in tags] == [30, 3]
    assert len(notices) == 2
    assert "sentences longer than 62 word pieces, read in overlapping windows: 1 (first: x.txt:1" in notices[0]
    assert "words without a word piece, read as the unknown piece: 1 (first: x.txt:2 " in notices[1]


def test_nothing_to_tag(places):
    assert places.predict([]) == ([], [])


def test_a_task_must_be_known(saved):
    with pytest.raises(MptError, match=r'no head for task "place"'):
        Predictor(saved, "place")
    with pytest.raises(CheckpointError, match="Name one with --task"):
        Predictor(saved)


def test_a_column_file_comes_back_with_its_tags_replaced(world, places, tmp_path):
    source = world.data / "places" / "test.txt"
    count, _ = places.predict_file(source, places.source, tmp_path / "out.txt")
    assert count == 30
    assert column(tmp_path / "out.txt", 0) == column(source, 0)
    (task,), _ = load_tasks(load_manifest(world.data / "mixture.yaml"), names=["places"], splits=("test",))
    expected, _ = places.predict(task.splits["test"])
    assert column(tmp_path / "out.txt", 1) == [tag for one in expected for tag in one]
    assert [not line for line in source.read_text().splitlines()] == [
        not line for line in (tmp_path / "out.txt").read_text().splitlines()
    ]


def test_text_becomes_json_lines(places, tmp_path):
    (tmp_path / "in.txt").write_text("Ada in Kiev\n\nBob\n")
    source = SourceFormat(format="text", scheme="iob2")
    count, _ = places.predict_file(tmp_path / "in.txt", source, tmp_path / "out.jsonl")
    records = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert count == 2
    assert [record["words"] for record in records] == [["Ada", "in", "Kiev"], [], ["Bob"]], "a line for each line"
    first, last = places.predict([sentence("Ada", "in", "Kiev"), sentence("Bob")])[0]
    assert [record["tags"] for record in records] == [first, [], last]
    for record in records:
        for span in record["spans"]:
            assert record["text"][span["start"] : span["end"]].strip()


def test_json_lines_come_back_with_their_tags_replaced(places, tmp_path):
    lines = [{"id": 7, "tokens": ["Ada", "in"], "tags": ["O", "O"]}, {"id": 8, "tokens": ["Kiev"]}]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    source = SourceFormat(format="jsonl", scheme="iob2")
    places.predict_file(tmp_path / "in.jsonl", source, tmp_path / "out.jsonl")
    records = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    tags = places.predict([sentence("Ada", "in"), sentence("Kiev")])[0]
    assert records == [{**line, "tags": one} for line, one in zip(lines, tags, strict=True)]


def test_gold_tags_are_not_read(places, tmp_path):
    """A file to be tagged may hold anything where its tags are."""
    (tmp_path / "in.txt").write_text("Ada ???\nin I-NOWHERE\n")
    places.predict_file(tmp_path / "in.txt", places.source, tmp_path / "out.txt")
    assert column(tmp_path / "out.txt", 1) == places.predict([sentence("Ada", "in")])[0][0]


def test_a_missing_file_is_told(places, tmp_path):
    with pytest.raises(DataError, match=r"gone\.txt"):
        places.predict_file(tmp_path / "gone.txt", places.source, tmp_path / "out.txt")
    assert not (tmp_path / "out.txt").exists()


def test_a_place_that_cannot_be_written_is_told(places, tmp_path):
    (tmp_path / "in.txt").write_text("Ada O\n")
    with pytest.raises(DataError, match="nowhere"):
        places.predict_file(tmp_path / "in.txt", places.source, tmp_path / "nowhere" / "out.txt")
