"""Named random streams: every random number is a function of (seed, purpose) and of nothing else.

There is no generator state to save, to restore or to lose: the same names give the same numbers in any process, at
any step and in any order of asking. numpy promises that the raw words of `Philox` never change between releases; it
does not promise that of `Generator.permutation`, so permutations are stable sorts of raw words.
"""

import hashlib

import numpy as np
import torch
from jaxtyping import Float64, Int64, UInt64


def stream_key(seed: int, *purpose: str | int) -> int:
    """A 128-bit key for one purpose; different names never share a stream."""
    text = "\x1f".join([str(seed), *(f"{type(part).__name__}:{part}" for part in purpose)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:16], "little")


def raw_words(seed: int, *purpose: str | int, count: int, start: int = 0) -> UInt64[np.ndarray, " count"]:
    """Raw 64-bit words of a stream from word `start`, a multiple of 4; a longer request has a shorter as its prefix."""
    assert start % 4 == 0, start  # Philox makes four words of each value of its counter
    return np.random.Philox(key=stream_key(seed, *purpose), counter=start // 4).random_raw(count)


def uniforms(seed: int, *purpose: str | int, count: int, start: int = 0) -> Float64[np.ndarray, " count"]:
    """Numbers in [0, 1) with 53 random bits each, from number `start` on, a multiple of 4."""
    return (raw_words(seed, *purpose, count=count, start=start) >> np.uint64(11)) * 2.0**-53


def permutation(seed: int, *purpose: str | int, count: int) -> Int64[np.ndarray, " count"]:
    """A permutation of `range(count)`."""
    return np.argsort(raw_words(seed, *purpose, count=count), kind="stable")


def torch_generator(seed: int, *purpose: str | int) -> torch.Generator:
    """A CPU generator for tensors; draw on the CPU and move, so that the device does not change the numbers."""
    return torch.Generator().manual_seed(stream_key(seed, *purpose) >> 65)
