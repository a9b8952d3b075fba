from pathlib import Path

import pytest

from mpt.base.errors import DataError
from mpt.data.formats.source import SourceFormat
from mpt.data.formats.tables import read_hub, read_rows
from mpt.data.manifest.reading import load_manifest
from mpt.data.manifest.task_spec import HubSource
from mpt.data.tasks import load_tasks

REVISION = "0123456789abcdef0123456789abcdef01234567"
HUB = HubSource(path="owner/name", revision=REVISION, dev="validation")
BIO = SourceFormat(format="jsonl", scheme="iob2")
NAMES = ["O", "B-PER", "I-PER"]


@pytest.fixture
def hub(monkeypatch):
    """A Hub that holds one data set with class numbers; notes what it is asked for."""
    import datasets

    features = datasets.Features(
        {
            "tokens": datasets.List(datasets.Value("string")),
            "tags": datasets.List(datasets.ClassLabel(names=NAMES)),
            "plain": datasets.List(datasets.Value("string")),
        }
    )
    rows = {
        "train": {"tokens": [["Ada", "Li", "sat"], []], "tags": [[1, 2, 0], []], "plain": [["B-A", "I-A", "O"], []]},
        "validation": {"tokens": [["Bo"]], "tags": [[1]], "plain": [["B-A"]]},
    }
    asked = []

    def load(path, config, *, split, revision):
        asked.append((path, config, split, revision))
        if split not in rows:
            raise ValueError(f"Unknown split {split}.\nmore text")
        return datasets.Dataset.from_dict(rows[split], features=features)

    monkeypatch.setattr(datasets, "load_dataset", load)
    return asked


def test_class_numbers_become_tags(hub):
    (sentence,) = read_hub(HUB, "train", BIO)
    assert (sentence.words, sentence.tags) == (("Ada", "Li", "sat"), ("B-PER", "I-PER", "O"))
    assert sentence.where == "owner/name@0123456789ab/train:1"
    assert hub == [("owner/name", None, "train", REVISION)]


def test_text_tags_are_taken_as_they_are(hub):
    (sentence,) = read_hub(HUB, "train", SourceFormat(format="jsonl", scheme="iob2", tags_field="plain"))
    assert sentence.tags == ("B-A", "I-A", "O")


def test_a_missing_column_or_split_is_explained(hub):
    with pytest.raises(DataError, match=r'train: no column "token". It has: .*. Did you mean "tokens"\?'):
        read_hub(HUB, "train", SourceFormat(format="jsonl", scheme="iob2", words_field="token"))
    with pytest.raises(DataError) as caught:
        read_hub(HubSource(path="owner/name", revision=REVISION, dev="valid"), "dev", BIO)
    assert str(caught.value) == (
        "owner/name@0123456789ab/valid: cannot be loaded from the Hub: Unknown split valid. "
        "Check hub: path, config and splits, and the network; or download it and give files."
    )


def test_a_hub_task_loads_like_any_other(hub, tmp_path):
    path = tmp_path / "m.yaml"
    path.write_text(
        "version: 1\nname: demo\ntasks:\n  t:\n    family: ner\n    format: hub\n    scheme: iob2\n"
        f"    hub: {{path: owner/name, revision: {REVISION}, dev: validation}}\n    label_map: {{PER: person}}\n"
    )
    (task,), notices = load_tasks(load_manifest(path), splits=("train", "dev", "test"))
    assert task.labels == ("O", "B-person", "I-person")
    assert {split: len(sentences) for split, sentences in task.splits.items()} == {"train": 1, "dev": 1}
    assert (task.digests, notices) == ({}, [])


@pytest.mark.parametrize(
    ("row", "names", "problem"),
    [
        ({"tokens": "a b", "tags": ["O"]}, None, "the columns of words and tags must hold lists"),
        ({"tokens": ["a"], "tags": ["O", "O"]}, None, "1 words, but 2 tags"),
        ({"tokens": ["a", ""], "tags": ["O", "O"]}, None, "every word must be text and not empty"),
        ({"tokens": ["a", None], "tags": ["O", "O"]}, None, "every word must be text and not empty"),
        ({"tokens": ["a"], "tags": [1]}, None, "tags are numbers without names"),
        ({"tokens": ["a"], "tags": [-1]}, NAMES, "a tag is outside the 3 classes (unlabelled splits often hold -1)"),
        ({"tokens": ["a", "b"], "tags": ["O", "I-X"]}, None, "word 2: "),
    ],
)
def test_every_wrong_row_is_named(row, names, problem):
    good = {"tokens": ["a"], "tags": ["O"] if names is None else [0]}
    with pytest.raises(DataError) as caught:
        read_rows([good, row, row], Path("here"), BIO, names=names)
    assert [it.split(": ", 1)[0] for it in caught.value.problems] == ["here:2", "here:3"]
    assert problem in caught.value.problems[0]


def test_repair_applies_to_rows():
    rows = [{"tokens": ["a", "b"], "tags": ["O", "I-X"]}]
    source = SourceFormat(format="jsonl", scheme="iob2", repair="begin")
    assert read_rows(rows, Path("here"), source, names=None)[0].tags == ("O", "B-X")


def test_a_split_without_sentences_is_an_error():
    with pytest.raises(DataError, match="here: no sentence in this split"):
        read_rows([{"tokens": [], "tags": []}], Path("here"), BIO, names=None)
