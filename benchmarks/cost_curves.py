"""What a training step costs as tasks, sentences and prompts grow.

Each point of a curve is measured in a process of its own, with mpt's defaults and synthetic sentences of one length;
points take turns, and a ratio is that of two points of one repeat. A step has the same number of positions everywhere.

python benchmarks/cost_curves.py --json
"""

import json
from dataclasses import asdict, dataclass
from statistics import median
from typing import Annotated, Any

import typer
from rich.table import Table

from job import MPT_ENVIRONMENT, run_script
from program import BACKBONE, named_arms, open_console, run_program

CURVES = {
    "tasks": (1, 10, 100, 1000),
    "sentence_pieces": (16, 32, 64, 128, 256, 512),
    "prompt_length": (1, 16, 32, 64, 128, 256),
}
"""What grows, and its values; the rest stays at one task, 32 word pieces and 16 virtual tokens."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """One point of a curve.

    Attributes:
        value: Of what grows.
        milliseconds: Of a step, the median over repeats.
        times_first: Time of a step over that of the curve's first point, the median over repeats.
        plan_milliseconds: Of finding a step's windows.
        pieces: Real word pieces of a step.
        peak_memory_mib: Of the process, or of the device when that is a GPU.
    """

    value: int
    milliseconds: float
    times_first: float
    plan_milliseconds: float
    pieces: float
    peak_memory_mib: float


def run(
    curves: Annotated[str, typer.Option(help="Curves to measure, with commas between.")] = ",".join(CURVES),
    repeats: Annotated[int, typer.Option(min=1, help="Times that every point is measured.")] = 3,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    backbone: Annotated[str, typer.Option(help="Reference of the backbone.")] = BACKBONE,
    as_json: Annotated[bool, typer.Option("--json", help="End with one line of JSON.")] = False,
) -> None:
    """Measure how the cost of a step grows."""
    console = open_console()
    measured: dict[str, list[Measured]] = {}
    for name in named_arms(curves, tuple(CURVES), option="--curves"):
        measured[name] = measure_curve(name, backbone, device, repeats)
        console.print(table(name, measured[name], repeats))
    if as_json:
        print(json.dumps({name: [asdict(point) for point in points] for name, points in measured.items()}))


def measure_curve(name: str, backbone: str, device: str, repeats: int) -> list[Measured]:
    """Measure all points of one curve, in turn.

    Raises:
        MptError: What a process found wrong with its input.
    """
    rounds: list[list[dict[str, Any]]] = []
    for _ in range(repeats):
        points = [json.dumps({"backbone": backbone, "device": device, name: value}) for value in CURVES[name]]
        rounds.append([run_script("cost_point.py", point, environment=MPT_ENVIRONMENT) for point in points])

    def middle(index: int, key: str) -> float:
        return median(costs[index][key] for costs in rounds)

    return [
        Measured(
            value=value,
            milliseconds=round(1000 * middle(i, "seconds"), 1),
            times_first=round(median(costs[i]["seconds"] / costs[0]["seconds"] for costs in rounds), 3),
            plan_milliseconds=round(middle(i, "plan_milliseconds"), 2),
            pieces=middle(i, "pieces"),
            peak_memory_mib=middle(i, "peak_memory_mib"),
        )
        for i, value in enumerate(CURVES[name])
    ]


def table(name: str, points: list[Measured], repeats: int) -> Table:
    """One row a point, for people."""
    made = Table(title=f"{name.replace('_', ' ')}, medians of {repeats} repeats", title_justify="left")
    for column in (name.replace("_", " "), "ms a step", "times the first", "ms of it for the plan", "peak MiB"):
        made.add_column(column, justify="right")
    for point in points:
        made.add_row(
            f"{point.value:,}",
            f"{point.milliseconds:,.1f}",
            f"{point.times_first:.3f}",
            f"{point.plan_milliseconds:.2f}",
            f"{point.peak_memory_mib:,.0f}",
        )
    return made


if __name__ == "__main__":
    run_program(run)
