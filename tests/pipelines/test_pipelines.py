"""Both pipelines as programs of their own, end to end, on one process and on two."""

import json
from pathlib import Path

import pytest
from common.programs import CONFIG, program
from common.runs import files_of

from synthetic import write_synthetic

PIPELINES = Path(__file__).parents[2] / "pipelines"
TRANSFER = """optimizer: {warmup_steps: 1}
training: {steps: 4, tokens_per_micro_batch: 256, micro_batches: 2}
evaluation: {every_steps: 2}
seeds: [0]
tuning: {prompt_learning_rates: []}
"""
ACCELERATE = ("-m", "accelerate.commands.launch", "--cpu", "--num_processes", "1", "--num_machines", "1")
ACCELERATE += ("--mixed_precision", "no", "--dynamo_backend", "no")
CONFIGS = Path(__file__).parents[2] / "configs" / "accelerate"
TWO_RANKS = ("-m", "accelerate.commands.launch", "--config_file", CONFIGS / "cpu2.yaml")


@pytest.fixture(scope="module")
def folder(world, tmp_path_factory):
    """Synthetic data, both configurations, and a pretraining run that `accelerate launch` made."""
    folder = tmp_path_factory.mktemp("pipelines")
    write_synthetic(folder / "data", sentences=40)
    (folder / "pretrain.yaml").write_text(CONFIG.format(backbone=world.backbone))
    (folder / "transfer.yaml").write_text(TRANSFER)
    script = PIPELINES / "pretrain_prompts.py"
    done = program(*ACCELERATE, script, "--config", folder / "pretrain.yaml", "--out", folder / "run")
    assert "step 4/4" in done.stdout
    assert "dev scores" in " ".join(done.stdout.split())
    return folder


def test_pretraining_under_accelerate_leaves_a_run(folder):
    results = json.loads((folder / "run" / "results.json").read_text())
    assert list(results["dev"]) == ["travel", "newsdesk", "clinic"]


@pytest.mark.slow
def test_transfer_with_plain_python_compares_with_scratch(folder, tmp_path):
    arguments = ("--init-from", folder / "run", "--manifest", folder / "data" / "target.yaml", "--shots", "20")
    done = program(
        PIPELINES / "transfer.py", *arguments, "--config", folder / "transfer.yaml", "--out", tmp_path / "results"
    )
    assert "transfer - scratch" in " ".join(done.stdout.split())
    runs = json.loads((tmp_path / "results" / "results.json").read_text())["runs"]
    assert [(run["task"], run["shots"], run["method"], run["seed"]) for run in runs] == [
        ("support", 20, "scratch", 0),
        ("support", 20, "transfer", 0),
    ]


def test_two_ranks_train_the_same_bits_as_one(folder, tmp_path):
    script = PIPELINES / "pretrain_prompts.py"
    done = program(*TWO_RANKS, script, "--config", folder / "pretrain.yaml", "--out", tmp_path / "run")
    assert "launch: 2 processes on 1 machine" in done.stdout
    assert done.stdout.count("step 4/4") == 1, "one rank speaks"
    alone, together = (
        {name: content for name, content in files_of(run / "checkpoints").items() if not name.endswith("progress.json")}
        for run in (folder / "run", tmp_path / "run")
    )
    assert alone.keys() == together.keys()
    for name in alone:
        if name.endswith(".safetensors"):
            assert alone[name] == together[name], name
    metrics = [
        [
            {key: value for key, value in json.loads(line).items() if not key.startswith("perf/")}
            for line in (run / "metrics.jsonl").read_text().splitlines()
        ]
        for run in (folder / "run", tmp_path / "run")
    ]
    assert metrics[0] == metrics[1]


def test_a_mistake_ends_a_pipeline_with_status_two_and_a_message(folder, tmp_path):
    script = PIPELINES / "pretrain_prompts.py"
    done = program(script, "--config", folder / "pretrian.yaml", "--out", tmp_path / "run", status=2)
    assert "Traceback" not in done.stderr
    assert "pretrian.yaml: configuration not found. Did you mean" in done.stderr
    assert not (tmp_path / "run").exists()
