import signal
import time
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from common.ranks import run_ranks, start_ranks

from mpt.base.errors import ConfigError, LaunchError, PeerError
from mpt.base.signals import StopRequest
from mpt.training.ranks import (
    Abandoned,
    Share,
    any_rank,
    contact,
    exchange,
    gather,
    lost_after,
    require_alike,
    together,
)
from mpt.training.workers import Workers

ALONE = SimpleNamespace(num_processes=1, process_index=0)


def join():
    from accelerate import Accelerator

    return Accelerator(cpu=True)


def rows_of(item):
    """As many rows as the item says, holding the item."""
    return np.full((item, 3), item, dtype=np.float32)


def talk(rank):
    accelerator = join()
    assert accelerator.num_processes == 2
    assert any_rank(accelerator, rank == 1)
    assert not any_rank(accelerator, False)
    assert gather(accelerator, torch.tensor([rank])).tolist() == [0, 1]
    values = exchange(accelerator, {"rank": rank, "text": "é" * (1 + 50 * rank)})
    assert values == [{"rank": 0, "text": "é"}, {"rank": 1, "text": "é" * 51}]
    with together(accelerator):
        pass
    require_alike(accelerator, {"a": 1})
    for items in ([], [2], [1, 2], [3, 0, 1], list(range(7))):
        share = Share(accelerator, Workers())
        found = share(rows_of, items)
        assert len(found) == len(items)
        assert all(np.array_equal(rows, rows_of(item)) for rows, item in zip(found, items, strict=True)), items
    stop = StopRequest()
    stop.signal = 15 if rank == 1 else None
    with pytest.raises(Abandoned):
        Share(accelerator, Workers(), stop)(rows_of, [1, 2, 3])


def fail_on_rank_one(rank, error):
    accelerator = join()
    with together(accelerator):
        if rank == 1:
            raise error


def differ(rank):
    require_alike(join(), {"settings": {"seed": 0}, "versions": {"torch": f"2.{rank}"}, "names": ["a"]})


def lose_each_other(rank):
    accelerator = join()
    if rank == 1:
        raise KeyError("gone")
    any_rank(accelerator, False)


def be_silent(rank):
    accelerator = join()
    with lost_after(accelerator, 1):
        any_rank(accelerator, False)
    time.sleep(2 if rank else 0)  # the usual limit again
    any_rank(accelerator, False)
    print("heard again")
    with lost_after(accelerator, 1):
        time.sleep(30 if rank else 0)
        any_rank(accelerator, False)


def test_two_ranks_hear_each_other(tmp_path):
    run_ranks(2, tmp_path, talk)


def test_one_process_talks_to_itself():
    assert any_rank(ALONE, True) and not any_rank(ALONE, False)
    assert exchange(ALONE, {"a": 1}) == [{"a": 1}]
    with pytest.raises(ConfigError, match="own"), together(ALONE):
        raise ConfigError("own")
    require_alike(ALONE, {"a": 1})
    assert [len(rows) for rows in Share(ALONE, Workers(2))(rows_of, [3, 0, 2])] == [3, 0, 2]


def test_work_is_abandoned_when_somebody_asks_to_stop():
    stop, done = StopRequest(), []

    def work(item):
        done.append(item)
        stop.signal = 15
        return rows_of(item)

    with pytest.raises(Abandoned):
        Share(ALONE, Workers(), stop)(work, [1, 2, 3])
    assert done == [1]


def test_an_error_of_one_rank_is_told_once_and_ends_all(tmp_path):
    ranks = run_ranks(2, tmp_path, fail_on_rank_one, ConfigError("bad file"), status=2)
    assert ranks.errors() == ["", "error: rank 1: bad file\n"]


@pytest.mark.distributed
def test_a_bug_on_one_rank_keeps_its_traceback_and_ends_all(tmp_path):
    ranks = run_ranks(2, tmp_path, fail_on_rank_one, KeyError("bug"), status=1)
    quiet, loud = ranks.errors()
    assert quiet == ""
    assert "Traceback" in loud and "KeyError: 'bug'" in loud


def test_ranks_that_differ_are_refused_once_with_both_values(tmp_path):
    ranks = run_ranks(2, tmp_path, differ, status=2)
    told, silent = ranks.errors()
    assert silent == ""
    assert "ranks 0 and 1 of this run differ:\n  versions.torch: rank 0 '2.0', rank 1 '2.1'\nGive every" in told


@pytest.mark.distributed
def test_a_rank_that_is_gone_ends_the_others(tmp_path):
    began = time.monotonic()
    ranks = start_ranks(2, tmp_path, lose_each_other)
    assert ranks.wait(30) == [2, 1]
    assert time.monotonic() - began < 30
    assert "lost contact with another process of this run" in ranks.errors()[0]


def test_a_rank_that_is_not_heard_of_is_lost_after_the_time_given(tmp_path):
    ranks = start_ranks(2, tmp_path, be_silent)
    ranks.processes[0].join(20)
    assert ranks.processes[0].exitcode == 2, ranks.told()
    assert ranks.errors()[0].startswith("heard again\nerror: lost contact") and "is out of reach" in ranks.errors()[0]
    ranks.signal(1, signal.SIGKILL)
    assert ranks.wait() == [2, -9]


def test_a_broken_connection_is_named():
    with pytest.raises(LaunchError, match=r"lost contact .*--resume auto \(Connection closed\)"), contact():
        raise RuntimeError("Connection closed\nby peer")


def test_what_another_rank_tells_is_in_the_error_of_this_one():
    assert str(PeerError(3, "bad file", 2)) == "rank 3 failed: bad file"
