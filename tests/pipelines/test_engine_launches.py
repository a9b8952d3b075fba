"""The configurations of engines through `accelerate launch`, and a backbone larger than a rank's memory."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from common.engines import engine, environment
from common.programs import CONFIG, program
from common.runs import files_of, write_bert

from synthetic import write_synthetic

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.distributed


@pytest.fixture(scope="module")
def folder(world, tmp_path_factory):
    """Synthetic data, a configuration, and a run of one process without an engine."""
    folder = tmp_path_factory.mktemp("engines")
    write_synthetic(folder / "data", sentences=40)
    (folder / "run.yaml").write_text(CONFIG.format(backbone=world.backbone))
    program(ROOT / "pipelines" / "pretrain_prompts.py", "--config", folder / "run.yaml", "--out", folder / "plain")
    return folder


@pytest.mark.parametrize("name", [engine("zero1"), engine("zero2"), engine("zero3"), engine("zero3_offload"), "fsdp2"])
def test_a_launch_by_configuration_file_trains_as_without_an_engine(name, folder, tmp_path):
    file = f"configs/accelerate/{'fsdp2' if name == 'fsdp2' else f'deepspeed_{name}'}.yaml"
    variables = {key: value for key, value in os.environ.items() if key != "OMP_NUM_THREADS"}
    launch = ["-m", "accelerate.commands.launch", "--config_file", file, "--main_process_port", "0"]
    pretrain = ["pipelines/pretrain_prompts.py", f"--config={folder / 'run.yaml'}", f"--out={tmp_path / 'run'}"]
    done = subprocess.run(
        [sys.executable, *launch, *pretrain],
        cwd=ROOT,
        env=variables,
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr
    said = "FSDP2" if name == "fsdp2" else f"DeepSpeed ZeRO-{name[4]}"
    assert f"launch: 2 processes on 1 machine, {said} over gloo" in done.stdout
    assert ("1/2 of the backbone" in done.stdout) == (name not in ("zero1", "zero2"))
    if not name.startswith("zero3"):
        ours, theirs = files_of(tmp_path / "run" / "checkpoints"), files_of(folder / "plain" / "checkpoints")
        for path in theirs:
            assert not path.endswith(".safetensors") or ours[path] == theirs[path], path
    scores = [json.loads((run / "results.json").read_text())["dev"] for run in (tmp_path / "run", folder / "plain")]
    assert scores[0] == scores[1]


@pytest.mark.skipif(sys.platform != "linux", reason="needs RLIMIT_DATA and /proc")
@pytest.mark.parametrize(
    ("name", "limit"), [pytest.param("zero3", 290, marks=engine("zero3").marks), pytest.param("fsdp2", 205)]
)
def test_five_ranks_run_a_backbone_two_or_three_times_the_memory_of_each(name, limit, tmp_path):
    sizes = {"hidden_size": 512, "intermediate_size": 2048, "num_attention_heads": 32, "shard_size": "5MB"}
    write_bert(tmp_path / "large", num_hidden_layers=52, **sizes)
    write_bert(tmp_path / "small", num_hidden_layers=2, **sizes)
    changes = {"stage3_param_persistence_threshold": 0, "stage3_prefetch_bucket_size": 100_000}
    # glibc otherwise keeps what freed layers took.
    variables = {**os.environ, **environment(name, **(changes if name == "zero3" else {}))}
    variables |= {"MALLOC_MMAP_THRESHOLD_": "131072", "OMP_NUM_THREADS": "1"}
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "5"]
    arguments = [ROOT / "tests" / "common" / "limited.py", tmp_path / "large", tmp_path / "small", limit]
    done = subprocess.run(
        [sys.executable, *launch, *map(str, arguments)],
        env=variables,
        capture_output=True,
        text=True,
        timeout=250,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count(f"ran 626 MiB of weights in {limit} MiB") == 5, done.stdout
