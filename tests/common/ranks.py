"""Processes that train together, as many as a test wants, and quickly.

A server process imports everything once; every rank is a fork of it. So a run on several ranks takes as long as its
training, not as long as importing torch. The launchers themselves are tested in `tests/pipelines`.
"""

import multiprocessing
import os
import signal
import socket
import sys
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path

_server = multiprocessing.get_context("forkserver")
_server.set_forkserver_preload(["mpt.experiments.transfer", "mpt.experiments.pretrain", "common.ranks", "common.runs"])


@dataclass
class Ranks:
    """Running processes and the files of what they print."""

    processes: list[BaseProcess]
    outputs: list[Path]

    def wait(self, timeout=60):
        """Exit statuses, negative for a signal; a process that hangs is killed and fails the test."""
        for process in self.processes:
            process.join(timeout)
        hung = [rank for rank, process in enumerate(self.processes) if process.is_alive()]
        for process in self.processes:
            process.kill()
            process.join()
        assert not hung, f"ranks {hung} hang. " + self.told()
        return [process.exitcode for process in self.processes]

    def told(self):
        """What all of them printed."""
        return "\n".join(f"--- rank {rank}\n{path.read_text()}" for rank, path in enumerate(self.outputs))

    def errors(self):
        """The message of each rank, without the traceback of a bug."""
        return [path.read_text() for path in self.outputs]

    def signal(self, rank, number=signal.SIGTERM):
        os.kill(self.processes[rank].pid, number)


def start_ranks(count, folder, function, *arguments, environment=None):
    """Start `function(rank, *arguments)` on ranks that know of each other, through `mpt.cli.main`."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    folder.mkdir(parents=True, exist_ok=True)
    outputs = [folder / f"rank-{rank}.txt" for rank in range(count)]
    processes = []
    for rank, output in enumerate(outputs):
        variables = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
        variables |= {"RANK": str(rank), "LOCAL_RANK": str(rank)}
        variables |= {"WORLD_SIZE": str(count), "LOCAL_WORLD_SIZE": str(count)}
        variables |= environment or {}
        process = _server.Process(target=_rank, args=(output, variables, os.getcwd(), function, rank, arguments))
        process.start()
        processes.append(process)
    return Ranks(processes, outputs)


def run_ranks(count, folder, function, *arguments, status=0, timeout=60, environment=None):
    """Run to the end; all ranks must end with `status`."""
    ranks = start_ranks(count, folder, function, *arguments, environment=environment)
    statuses = ranks.wait(timeout)
    assert statuses == [status] * count, f"{statuses}\n{ranks.told()}"
    return ranks


def _rank(output, variables, folder, function, rank, arguments):
    """The body of a rank: as `mpt.cli.main`, with output to a file."""
    import torch

    from mpt.cli import main

    os.chdir(folder)
    os.environ.update(variables)
    with output.open("w", buffering=1) as file:
        sys.stdout = sys.stderr = file
        torch.set_num_threads(1)
        main(lambda: function(rank, *arguments))
