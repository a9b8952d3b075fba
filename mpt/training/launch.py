"""How a run was launched: the processes that train together, and what must be true of them before they start."""

import importlib.util
import os
import platform
import socket
import sys
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path

import torch
from accelerate import Accelerator
from rich.console import Console

from mpt.base.errors import ConfigError, LaunchError
from mpt.base.settings import BackboneSettings, StageSettings
from mpt.model.backbone.precision import multiplies_bfloat16
from mpt.training.engines import Engine, join_launch
from mpt.training.ranks import exchange
from mpt.training.workers import Workers, workers_for

WORLD_SIZES = ("WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")
PACKAGES = ("torch", "transformers", "accelerate", "tokenizers", "numpy", "mpt-prompts")


def build_accelerator(folder: Path, trackers: Sequence[str] = ()) -> Accelerator:
    """Join the launch; precision is mpt's own business, since backbone and prompts differ in it.

    Raises:
        ConfigError: A tracker is not installed.
        LaunchError: This is one of several processes that do not know of each other.
        LaunchError: The launch asks for an engine that is not installed.
    """
    missing = [name for name in trackers if importlib.util.find_spec(name) is None]
    if missing:
        raise ConfigError(f"trackers: {', '.join(missing)} not installed. Run: pip install 'mpt-prompts[tensorboard]'")
    accelerator = join_launch(log_with=list(trackers) or None, project_dir=str(folder), mixed_precision="no")
    check_launch(os.environ, accelerator.num_processes)
    return accelerator


def check_launch(environment: Mapping[str, str], processes: int) -> None:
    """Refuse a process that believes itself alone, or in smaller company, while its launcher started more.

    Args:
        environment: What the launcher left for its processes to read.
        processes: How many have joined.

    Raises:
        LaunchError: Naming the variable that says so.
    """
    said = {name: environment[name] for name in WORLD_SIZES if environment.get(name, "").isdecimal()}
    name, value = next(iter(said.items()), ("", ""))
    advice = "Launch with: accelerate launch --config_file configs/accelerate/multi_gpu.yaml (or cpu2, multi_node)"
    if said and int(value) != processes:
        raise LaunchError(
            f"{name}={value} in the environment, but {processes} process(es) have joined: each would train alone and "
            f"believe that it is the whole run. {advice}; without a launcher, every process also needs RANK, "
            "LOCAL_RANK, MASTER_ADDR and MASTER_PORT"
        )
    if not said and "MASTER_ADDR" in environment:
        raise LaunchError(
            "MASTER_ADDR is set but no WORLD_SIZE: the launcher wanted several processes and started this one alone, "
            f"as accelerate launch does on a CPU with distributed_type MULTI_CPU or --cpu. {advice}; for a single "
            "process unset MASTER_ADDR"
        )
    tasks = environment.get("SLURM_STEP_NUM_TASKS", "1")
    launched = environment.get("GROUP_WORLD_SIZE", str(processes))
    if tasks.isdecimal() and int(tasks) > 1 and tasks != launched:
        raise LaunchError(
            f"srun started {tasks} tasks (SLURM_STEP_NUM_TASKS), expected {launched}, so runs would train side by side "
            "and believe that they are alone. Give accelerate launch --num_machines and --machine_rank "
            "(docs/distributed.md has the script), or srun --ntasks=1 for each of several independent runs"
        )


def build_workers(settings: StageSettings, accelerator: Accelerator, engine: Engine) -> Workers:
    """Threads for this rank's micro-batches; one where ranks share a backbone and put it together in order."""
    if engine.sharding is not None:
        return Workers()
    return workers_for(accelerator.device, settings.training.micro_batches // accelerator.num_processes)


def claim_cores(accelerator: Accelerator) -> list[str]:
    """Use every core: `accelerate launch` leaves a process on a CPU one thread, as its default and without a word.

    Returns:
        A notice when the number of threads was raised.
    """
    launched = "ACCELERATE_MIXED_PRECISION" in os.environ and os.environ.get("OMP_NUM_THREADS") == "1"
    if not launched or accelerator.device.type != "cpu":
        return []
    cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    threads = cores // int(os.environ.get("LOCAL_WORLD_SIZE") or accelerator.num_processes)
    if threads < 2:
        return []
    torch.set_num_threads(threads)
    return [f"accelerate launch asked for 1 thread a process; using {threads}. To use fewer, limit cores with taskset"]


def settle(accelerator: Accelerator, dtype: str) -> list[str]:
    """Use the machine as it should be used for a backbone of this type, and tell what it is slow at."""
    return claim_cores(accelerator) + slow_type(accelerator.device, dtype)


def with_dtype(accelerator: Accelerator, settings: BackboneSettings) -> tuple[BackboneSettings, list[str]]:
    """The settings with the type in which all ranks hold the backbone, and a notice where "auto" would differ."""
    if settings.dtype != "auto":
        return settings, []
    native = exchange(accelerator, multiplies_bfloat16(accelerator.device))
    slow = [str(rank) for rank, multiplies in enumerate(native) if not multiplies]
    mixed = f"backbone.dtype: auto is float32 on all ranks, since bfloat16 is only emulated on ranks {', '.join(slow)}"
    dtype = "float32" if slow else "bfloat16"
    return settings.model_copy(update={"dtype": dtype}), [mixed] if slow and any(native) else []


def slow_type(device: torch.device, dtype: str) -> list[str]:
    """A notice where a backbone computes in bfloat16 and the processor only emulates it."""
    if dtype != "bfloat16" or multiplies_bfloat16(device):
        return []
    return [
        "this processor takes many times as long in bfloat16, which it only emulates, as in float32. Leave "
        "backbone.dtype at auto, or use --set backbone.dtype=float32"
    ]


def speaker(accelerator: Accelerator, console: Console) -> Console:
    """The console on rank 0, silence elsewhere."""
    return console if accelerator.is_main_process else Console(quiet=True)


def versions() -> dict[str, str]:
    """Versions that numbers may depend on."""
    return {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}}


def describe_launch(accelerator: Accelerator, engine: Engine, micro_batches: int, dtype: str) -> str:
    """Engine, ranks, backend, what each of them holds, in which type: one line, the same on every rank."""
    where = [str(accelerator.device), torch.get_num_threads(), socket.gethostname()]
    devices, threads, hosts = zip(*exchange(accelerator, where), strict=True)
    count = accelerator.num_processes
    share = micro_batches // count
    each = f"{share} of a step's {micro_batches} micro-batches"
    on_cpu = accelerator.device.type == "cpu"
    device = accelerator.device.type + (f", {max(threads)} thread{'s' * (max(threads) > 1)}" if on_cpu else "")
    if count == 1:
        return f"launch: one process on {device}, backbone in {dtype}; it computes {each}"
    machines = len(set(hosts))
    holds = "the whole model" if engine.sharding is None else f"1/{count} of the backbone"
    return (
        f"launch: {count} processes on {machines} machine{'s' * (machines > 1)}, {engine.name} over "
        f"{torch.distributed.get_backend()}; each ({device}) holds {holds} in {dtype} and computes {each}"
        + ("" if on_cpu else f" ({', '.join(devices)})")
    )
