"""What it costs to add up gradients in micro-batch order, beside an all-reduce of their sum.

accelerate launch --config_file configs/accelerate/cpu2.yaml benchmarks/gradient_sum.py
"""

import time
from pathlib import Path
from statistics import median
from types import SimpleNamespace

import torch
from torch import nn

from mpt.training.gradients import GradientVectors
from mpt.training.launch import build_accelerator
from mpt.training.ranks import any_rank

TASKS = ("a", "b", "c", "d")  # a step of four micro-batches, as the default has it, each of another task
LABELS = 15
LENGTH = 32
REPEATS = 40
BACKBONES = {"MiniLM-L6": (6, 384), "BERT-base": (12, 768), "BERT-large": (24, 1024)}
"""Layers and hidden size."""


def model(layers: int, hidden: int) -> SimpleNamespace:
    """What trains over a backbone of this shape, without the backbone."""
    heads = {task: nn.Linear(hidden, LABELS) for task in TASKS}
    prompt = nn.Parameter(torch.zeros(layers, 2, hidden, LENGTH))
    state = SimpleNamespace(values=lambda: {"prompt": prompt}, leaves=lambda: [prompt])
    return SimpleNamespace(state=state, head=heads.__getitem__)


def main() -> None:
    """Print one line for each shape: milliseconds a step, medians, both ways in turn."""
    accelerator = build_accelerator(Path())
    torch.set_num_threads(1)
    for name, (layers, hidden) in BACKBONES.items():
        gradients = GradientVectors(model(layers, hidden), TASKS)  # type: ignore[arg-type]
        width = sum(p.numel() for p in gradients.shared) + gradients.head_size + 1
        count = len(TASKS) // accelerator.num_processes
        seconds: dict[str, list[float]] = {"ordered": [], "all_reduce": [], "agreement": []}
        for _ in range(REPEATS):
            for how, times in seconds.items():
                vectors = [torch.randn(width, device=accelerator.device) for _ in range(count)]
                accelerator.wait_for_everyone()
                began = time.perf_counter()
                if how == "agreement":  # what every step asks twice: has a rank failed, was one asked to stop
                    any_rank(accelerator, False)
                else:
                    gradients.add_up(vectors, accelerator, ordered=how == "ordered")
                times.append(1000 * (time.perf_counter() - began))
                for parameter in [*gradients.shared, *(p for head in gradients.heads.values() for p in head)]:
                    parameter.grad = None
        if accelerator.is_main_process:
            told = ", ".join(f"{how} {median(times):.2f}" for how, times in seconds.items())
            print(f"{name}, {accelerator.num_processes} ranks, {width * 4 / 2**20:.1f} MiB a micro-batch: {told} ms")
    accelerator.end_training()


if __name__ == "__main__":
    main()
