"""The mixture is of the size asked for, and a second start over it holds next to nothing."""

import sys

import numpy as np
import pytest
from common.backbones import tiny_backbone

from mixture import LONGEST, SHORTEST, write_mixture
from mpt.data.manifest.reading import load_manifest
from mpt.data.tasks import load_tasks
from start import start


@pytest.fixture
def manifest(tmp_path):
    return write_mixture(tmp_path, tasks=2, sentences=300)


def test_a_mixture_has_as_many_sentences_as_asked_for(manifest):
    tasks, notices = load_tasks(load_manifest(manifest))
    assert [len(task.splits["train"]) for task in tasks] == [150, 150] and notices == []
    lengths = np.array([len(sentence.words) for task in tasks for sentence in task.splits["train"]])
    assert lengths.min() >= SHORTEST and lengths.max() <= LONGEST
    tags = [tag for task in tasks for sentence in task.splits["train"] for tag in sentence.tags]
    assert 0.07 < tags.count("B-thing") / len(tags) < 0.13


def test_the_same_mixture_is_written_twice(manifest, tmp_path):
    (tmp_path / "again").mkdir()
    again = write_mixture(tmp_path / "again", tasks=2, sentences=300)
    for path in manifest.parent.glob("*.tsv"):
        assert path.read_bytes() == (again.parent / path.name).read_bytes()


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_a_start_is_measured(manifest, tmp_path, monkeypatch):
    monkeypatch.setenv("MPT_CACHE", str(tmp_path / "cache"))
    backbone = tiny_backbone(tmp_path / "backbone", "bert", max_position_embeddings=512)
    first, second = (start(manifest, str(backbone)) for _ in range(2))
    assert first["sentences"] == second["sentences"] == 302
    assert first["words"] == second["words"] > 302 * SHORTEST
    assert 0 < second["text_seconds"] < first["text_seconds"]
    assert len(list((tmp_path / "cache" / "text").iterdir())) == 2
