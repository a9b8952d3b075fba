from types import SimpleNamespace

import pytest
from accelerate.utils import DistributedType
from common.runs import changed, make_parts, quiet, transfer_settings
from rich.console import Console

from mpt.config import BackboneSettings, PromptSettings
from mpt.errors import ConfigError, DataError, TrainingError
from mpt.stages import assembly
from mpt.stages.assembly import (
    build_accelerator,
    build_plan,
    claim_cores,
    describe_size,
    encode_tasks,
    open_backbone,
    prompt_shape,
    speaker,
    start_run_folder,
)


@pytest.fixture(scope="module")
def parts(world):
    return make_parts(world)


def shape(parts, layers):
    return prompt_shape(parts.tagger.backbone, PromptSettings(length=5, layers=layers))


def test_prompt_layers(parts):
    assert shape(parts, "all").layers == (0, 1)
    assert shape(parts, 1).layers == (1,), "a number counts from the top"
    assert shape(parts, (0,)).layers == (0,)
    assert shape(parts, "all").tensor_shape == (2, 2, 2, 5, 16)


@pytest.mark.parametrize("layers", [3, (2,), (1, 0), (0, 0), ()])
def test_prompt_layers_that_the_backbone_does_not_have(parts, layers):
    with pytest.raises(ConfigError) as caught:
        shape(parts, layers)
    assert f"prompt.layers: {layers} over a backbone of 2 layers. Expected all, a number" in str(caught.value)


@pytest.mark.parametrize(("micro_batches", "tasks_per_step", "ranks"), [(3, 2, 1), (2, 1, 4), (4, 2, 4), (1, 1, 2)])
def test_micro_batches_are_shared_out_evenly_or_refused(parts, micro_batches, tasks_per_step, ranks):
    settings = changed(transfer_settings(), training__micro_batches=micro_batches)
    rates = {task.task.name: 1 / 3 for task in parts.tasks}
    accelerator = SimpleNamespace(num_processes=ranks)
    with pytest.raises(ConfigError) as caught:
        build_plan(parts.tasks, rates, settings, tasks_per_step=tasks_per_step, accelerator=accelerator)
    least = tasks_per_step * ranks
    assert f"is not a multiple of {tasks_per_step} tasks per step x {ranks} processes" in str(caught.value)
    assert f"Set training.micro_batches={least} or a multiple of it" in str(caught.value)
    settings = changed(settings, training__micro_batches=least)
    build_plan(parts.tasks, rates, settings, tasks_per_step=tasks_per_step, accelerator=accelerator)


def test_a_launch_under_an_engine_is_refused(tmp_path, monkeypatch):
    fake = SimpleNamespace(distributed_type=DistributedType.DEEPSPEED)
    monkeypatch.setattr(assembly, "Accelerator", lambda **_: fake)
    with pytest.raises(TrainingError, match="launched under DEEPSPEED, expected a plain launch"):
        build_accelerator(tmp_path, [])


@pytest.mark.parametrize(
    ("environment", "device", "processes", "threads"),
    [
        ({"ACCELERATE_MIXED_PRECISION": "no", "OMP_NUM_THREADS": "1"}, "cpu", 1, 8),
        ({"ACCELERATE_MIXED_PRECISION": "no", "OMP_NUM_THREADS": "1"}, "cpu", 2, 4),
        ({"ACCELERATE_MIXED_PRECISION": "no", "OMP_NUM_THREADS": "1", "LOCAL_WORLD_SIZE": "4"}, "cpu", 8, 2),
        ({"ACCELERATE_MIXED_PRECISION": "no", "OMP_NUM_THREADS": "1"}, "cpu", 8, None),
        ({"ACCELERATE_MIXED_PRECISION": "no", "OMP_NUM_THREADS": "1"}, "cuda", 1, None),
        ({"ACCELERATE_MIXED_PRECISION": "no", "OMP_NUM_THREADS": "2"}, "cpu", 1, None),
        ({"OMP_NUM_THREADS": "1"}, "cpu", 1, None),
    ],
)
def test_a_launch_has_all_cores(environment, device, processes, threads, monkeypatch):
    for name in ("ACCELERATE_MIXED_PRECISION", "OMP_NUM_THREADS", "LOCAL_WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(assembly.sys, "platform", "linux")
    monkeypatch.setattr(assembly.os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    set_to = []
    monkeypatch.setattr(assembly.torch, "set_num_threads", set_to.append)
    notices = claim_cores(SimpleNamespace(device=SimpleNamespace(type=device), num_processes=processes))
    assert set_to == ([threads] if threads else [])
    assert len(notices) == len(set_to) and all(f"using {threads}" in notice for notice in notices)


def test_a_tracker_that_is_not_installed_is_told_with_the_cure(tmp_path, monkeypatch):
    monkeypatch.setattr(assembly.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"trackers: tensorboard not installed\. Run: pip install"):
        build_accelerator(tmp_path, ["tensorboard"])


def test_opening_a_backbone_probes_it(world, tmp_path, monkeypatch):
    probed = []
    monkeypatch.setattr(assembly, "probe", probed.append)
    accelerator = build_accelerator(tmp_path, [])
    backbone = open_backbone(BackboneSettings(reference=str(world.backbone)), prompt_length=3, accelerator=accelerator)
    assert probed == [backbone]


def test_problems_of_all_tasks_are_raised_at_once(world, parts):
    from dataclasses import replace

    strict = [replace(one, spec=one.spec.model_copy(update={"long": "error"})) for one in make_parts(world).loaded[:2]]
    for task in strict:
        long = replace(task.splits["train"][0], words=("Ada",) * 99, tags=("O",) * 99, lines=tuple(range(1, 100)))
        task.splits["train"] = (long,)
    with pytest.raises(DataError) as caught:
        encode_tasks(strict, parts.tagger.backbone)
    assert len(caught.value.problems) == 2
    assert all("longer than the 62 word pieces the backbone takes" in problem for problem in caught.value.problems)


def test_a_run_folder_is_made_once(tmp_path):
    start_run_folder(tmp_path / "a" / "run", {"config.yaml": b"x"})
    assert (tmp_path / "a" / "run" / "config.yaml").read_bytes() == b"x"
    with pytest.raises(ConfigError, match="this run folder exists"):
        start_run_folder(tmp_path / "a" / "run", {})
    (tmp_path / "empty").mkdir()
    start_run_folder(tmp_path / "empty", {"config.yaml": b"x"})


def test_size_counts_what_is_trained(parts):
    trained = sum(p.numel() for p in parts.tagger.parameters())
    prompts = parts.tagger.bank.slots[0].numel()
    text = describe_size(parts.tagger)
    assert f"{prompts:,} prompt values + {trained - prompts:,} head weights" in text
    assert f"{parts.tagger.backbone.num_parameters:,} frozen" in text


def test_only_the_first_rank_speaks():
    console = Console()
    assert speaker(SimpleNamespace(is_main_process=True), console) is console
    assert speaker(SimpleNamespace(is_main_process=False), quiet()).quiet
