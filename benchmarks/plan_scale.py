"""What the plan of a step costs in large mixtures: time, memory, and time to go on at a far step. Linux only.

The sizes are synthetic and no text is read; each mixture has a process of its own.

python benchmarks/plan_scale.py --tasks 10000 --windows 10000000 --json
python benchmarks/plan_scale.py --tasks 10000 --windows 1000000000 --sizes streamed --json
"""

import json
from dataclasses import asdict
from typing import Annotated

import typer
from rich.table import Table

from job import run_script
from plan_point import PlanCost, PlanJob
from program import named_arms, open_console, run_program

SIZES = ("equal", "power_law", "streamed")


def run(
    tasks: Annotated[int, typer.Option(min=1, help="Tasks of the mixture.")] = 10_000,
    windows: Annotated[int, typer.Option(min=1, help="Windows of all tasks together.")] = 10_000_000,
    sizes: Annotated[str, typer.Option(help="How they are spread over the tasks.")] = "equal,power_law",
    steps: Annotated[int, typer.Option(min=1, help="Steps that are timed.")] = 1000,
    far: Annotated[int, typer.Option(min=0, help="Step that a resumed run begins with.")] = 1_000_000,
    as_json: Annotated[bool, typer.Option("--json", help="End with one line of JSON.")] = False,
) -> None:
    """Measure the plans of large mixtures."""
    jobs = [
        PlanJob(sizes=name, tasks=tasks, windows=windows, steps=steps, far=far)
        for name in named_arms(sizes, SIZES, option="--sizes")
    ]
    costs = [PlanCost(**run_script("plan_point.py", json.dumps(asdict(job)))) for job in jobs]
    open_console().print(table(jobs, costs))
    if as_json:
        print(json.dumps({job.sizes: asdict(cost) for job, cost in zip(jobs, costs, strict=True)}))


def table(jobs: list[PlanJob], costs: list[PlanCost]) -> Table:
    """One row a mixture, for people."""
    made = Table(title=f"{jobs[0].tasks:,} tasks; ms a step: median, 99th percentile, maximum", title_justify="left")
    for column in ("sizes", "windows", "largest", "build s", "resume s", "ms early", "ms far", "held MiB", "peak MiB"):
        made.add_column(column, justify="right")
    for job, cost in zip(jobs, costs, strict=True):
        made.add_row(
            job.sizes,
            f"{cost.windows:,}",
            f"{cost.largest:,}",
            f"{cost.build_seconds:.1f}",
            f"{cost.resume_seconds:.2f}",
            ", ".join(f"{value:.2f}" for value in cost.early_milliseconds),
            ", ".join(f"{value:.2f}" for value in cost.far_milliseconds),
            f"{cost.held_mib:,.0f}",
            f"{cost.peak_memory_mib:,.0f}",
        )
    return made


if __name__ == "__main__":
    run_program(run)
