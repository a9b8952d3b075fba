import pytest
import torch

from clock import StepClock, peak_memory_mib


@pytest.fixture
def at(monkeypatch):
    """Set what the clock reads."""
    return lambda seconds: monkeypatch.setattr("time.perf_counter", lambda: seconds)


def test_the_steps_of_the_first_pieces_do_not_count(at):
    clock = StepClock(pieces=1000, warm_up=100, device=torch.device("cpu"))
    for second, pieces, last in ((50, 60, False), (60, 60, False), (61, 70, False), (63, 80, True)):
        at(second)
        clock.tick(pieces, last=last)
    assert (clock.trained_pieces, clock.timed_pieces, clock.seconds) == (270, 150, 3)


def test_a_quarter_of_a_short_run_is_warm_up_at_most():
    assert StepClock(pieces=1000, warm_up=4096, device=torch.device("cpu")).warm_up == 250


def test_peak_memory_is_that_of_this_process():
    before = peak_memory_mib(torch.device("cpu"))
    block = torch.ones(64 * 2**20 // 4 + before * 2**20 // 4)
    assert peak_memory_mib(torch.device("cpu")) >= before + 64 - 1
    del block
