from contextlib import contextmanager
from types import SimpleNamespace

import pytest

from mpt.config import BackboneSettings
from mpt.data.manifest import load_manifest
from mpt.errors import DataError
from mpt.model.backbone import load_backbone
from mpt.stages.inputs import open_tasks


class Launch(SimpleNamespace):
    """A launch that notes when rank 0 lets the others go on."""

    @contextmanager
    def main_process_first(self):
        yield
        self.released = True


def opened(world, **settings):
    launch = Launch(released=False)
    manifest, backbone = load_manifest(world.data / "mixture.yaml"), load_backbone(str(world.backbone))
    try:
        return open_tasks(manifest, ["people", "words"], backbone, BackboneSettings(**settings), launch)
    finally:
        assert launch.released, "no rank may wait for one that has failed"


@pytest.mark.parametrize("gib", [0.0, 1.0])
def test_tasks_of_a_mixture(world, gib, tmp_path, monkeypatch):
    monkeypatch.setenv("MPT_CACHE", str(tmp_path / "cache"))
    tasks, notices = opened(world, text_cache_gib=gib)
    assert [task.task.name for task in tasks] == ["people", "words"] and notices == []
    assert [list(task.splits) for task in tasks] == [["train", "dev"]] * 2
    assert (tmp_path / "cache" / "text").is_dir() == bool(gib)


def test_a_problem_leaves_no_rank_waiting(own_world):
    (own_world.data / "people" / "train.txt").write_text("Ada\n")
    with pytest.raises(DataError, match=r"train\.txt:1"):
        opened(own_world)
