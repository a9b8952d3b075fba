import pytest

from mpt.base.errors import DataError
from mpt.data.encoded import encode_task
from mpt.data.example import Sentence
from mpt.data.manifest.format_specs import task_spec
from mpt.data.tasks import Task

SPEC = {
    "family": "ner",
    "files": {"train": "train.txt", "dev": "dev.txt"},
    "columns": {"word": 0, "tag": 1},
    "scheme": "iob2",
}


def sentence(*words, tag="O", path="train.txt", line=1):
    lines = tuple(range(line, line + len(words)))
    return Sentence(words=words, tags=(tag,) * len(words), path=path, lines=lines)


def task(splits, **spec):
    return Task(
        name="news",
        labels=("O", "B-X", "I-X"),
        splits=splits,
        digests={},
        spec=task_spec(SPEC | spec),
    )


@pytest.fixture
def bert(load):
    return load("bert").word_pieces


def test_every_split_is_encoded_with_the_labels_of_the_task(bert):
    train = (sentence("low", "river"), sentence("new", tag="B-X", line=4))
    dev = (sentence("the", path="dev.txt", tag="I-X"),)
    encoded, notices = encode_task(task({"train": train, "dev": dev}), bert)
    assert list(encoded.splits) == ["train", "dev"] and notices == []
    assert encoded.splits["train"].labels.tolist() == [0, 0, 1]
    assert encoded.splits["dev"].labels.tolist() == [2]
    assert encoded.gold("dev", [0]) == [("I-X",)]
    assert encoded.gold("train", [1, 0]) == [("B-X",), ("O", "O")]
    assert encoded.task.splits == {}, "the sentences themselves are let go"


def test_places_name_the_sentence_of_a_window(bert):
    train = (sentence("low"), sentence(*["new"] * 100, line=3), sentence("the", line=104))
    encoded, _ = encode_task(task({"train": train}), bert)
    windows = len(encoded.splits["train"])
    assert windows > 3
    places = encoded.places("train", list(range(windows)))
    assert places == ["train.txt:1", *["train.txt:3"] * (windows - 2), "train.txt:104"]


def test_notices_name_task_and_split(bert):
    splits = {"train": (sentence("low"),), "dev": (sentence("\u200b", path="dev.txt"),)}
    _, notices = encode_task(task(splits), bert)
    assert [notice.partition(":")[0] for notice in notices] == ['task "news" dev']


@pytest.mark.parametrize(("policy", "words"), [({"long": "error"}, ["low"] * 100), ({"no_piece": "error"}, ["\u200b"])])
def test_policies_of_the_task_are_enforced(bert, policy, words):
    splits = {"train": (sentence(*words, line=6),)}
    encode_task(task(splits), bert)
    with pytest.raises(DataError, match=r"train\.txt:6"):
        encode_task(task(splits, **policy), bert)
