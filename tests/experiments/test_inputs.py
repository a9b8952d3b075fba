from dataclasses import replace
from types import SimpleNamespace

import pytest
from common.ranks import run_ranks
from common.runs import make_parts

from mpt.base.errors import DataError
from mpt.base.settings import BackboneSettings
from mpt.data.manifest.reading import load_manifest
from mpt.experiments import execution
from mpt.experiments.execution import encode_tasks, open_backbone, open_tasks
from mpt.model.backbone.backbone import load_backbone
from mpt.training.launch import build_accelerator


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


def test_opening_a_backbone_probes_it(world, tmp_path, monkeypatch):
    probed = []
    monkeypatch.setattr(execution, "probe", probed.append)
    accelerator = build_accelerator(tmp_path, [])
    backbone = open_backbone(BackboneSettings(reference=str(world.backbone)), prompt_length=3, accelerator=accelerator)
    assert probed == [backbone]


def test_problems_of_all_tasks_are_raised_at_once(world):
    parts = make_parts(world)
    strict = [replace(one, spec=one.spec.model_copy(update={"long": "error"})) for one in parts.loaded[:2]]
    for task in strict:
        long = replace(task.splits["train"][0], words=("Ada",) * 99, tags=("O",) * 99, lines=tuple(range(1, 100)))
        task.splits["train"] = (long,)
    with pytest.raises(DataError) as caught:
        encode_tasks(strict, parts.scorer.backbone)
    assert len(caught.value.problems) == 2
    assert all("longer than the 62 word pieces the backbone takes" in problem for problem in caught.value.problems)
