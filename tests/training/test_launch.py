from types import SimpleNamespace

import pytest
import torch
from common.runs import quiet
from rich.console import Console

from mpt.base.errors import ConfigError, LaunchError
from mpt.base.settings import BackboneSettings
from mpt.training import launch
from mpt.training.engines import Engine
from mpt.training.launch import (
    build_accelerator,
    check_launch,
    claim_cores,
    describe_launch,
    slow_type,
    speaker,
    with_dtype,
)


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
    monkeypatch.setattr(launch.sys, "platform", "linux")
    monkeypatch.setattr(launch.os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    set_to = []
    monkeypatch.setattr(launch.torch, "set_num_threads", set_to.append)
    notices = claim_cores(SimpleNamespace(device=SimpleNamespace(type=device), num_processes=processes))
    assert set_to == ([threads] if threads else [])
    assert len(notices) == len(set_to) and all(f"using {threads}" in notice for notice in notices)


def test_emulated_bfloat16_is_told_with_the_cure(monkeypatch):
    cpu = torch.device("cpu")
    monkeypatch.setattr(launch, "multiplies_bfloat16", lambda device: False)
    (notice,) = slow_type(cpu, "bfloat16")
    assert "many times as long in bfloat16" in notice and "--set backbone.dtype=float32" in notice
    assert slow_type(cpu, "float32") == []
    monkeypatch.setattr(launch, "multiplies_bfloat16", lambda device: True)
    assert slow_type(cpu, "bfloat16") == []


@pytest.mark.parametrize("native", [True, False])
def test_auto_is_settled_once(native, monkeypatch):
    monkeypatch.setattr(launch, "multiplies_bfloat16", lambda device: native)
    accelerator = SimpleNamespace(device=torch.device("cpu"), num_processes=1)
    settled, notices = with_dtype(accelerator, BackboneSettings(reference="x"))
    assert (settled.reference, settled.dtype) == ("x", "bfloat16" if native else "float32") and notices == []
    for dtype in ("bfloat16", "float32"):
        assert with_dtype(accelerator, BackboneSettings(dtype=dtype)) == (BackboneSettings(dtype=dtype), [])


def test_ranks_that_would_choose_different_types_all_take_float32(monkeypatch):
    monkeypatch.setattr(launch, "exchange", lambda accelerator, native: [native, False, native, False])
    monkeypatch.setattr(launch, "multiplies_bfloat16", lambda device: True)
    settled, (notice,) = with_dtype(SimpleNamespace(device=torch.device("cpu")), BackboneSettings())
    assert settled.dtype == "float32"
    assert notice.endswith("auto is float32 on all ranks, since bfloat16 is only emulated on ranks 1, 3")


def test_a_tracker_that_is_not_installed_is_told_with_the_cure(tmp_path, monkeypatch):
    monkeypatch.setattr(launch.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"trackers: tensorboard not installed\. Run: pip install"):
        build_accelerator(tmp_path, ["tensorboard"])


def test_only_the_first_rank_speaks():
    console = Console()
    assert speaker(SimpleNamespace(is_main_process=True), console) is console
    assert speaker(SimpleNamespace(is_main_process=False), quiet()).quiet


TORCHRUN = {"WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1", "GROUP_WORLD_SIZE": "1"}


@pytest.mark.parametrize(
    ("environment", "processes"),
    [
        ({}, 1),
        (TORCHRUN, 2),
        ({**TORCHRUN, "WORLD_SIZE": "1"}, 1),
        ({"OMPI_COMM_WORLD_SIZE": "4"}, 4),
        ({"SLURM_STEP_NUM_TASKS": "1", "SLURM_NTASKS": "4"}, 1),
        ({**TORCHRUN, "WORLD_SIZE": "32", "GROUP_WORLD_SIZE": "4", "SLURM_STEP_NUM_TASKS": "4", "PMI_SIZE": "4"}, 32),
        ({"WORLD_SIZE": "4", "SLURM_STEP_NUM_TASKS": "4"}, 4),
    ],
)
def test_processes_that_know_of_each_other(environment, processes):
    check_launch(environment, processes)


@pytest.mark.parametrize(
    ("environment", "processes", "told"),
    [
        (TORCHRUN, 1, r"WORLD_SIZE=2 in the environment, but 1 process\(es\) have joined"),
        ({"OMPI_COMM_WORLD_SIZE": "4"}, 1, "OMPI_COMM_WORLD_SIZE=4 in the environment"),
        ({"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}, 1, "MASTER_ADDR is set but no WORLD_SIZE"),
        ({"SLURM_STEP_NUM_TASKS": "4"}, 1, r"srun started 4 tasks \(SLURM_STEP_NUM_TASKS\), expected 1"),
        ({**TORCHRUN, "SLURM_STEP_NUM_TASKS": "4"}, 2, r"srun started 4 tasks \(SLURM_STEP_NUM_TASKS\), expected 1"),
    ],
)
def test_processes_that_believe_they_are_alone_are_refused(environment, processes, told):
    with pytest.raises(LaunchError, match=told):
        check_launch(environment, processes)


def test_a_launch_that_has_not_come_together_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    with pytest.raises(LaunchError, match="started this one alone"):
        build_accelerator(tmp_path)


def test_one_process_says_what_it_computes(tmp_path):
    told = describe_launch(build_accelerator(tmp_path), Engine(), 4, "float32")
    assert told.startswith("launch: one process on cpu, ")
    assert told.endswith(", backbone in float32; it computes 4 of a step's 4 micro-batches")
