"""Time and memory of a training run, taken alike for every trainer."""

import resource
import sys
import time

import torch


class StepClock:
    """Adds up word pieces and time of training steps; the steps of the first pieces are a warm-up.

    Time runs from the end of one step to the end of the next, so that a trainer's work between its steps counts too.

    Args:
        pieces: Word pieces of the whole run; a quarter of it is warm-up at most.
        warm_up: Word pieces of the warm-up; the step that reaches them is its last.
        device: Where training computes; a GPU is waited for before the time is taken.
    """

    def __init__(self, *, pieces: int, warm_up: int, device: torch.device) -> None:
        self.warm_up = min(warm_up, pieces // 4)
        self.device = device
        self.trained_pieces = 0
        self.timed_pieces = 0
        self.seconds = 0.0
        self._began: float | None = None

    def tick(self, pieces: int, *, last: bool) -> None:
        """A step has ended.

        Args:
            pieces: Its real word pieces.
            last: Whether it was the last of the run.
        """
        self.trained_pieces += pieces
        warm = self._began is None and self.trained_pieces >= self.warm_up
        if self.device.type == "cuda" and (warm or last):
            torch.cuda.synchronize(self.device)
        now = time.perf_counter()
        if self._began is not None:
            self.timed_pieces += pieces
            self.seconds = now - self._began
        elif warm:
            self._began = now


def peak_memory_mib(device: torch.device) -> int:
    """Most memory held so far: by this process, or by tensors on the device when that is a GPU."""
    if device.type == "cuda":
        return round(torch.cuda.max_memory_allocated(device) / 2**20)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak / (2**20 if sys.platform == "darwin" else 2**10))


def describe_machine(device: torch.device) -> str:
    """The device in words, with the threads that a CPU computes on."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{_processor()}, {torch.get_num_threads()} threads"


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            names = [line.partition(":")[2].strip() for line in file if line.startswith("model name")]
    except OSError:
        names = []
    return names[0] if names else "unknown processor"
