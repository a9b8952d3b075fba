"""How fast mpt tags text, next to transformers' pipeline on the same sentences.

Arms:
    pipeline_fp32: `pipeline("token-classification")` with its defaults: float32, a sentence at a time.
    pipeline_bf16: The same with the weights in bfloat16.
    pipeline_bf16_8: The same, eight sentences in a batch.
    pipeline_bf16_8_sorted: The same, sentences sorted by their number of words.
    pipeline_bf16_32_sorted: The same with 32 sentences in a batch.
    mpt: mpt's predictor as `mpt predict` runs it: bfloat16, prompts in all layers, batches by itself.

All have the same backbone, a linear head with random weights and the same labels. The pipeline gets each sentence as a
text, its words joined by spaces, and returns the entity of each word piece; mpt gets words and returns a tag for each,
valid BIO2. Timed is all from words or text to tags: tokenisation, forward passes, decoding. Start-up and the tagging of
a few sentences to warm up are left out, as are files. Arms take turns, each in a process of its own. The threads are
torch's; OMP_NUM_THREADS sets them for every arm alike.

python benchmarks/predict_throughput.py --repeats 3
"""

import json
from collections.abc import Mapping, Sequence
from statistics import median
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from predict_job import ARMS, PIPELINE_ARMS, PredictAnswer, PredictJob, measure
from program import BACKBONE, named_arms, open_console, run_program, say, versions
from results import paired_ratio

Answers = Mapping[str, Sequence[PredictAnswer]]
"""Of each arm, one a repeat."""


def run(
    arms: Annotated[str, typer.Option(help="Arms to run, with commas between.")] = ",".join(ARMS),
    repeats: Annotated[int, typer.Option(min=1, help="Times that every arm runs.")] = 3,
    sentences: Annotated[int, typer.Option(min=1, help="Sentences to tag.")] = 2000,
    prompt_length: Annotated[int, typer.Option(min=1, max=200, help="Virtual tokens of mpt's prompt.")] = 16,
    backbone: Annotated[str, typer.Option(help="Backbone of all arms.")] = BACKBONE,
    as_json: Annotated[bool, typer.Option("--json", help="End with one line of JSON.")] = False,
) -> None:
    """Measure words per second and memory of mpt's predictor and of transformers' pipeline."""
    jobs = [
        PredictJob(arm=arm, backbone=backbone, sentences=sentences, prompt_length=prompt_length)
        for arm in named_arms(arms, ARMS)
    ]
    console = open_console()
    answers = measure_all(jobs, repeats=repeats, console=console)
    first = answers[jobs[0].arm][0]
    console.print(table(answers))
    say(console, f"data: {first.data}, {first.words:,} words")
    say(console, f"machine: {first.machine}")
    if as_json:
        about = {"machine": first.machine, "versions": versions(), "data": first.data, "words": first.words}
        settings = {"repeats": repeats, "sentences": sentences, "prompt_length": prompt_length, "backbone": backbone}
        print(json.dumps({**summary(answers), **about, "settings": settings}))


def measure_all(jobs: Sequence[PredictJob], *, repeats: int, console: Console) -> dict[str, list[PredictAnswer]]:
    """Run the jobs in turn, repeat by repeat.

    Raises:
        MptError: What a process found wrong with its input.
    """
    answers: dict[str, list[PredictAnswer]] = {job.arm: [] for job in jobs}
    for repeat in range(repeats):
        for job in jobs:
            answer = measure(job)
            answers[job.arm].append(answer)
            say(console, f"repeat {repeat + 1}/{repeats}, {job.arm}: {answer.words_per_second:,.0f} words/s")
    return answers


def speeds(answers: Answers) -> dict[str, list[float]]:
    """Words per second of each arm, one a repeat."""
    return {arm: [answer.words_per_second for answer in of_arm] for arm, of_arm in answers.items()}


def cpu_speeds(answers: Answers) -> dict[str, list[float]]:
    """Words per second of processor time of each arm, one a repeat."""
    return {arm: [answer.words_per_cpu_second for answer in of_arm] for arm, of_arm in answers.items()}


def ratios(by_arm: Mapping[str, Sequence[float]]) -> dict[str, float]:
    """By how much mpt is faster than each arm that was run beside it; see `results.paired_ratio`."""
    return {arm: paired_ratio(by_arm["mpt"], by_arm[arm]) for arm in PIPELINE_ARMS if {arm, "mpt"} <= by_arm.keys()}


def summary(answers: Answers) -> dict[str, Any]:
    """All figures, for programs."""
    by_arm, by_cpu = speeds(answers), cpu_speeds(answers)
    return {
        "words_per_second": {arm: round(median(values), 1) for arm, values in by_arm.items()},
        "spread": {arm: [round(min(values), 1), round(max(values), 1)] for arm, values in by_arm.items()},
        "ratios": {f"mpt_vs_{arm}": round(value, 3) for arm, value in ratios(by_arm).items()},
        "words_per_cpu_second": {arm: round(median(values), 1) for arm, values in by_cpu.items()},
        "cpu_spread": {arm: [round(min(values), 1), round(max(values), 1)] for arm, values in by_cpu.items()},
        "cpu_ratios": {f"mpt_vs_{arm}": round(value, 3) for arm, value in ratios(by_cpu).items()},
        "peak_memory_mib": {arm: median(one.peak_memory_mib for one in of_arm) for arm, of_arm in answers.items()},
    }


def table(answers: Answers) -> Table:
    """One row an arm, for people."""
    by_arm, by_cpu = speeds(answers), cpu_speeds(answers)
    factors = ratios(by_arm)
    made = Table(title="prediction, medians", title_justify="left")
    made.add_column("arm")
    for name in ("words/s", "lowest to highest", "mpt is faster by", "words/CPU s", "peak MiB"):
        made.add_column(name, justify="right")
    for arm, values in by_arm.items():
        made.add_row(
            arm,
            f"{median(values):,.0f}",
            f"{min(values):,.0f} to {max(values):,.0f}",
            f"{factors[arm]:.2f} x" if arm in factors else "",
            f"{median(by_cpu[arm]):,.0f}",
            f"{median(one.peak_memory_mib for one in answers[arm]):,.0f}",
        )
    return made


if __name__ == "__main__":
    run_program(run)
