"""Requests to stop, noted and acted on where nothing is lost.

Cluster managers ask a job to end by SIGTERM, people by SIGINT (Ctrl-C). While a model trains, the request is noted and
the loop ends at the next step boundary, with a checkpoint. At every other time a signal ends the process at once, as it
does any program: there is nothing that would be lost.
"""

import os
import signal
import threading
import time
from collections.abc import Mapping
from types import TracebackType
from typing import Any

STOPS = (signal.SIGTERM, signal.SIGINT)
LAUNCHERS = ("ACCELERATE_MIXED_PRECISION", "TORCHELASTIC_RUN_ID")  # set by `accelerate launch` and by torchrun
WATCH_SECONDS = 0.5


class StopRequest:
    """Notes SIGTERM and SIGINT that arrive inside its `with` block; repeating them is harmless.

    A request that comes too late for anybody to act on is not lost: it takes its usual effect when the block ends.
    Outside the main thread, where Python delivers no signals, the block notes none.

    Attributes:
        signal: Number of the first signal; None when nobody asked.
    """

    def __init__(self) -> None:
        self.signal: int | None = None
        self._previous: dict[signal.Signals, Any] = {}

    @property
    def noted(self) -> bool:
        """Whether somebody asked to stop."""
        return self.signal is not None

    def __enter__(self) -> "StopRequest":
        if threading.current_thread() is threading.main_thread():
            self._previous = {number: signal.signal(number, self._note) for number in STOPS}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        if kind is None and self.signal is not None:
            signal.raise_signal(self.signal)

    def _note(self, number: int, frame: object) -> None:
        self.signal = self.signal or number


def follow_launcher(environment: Mapping[str, str] = os.environ) -> None:
    """Ask this process to stop when the launcher that started it is gone.

    `accelerate launch` of one process forwards no signal: it dies and leaves the process behind, training on.
    """
    if not any(name in environment for name in LAUNCHERS):
        return
    launcher = os.getppid()

    def watch() -> None:
        while os.getppid() == launcher:
            time.sleep(WATCH_SECONDS)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, name="launcher watch", daemon=True).start()
