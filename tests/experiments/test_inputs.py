from types import SimpleNamespace

import pytest
from common.ranks import run_ranks

from mpt.base.errors import DataError
from mpt.base.settings import BackboneSettings
from mpt.data.manifest.reading import load_manifest
from mpt.experiments.inputs import open_tasks
from mpt.model.backbone.backbone import load_backbone


def opened(world, launch=None, **settings):
    launch = launch or SimpleNamespace(num_processes=1, is_local_main_process=True)
    manifest, backbone = load_manifest(world.data / "mixture.yaml"), load_backbone(str(world.backbone))
    return open_tasks(manifest, ["people", "words"], backbone, BackboneSettings(**settings), launch)


def open_on_a_rank(rank, world):
    from accelerate import Accelerator

    opened(world, Accelerator(cpu=True))


@pytest.mark.parametrize("gib", [0.0, 1.0])
def test_tasks_of_a_mixture(world, gib, tmp_path, monkeypatch):
    monkeypatch.setenv("MPT_CACHE", str(tmp_path / "cache"))
    tasks, notices = opened(world, text_cache_gib=gib)
    assert [task.task.name for task in tasks] == ["people", "words"] and notices == []
    assert [list(task.splits) for task in tasks] == [["train", "dev"]] * 2
    assert (tmp_path / "cache" / "text").is_dir() == bool(gib)


def test_a_problem_leaves_no_rank_waiting(own_world, tmp_path):
    (own_world.data / "people" / "train.txt").write_text("Ada\n")
    with pytest.raises(DataError, match=r"train\.txt:1"):
        opened(own_world)
    ranks = run_ranks(2, tmp_path / "out", open_on_a_rank, own_world, status=2)
    told, silent = ranks.errors()
    assert "train.txt:1" in told and silent == ""
