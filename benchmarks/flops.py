"""How much of the machine training uses: useful operations against the best matrix product.

Of a frozen backbone's weights, each costs a word piece two operations forward (multiply and add) and two for the
gradient of its input; gradients of the weights are not computed. Embeddings are looked up, not multiplied, and do not
count. Neither do attention, prompts, heads, padding and whatever else is not a product with a weight: it takes time and
thereby lowers the utilisation.
"""

import sys
import time
from collections.abc import Iterator

import torch
from torch import nn

from job import answer
from mpt.base.errors import ConfigError

SHAPES = ((2048, 384, 384), (2048, 384, 1536), (2048, 1024, 1024), (2048, 1024, 4096), (4096, 2048, 2048))
"""Rows, inner size and columns: micro-batches against the matrices of MiniLM and RoBERTa-large, and a larger one."""

GPU_SHAPES = (*SHAPES, (4096, 4096, 4096), (8192, 8192, 8192))
SECONDS = 0.3  # of each shape; the fastest of at least three repetitions counts


def flops_per_piece(model: nn.Module) -> int:
    """Useful operations of one word piece in a training step of a backbone whose layers are all prompted."""
    embeddings = {id(p) for module in model.modules() if isinstance(module, nn.Embedding) for p in module.parameters()}
    return 4 * sum(p.numel() for p in model.parameters() if id(p) not in embeddings)


def best_product_rate(device: torch.device, *, seconds: float = SECONDS) -> float:
    """Operations per second of the fastest bfloat16 matrix product that was found, over shapes and repetitions."""
    shapes = GPU_SHAPES if device.type == "cuda" else SHAPES
    return max(2 * m * k * n / min(_times(m, k, n, device, seconds)) for m, k, n in shapes)


def _times(m: int, k: int, n: int, device: torch.device, seconds: float) -> Iterator[float]:
    """Seconds of single products; the first, which compiles, is left out."""
    left = torch.randn((m, k), device=device).bfloat16()
    right = torch.randn((n, k), device=device).bfloat16()
    began, count = time.perf_counter(), 0
    while count < 4 or time.perf_counter() - began < seconds:
        taken = _time(left, right)
        if count:
            yield taken
        count += 1


def _time(left: torch.Tensor, right: torch.Tensor) -> float:
    if left.device.type == "cuda":
        torch.cuda.synchronize(left.device)
    began = time.perf_counter()
    nn.functional.linear(left, right)
    if left.device.type == "cuda":
        torch.cuda.synchronize(left.device)
    return time.perf_counter() - began


def device_named(name: str) -> torch.device:
    """The device of a name.

    Raises:
        ConfigError: It is a GPU and there is none.
    """
    if name == "cuda" and not torch.cuda.is_available():
        raise ConfigError("--device cuda: torch finds no GPU on this machine. Use --device cpu, or a build with CUDA")
    return torch.device(name)


if __name__ == "__main__":
    answer(lambda: best_product_rate(device_named(sys.argv[1])))
