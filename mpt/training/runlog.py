"""What a run says: a progress bar or plain lines for people, `metrics.jsonl` for programs, trackers through Accelerate.

Metric names are paths: `train/loss`, `train/TASK/loss`, `dev/TASK/span_f1`, `optim/gradient_norm`,
`perf/pieces_per_second`. Only rank 0 says anything.
"""

import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from accelerate import Accelerator
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from mpt.base.files import replace_durable

METRICS_FILE = "metrics.jsonl"
LINES = 20  # plain progress lines of a run, at most


class RunLog:
    """The voice of one run.

    Args:
        folder: Where `metrics.jsonl` is appended to; None keeps no file.
        console: Where people read.
        accelerator: Knows the rank and the trackers.
        steps: Steps of the whole run.
        step: Steps done before; on resume, records of later steps are dropped from the file, so that none is double.
        title: What the progress line is called; None shows no progress.
    """

    def __init__(
        self,
        folder: Path | None,
        *,
        console: Console,
        accelerator: Accelerator,
        steps: int,
        step: int,
        title: str | None,
    ) -> None:
        self.accelerator = accelerator
        self.console = console
        self.steps = steps
        self.title = title
        self._speaks = accelerator.is_main_process
        self._started = time.monotonic()
        self._first_step = step
        self._path = folder / METRICS_FILE if folder is not None and self._speaks else None
        if self._path is not None:
            _drop_after(self._path, step)
        self._progress: Progress | None = None
        if self._speaks and title is not None and console.is_terminal:
            self._progress = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("steps"),
                TimeElapsedColumn(),
                TextColumn("left"),
                TimeRemainingColumn(),
                TextColumn("{task.fields[status]}"),
                console=console,
            )
            self._bar = self._progress.add_task(title, total=steps, completed=step, status="")
            self._progress.start()

    def close(self) -> None:
        """Take the progress bar down."""
        if self._progress is not None:
            self._progress.stop()

    def say(self, text: str) -> None:
        """One line for people, from rank 0."""
        if self._speaks:
            self.console.print(text, highlight=False, markup=False, soft_wrap=True)

    def step(self, step: int, metrics: Mapping[str, float]) -> None:
        """Record a training step; `step` is the number of steps done."""
        self._write("train", step, metrics)
        status = f"loss {metrics['train/loss']:.3f}, {metrics['perf/pieces_per_second']:,.0f} pieces/s"
        if self._progress is not None:
            self._progress.update(self._bar, completed=step, status=status)
        elif self.title is not None and (step % max(self.steps // LINES, 1) == 0 or step == self.steps):
            done = step - self._first_step
            left = (time.monotonic() - self._started) / max(done, 1) * (self.steps - step)
            self.say(f"{self.title}: step {step}/{self.steps}, {status}, {left / 60:.1f} min left")

    def evaluation(self, step: int, metrics: Mapping[str, float]) -> None:
        """Record an evaluation."""
        self._write("dev", step, metrics)

    def _write(self, kind: str, step: int, metrics: Mapping[str, float]) -> None:
        if self._path is not None:
            record = {"step": step, "kind": kind, **{name: round(value, 6) for name, value in metrics.items()}}
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(record) + "\n")
        if self.accelerator.trackers:
            self.accelerator.log(dict(metrics), step=step)


def _drop_after(path: Path, step: int) -> None:
    """Keep the records up to `step`: what came later is computed again."""
    if not path.exists():
        return
    kept = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            record = json.loads(line)
        except ValueError:
            break  # a line cut off by a crash; everything before it is whole
        if record["step"] <= step:
            kept.append(line)
    replace_durable(path, "".join(line + "\n" for line in kept).encode())


def tell(console: Console, notices: Sequence[str]) -> None:
    """Print notices as they are, one a line."""
    for notice in notices:
        console.print(f"note: {notice}", highlight=False, markup=False, soft_wrap=True)
