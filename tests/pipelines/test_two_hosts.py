"""Two machines, launched as docs/distributed.md says, over a network that breaks; `common.hosts` makes them."""

import json
import os
import sys
import time
from pathlib import Path

import pytest
from common.engines import engine
from common.hosts import two_hosts
from common.runs import files_of

from synthetic import write_synthetic

pytestmark = pytest.mark.multinode

ROOT = Path(__file__).parents[2]
CONFIG = """manifest: data/mixture.yaml
backbone: {{reference: {backbone}, dtype: float32}}
prompt: {{length: 4, dropout: 0.1}}
training: {{steps: 120, tokens_per_micro_batch: 256, micro_batches: 4, timeout_seconds: 15}}
evaluation: {{every_steps: 30}}
"""
SCRIPT = ROOT / "pipelines" / "pretrain_prompts.py"
LAUNCH = ("-m", "accelerate.commands.launch", "--config_file")
LIMIT = 30
"""Seconds to the end of a run that has failed."""
MESSAGE = "error: lost contact with another process of this run"


@pytest.fixture(scope="module")
def machines():
    try:
        with two_hosts() as hosts:
            yield hosts
    except OSError as error:
        pytest.skip(str(error))


@pytest.fixture
def hosts(machines):
    """Both machines, connected; nothing runs on them before and after a test."""
    yield machines
    for host in machines:
        host.kill()
        host.plug_in()


@pytest.fixture(scope="module")
def folder(machines, world, tmp_path_factory):
    """Data, a configuration, and the run of one process on one machine, never interrupted."""
    folder = tmp_path_factory.mktemp("hosts")
    write_synthetic(folder / "data", sentences=40)
    (folder / "run.yaml").write_text(CONFIG.format(backbone=world.backbone))
    words = (sys.executable, SCRIPT, "--config", folder / "run.yaml", "--out", folder / "straight")
    assert machines[0].start(words, folder / "straight.txt").wait(120) == 0, (folder / "straight.txt").read_text()
    return folder


def launch(hosts, folder, outs, *, resume="auto", caches=(os.environ["MPT_CACHE"],) * 2, config="multi_node"):
    """Start the launcher of each machine, with the run folder and the cache as it sees them."""
    size = ("--num_machines", 2, "--num_processes", 2)
    first = ("--main_process_ip", hosts[0].address, "--main_process_port", 29500)
    file = f"configs/accelerate/{config}.yaml"
    processes = []
    for rank, (host, out, cache) in enumerate(zip(hosts, outs, caches, strict=True)):
        run = (SCRIPT, "--config", folder / "run.yaml", "--out", out, "--resume", resume)
        words = (sys.executable, *LAUNCH, file, *size, *first, "--machine_rank", rank, *run)
        processes.append(host.start(words, told(outs, rank), cwd=ROOT, OMP_NUM_THREADS="1", MPT_CACHE=str(cache)))
    return processes


def told(outs, rank):
    """The file of what a machine prints."""
    return outs[-1].parent / f"node{rank}.txt"


def ends(processes, outs, seconds=300):
    """Statuses of launchers that end within a time."""
    until = time.monotonic() + seconds
    for rank, process in enumerate(processes):
        while process.poll() is None:
            assert time.monotonic() < until, f"node {rank} goes on: {told(outs, rank).read_text()}"
            time.sleep(0.05)
    return [process.returncode for process in processes]


def train_to(step, processes, out):
    """Wait for a step of a run."""
    metrics = out / "metrics.jsonl"
    until = time.monotonic() + 90
    while not metrics.exists() or f'"step": {step},' not in metrics.read_text():
        assert time.monotonic() < until and not any(process.poll() for process in processes), told(
            (out,), 0
        ).read_text()
        time.sleep(0.02)


def tensors(out):
    return {name: data for name, data in files_of(out / "checkpoints").items() if name.endswith(".safetensors")}


def losses(out):
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [line["train/loss"] for line in lines if "train/loss" in line]


def test_two_machines_train_the_same_bits_as_one_process(hosts, folder, tmp_path):
    """Also when each has a cache of its own and only the first sees the run folder."""
    outs = (tmp_path / "run", tmp_path / "elsewhere")
    caches = (tmp_path / "cache-0", tmp_path / "cache-1")
    assert ends(launch(hosts, folder, outs, resume="never", caches=caches), outs) == [0, 0], told(outs, 1).read_text()
    first, second = (told(outs, rank).read_text() for rank in (0, 1))
    assert "launch: 2 processes on 2 machines, plain data parallelism over gloo; each (cpu" in first
    assert "launch:" not in second and "error" not in second
    assert tensors(outs[0]) == tensors(folder / "straight")
    assert not outs[1].exists(), "the first machine writes"
    texts = [{name for name in files_of(cache) if name.startswith("text/")} for cache in caches]
    assert texts[0] and texts[0] == texts[1], "each machine has prepared its texts"


@pytest.mark.parametrize(
    ("config", "name"),
    [
        pytest.param("deepspeed_zero2", "DeepSpeed ZeRO-2", marks=engine("zero2").marks),
        pytest.param("deepspeed_zero3", "DeepSpeed ZeRO-3", marks=engine("zero3").marks),
        ("fsdp2", "FSDP2"),
    ],
)
def test_two_machines_train_under_an_engine(hosts, folder, tmp_path, config, name):
    outs = (tmp_path / "run",) * 2
    assert ends(launch(hosts, folder, outs, config=config), outs) == [0, 0], told(outs, 1).read_text()
    assert f"launch: 2 processes on 2 machines, {name} over gloo" in told(outs, 0).read_text()
    # Not the bits: shared backbones have no threads side by side, so a micro-batch has all threads of its machine.
    assert losses(outs[0]) == pytest.approx(losses(folder / "straight"), abs=1e-3)


@pytest.mark.parametrize("lost", [0, 1])
@pytest.mark.parametrize("how", ["killed", "unplugged"])
def test_a_lost_machine_ends_the_other_and_the_run_goes_on(hosts, folder, tmp_path, how, lost):
    outs = (tmp_path / "run",) * 2
    processes = launch(hosts, folder, outs)
    train_to(40, processes, outs[0])
    if how == "killed":
        hosts[lost].kill()
    else:
        hosts[lost].unplug()
    statuses = ends(processes, outs, LIMIT)
    left = [rank for rank in (0, 1) if how == "unplugged" or rank != lost]
    assert [statuses[rank] for rank in left] == [1] * len(left), "as launchers end"
    for rank in left:
        assert told(outs, rank).read_text().count(MESSAGE) == 1
    hosts[lost].plug_in()
    assert ends(launch(hosts, folder, outs), outs) == [0, 0], told(outs, 0).read_text()
    assert tensors(outs[0]) == tensors(folder / "straight")


@pytest.mark.parametrize("resume", ["auto", "must"])
def test_a_run_folder_that_only_one_machine_sees_is_no_start_to_go_on_from(hosts, folder, tmp_path, resume):
    outs = (folder / "straight", tmp_path / "elsewhere")
    before = files_of(folder / "straight")
    processes = launch(hosts, folder, outs, resume=resume)
    assert ends(processes, outs) == [1, 1]
    for rank in (0, 1):
        assert told(outs, rank).read_text().count("resumed step: rank 0 120, rank 1 None\nGive every process") == 1
    assert files_of(folder / "straight") == before
