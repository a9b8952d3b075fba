"""The launchers themselves: signals to them, their deaths, and launches that do not come together."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from common.runs import files_of

from mpt.training.checkpoint import list_checkpoints
from synthetic import write_synthetic

pytestmark = pytest.mark.distributed

ROOT = Path(__file__).parents[2]
CONFIG = """manifest: data/mixture.yaml
backbone: {{reference: {backbone}, dtype: float32}}
prompt: {{length: 4, dropout: 0.1}}
training: {{steps: 400, tokens_per_micro_batch: 256, micro_batches: 4}}
evaluation: {{every_steps: 200}}
"""
LAUNCH = ("-m", "accelerate.commands.launch", "--config_file")
LAUNCHERS = {
    "python": (),
    "accelerate, one process": (*LAUNCH, ROOT / "configs" / "accelerate" / "single.yaml"),
    "accelerate, two processes": (*LAUNCH, ROOT / "configs" / "accelerate" / "cpu2.yaml"),
    "torchrun": ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"),
}


def start(launcher, folder, out, *more, **environment):
    """Start a run in a process group of its own."""
    script = (ROOT / "pipelines" / "pretrain_prompts.py", "--config", folder / "run.yaml", "--out", out)
    command = [sys.executable, *map(str, (*launcher, *script, *more))]
    with (folder / f"{out.name}.txt").open("a") as output:
        return subprocess.Popen(
            command,
            stdout=output,
            stderr=output,
            start_new_session=True,
            env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        )


def ranks_of(out):
    """Processes that train into a folder, launchers not counted."""
    found = []
    for process in Path("/proc").iterdir():
        if process.name.isdecimal():
            try:
                words = (process / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if str(out).encode() in words and not {b"accelerate.commands.launch", b"torch.distributed.run"} & {*words}:
                found.append(int(process.name))
    return sorted(found)


def wait_until(condition, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come to that"
        time.sleep(0.02)


def steps_done(out):
    path = out / "metrics.jsonl"
    return len(path.read_text().splitlines()) if path.exists() else 0


def tensors(out):
    return {name: data for name, data in files_of(out / "checkpoints").items() if name.endswith(".safetensors")}


@pytest.fixture(scope="module")
def folder(world, tmp_path_factory):
    folder = tmp_path_factory.mktemp("launchers")
    write_synthetic(folder / "data", sentences=40)
    (folder / "run.yaml").write_text(CONFIG.format(backbone=world.backbone))
    assert start((), folder, folder / "straight").wait(120) == 0, (folder / "straight.txt").read_text()
    return folder


ACCELERATE = [launcher for launcher in LAUNCHERS if launcher.startswith("accelerate")]
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGKILL)
SENT = [
    ("torchrun", "launcher", signal.SIGTERM),
    *(("python", "launcher", number) for number in SIGNALS),
    *((launcher, target, number) for launcher in ACCELERATE for target in ("launcher", "rank") for number in SIGNALS),
    *((launcher, "all", signal.SIGINT) for launcher in ACCELERATE),  # Ctrl-C
]


@pytest.mark.parametrize(("launcher", "target", "number"), SENT)
def test_a_signal_at_a_launcher_or_a_rank_ends_all_and_the_run_goes_on(folder, tmp_path, launcher, target, number):
    out = folder / tmp_path.name
    process = start(LAUNCHERS[launcher], folder, out, "--resume", "auto")
    wait_until(lambda: steps_done(out) >= 20)
    if target == "launcher":
        process.send_signal(number)
    elif target == "rank":
        os.kill(ranks_of(out)[-1], number)
    else:
        os.killpg(process.pid, number)
    assert process.wait(60) != 0
    wait_until(lambda: not ranks_of(out), 30)
    if number != signal.SIGKILL or (target == "launcher" and launcher != "python"):
        assert list_checkpoints(out / "checkpoints"), (folder / f"{out.name}.txt").read_text()
    assert start(LAUNCHERS[launcher], folder, out, "--resume", "auto").wait(120) == 0
    assert tensors(out) == tensors(folder / "straight")


@pytest.mark.parametrize("launcher", ["accelerate, one process", "accelerate, two processes"])
def test_a_signal_at_start_up_ends_all(folder, tmp_path, launcher):
    out = folder / tmp_path.name
    process = start(LAUNCHERS[launcher], folder, out, "--resume", "auto")
    wait_until(lambda: ranks_of(out))
    time.sleep(1)  # importing torch
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) != 0
    wait_until(lambda: not ranks_of(out), 30)
    assert not out.exists()


@pytest.mark.parametrize(
    ("environment", "told"),
    [
        ({"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}, "MASTER_ADDR is set but no WORLD_SIZE"),
        ({"SLURM_STEP_NUM_TASKS": "2"}, "srun started 2 tasks"),
    ],
)
def test_processes_that_do_not_know_of_each_other_are_refused(folder, tmp_path, environment, told):
    out = folder / tmp_path.name
    assert start((), folder, out, **environment).wait(60) == 2
    assert told in (folder / f"{out.name}.txt").read_text()
    assert not out.exists()


def test_a_launch_that_starts_one_process_for_two_is_refused(folder, tmp_path):
    """As `accelerate launch --cpu --num_processes 2` does."""
    launcher = ("-m", "accelerate.commands.launch", "--cpu", "--num_processes", "2", "--num_machines", "1")
    assert start(launcher, folder, folder / tmp_path.name).wait(60) == 1
    assert "started this one alone" in (folder / f"{tmp_path.name}.txt").read_text()


def test_a_mistake_is_told_once(folder, tmp_path):
    (folder / "bad.yaml").write_text((folder / "run.yaml").read_text().replace("data/mixture.yaml", "data/gone.yaml"))
    script = (ROOT / "pipelines" / "pretrain_prompts.py", "--config", folder / "bad.yaml", "--out", tmp_path / "run")
    command = [sys.executable, *map(str, (*LAUNCHERS["accelerate, two processes"], *script))]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1
    assert done.stderr.count("error: ") == 1, done.stderr
    assert "gone.yaml" in done.stderr


def test_results_say_that_a_run_is_finished(folder):
    assert json.loads((folder / "straight" / "results.json").read_text())["steps"] == 400
