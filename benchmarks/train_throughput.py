"""How fast mpt trains prompts and low-rank updates, next to PEFT's prefix tuning and LoRA on the same sentences.

Arms:
    peft_fp32: PEFT's prefix tuning under transformers' Trainer, defaults of both.
    peft_bf16: The same with `bf16=True`.
    peft_bf16_grouped: The same, and sentences of like length in a batch.
    peft_lora_fp32: PEFT's LoRA of rank 8 on all linear layers under transformers' Trainer, defaults of both else.
    peft_lora_bf16_grouped: The same with `bf16=True`, and sentences of like length in a batch.
    mpt: mpt's own training of a single task, prompts in all layers, backbone in bfloat16.
    mpt_low_rank: The same with low-rank updates of rank 8 of all linear layers.

All train prompts of one length, or updates of one rank, over one backbone, on the same windows for the same number of
epochs, with AdamW. Arms take turns, each in a process of its own. What counts are real word pieces (`[CLS]` and `[SEP]`
included, padding not) per second of training after a warm-up; start-up, evaluation and checkpoints are left out. The
threads are torch's; OMP_NUM_THREADS sets them for every arm alike. Then every arm trains once more, five times as long,
and is scored on the same dev sentences.

python benchmarks/train_throughput.py --json
"""

import importlib.util
import json
import os
from collections.abc import Sequence
from dataclasses import replace
from tempfile import TemporaryDirectory
from typing import Annotated

import typer
from rich.console import Console

from job import ARMS, LOW_RANK_ARMS, PEFT_ARMS, Answer, Job, measure, run_script
from mpt.base.errors import ConfigError, did_you_mean
from program import BACKBONE, named_arms, open_console, run_program, say, versions
from results import FORMULA, Measurements, summary, table, utilisation

DEVICES = ("cpu", "cuda")
DEV_F1_FACTOR = 5  # the training that is scored has so many times the word pieces


def run(
    arms: Annotated[str, typer.Option(help="Arms to run, with commas between.")] = ",".join(ARMS),
    repeats: Annotated[int, typer.Option(min=1, help="Times that every arm runs.")] = 3,
    pieces: Annotated[int, typer.Option(min=3000, help="Word pieces of a run, rounded to whole epochs.")] = 60_000,
    prompt_length: Annotated[int, typer.Option(min=1, max=200, help="Virtual tokens.")] = 16,
    device: Annotated[str, typer.Option(help="cpu: MiniLM-L6. cuda: random RoBERTa-large.")] = "cpu",
    dev_f1: Annotated[bool, typer.Option(help="Then train each arm five times as long, and score it.")] = True,
    peft_learning_rate: Annotated[float, typer.Option(help="Of prefix and head; PEFT's guide has 0.01.")] = 0.01,
    mpt_learning_rate: Annotated[float, typer.Option(help="Of the prompt; mpt's default is 0.1.")] = 0.1,
    low_rank_learning_rate: Annotated[float, typer.Option(help="Of low-rank updates, PEFT's and mpt's.")] = 1e-3,
    as_json: Annotated[bool, typer.Option("--json", help="End with one line of JSON.")] = False,
) -> None:
    """Measure training speed and memory of mpt and of PEFT."""
    names = checked_arms(arms)
    if device not in DEVICES:
        raise ConfigError(f'--device "{device}" is not one of {", ".join(DEVICES)}.{did_you_mean(device, DEVICES)}')
    console = open_console()
    with TemporaryDirectory() as folder:
        os.environ["MPT_CACHE"] = f"{folder}/cache"
        backbone = BACKBONE
        if device == "cuda":
            backbone = f"{folder}/backbone"
            run_script("large_backbone.py", backbone, BACKBONE)
        of_prompt = {True: peft_learning_rate, False: mpt_learning_rate}
        jobs = [
            Job(
                arm=arm,
                backbone=backbone,
                pieces=pieces,
                prompt_length=prompt_length,
                device=device,
                seed=0,
                learning_rate=low_rank_learning_rate if arm in LOW_RANK_ARMS else of_prompt[arm in PEFT_ARMS],
            )
            for arm in names
        ]
        measured = measure_all(jobs, repeats=repeats, dev_f1=dev_f1, console=console)
    tell(measured, console)
    if as_json:
        first = measured.answers[names[0]][0]
        about = {"machine": first.machine, "versions": versions(), "data": first.data}
        settings = {"repeats": repeats, "pieces": pieces, "prompt_length": prompt_length, "device": device}
        print(json.dumps({**summary(measured), **about, "settings": settings}))


def checked_arms(text: str) -> list[str]:
    """The arms of a list with commas, in the order in which they take turns.

    Raises:
        ConfigError: One is unknown, or needs PEFT and it is not installed.
    """
    names = named_arms(text, ARMS)
    needing = [name for name in names if name in PEFT_ARMS]
    if needing and importlib.util.find_spec("peft") is None:
        raise ConfigError(
            f"--arms {','.join(needing)}: expected PEFT beside mpt, it is not installed. "
            "Run: pip install 'mpt-prompts[bench]', or leave these arms out"
        )
    return names


def measure_all(jobs: Sequence[Job], *, repeats: int, dev_f1: bool, console: Console) -> Measurements:
    """Run the jobs in turn, repeat by repeat, each repeat with its own seed; then, if asked for, the scored trainings.

    Raises:
        MptError: What a process found wrong with its input.
    """
    answers: dict[str, list[Answer]] = {job.arm: [] for job in jobs}
    rates: list[float] = []
    for repeat in range(repeats):
        for job in jobs:
            answer = measure(replace(job, seed=repeat))
            answers[job.arm].append(answer)
            say(console, f"repeat {repeat + 1}/{repeats}, {job.arm}: {answer.pieces_per_second:,.0f} word pieces/s")
        rates.append(run_script("flops.py", jobs[0].device))
        say(console, f"repeat {repeat + 1}/{repeats}, best matrix product: {rates[-1] / 1e9:,.0f} GFLOP/s")
    scored: dict[str, Answer] = {}
    for job in jobs if dev_f1 else []:
        scored[job.arm] = measure(replace(job, pieces=DEV_F1_FACTOR * job.pieces, score_dev=True))
        say(console, f"dev, {job.arm}: {scored[job.arm].trained_pieces:,} word pieces")
    return Measurements(answers=answers, product_rates=rates, scored=scored)


def tell(measured: Measurements, console: Console) -> None:
    """Print the table and what the figures mean."""
    first = next(iter(measured.answers.values()))[0]
    console.print(table(measured))
    say(
        console, f"data: {first.data}; {first.trained_pieces:,} word pieces a run, {first.timed_pieces:,} of them timed"
    )
    say(console, f"machine: {first.machine}")
    share = utilisation(measured)
    if share is not None:
        say(console, f"utilisation of mpt: {share:.1%}, which is {FORMULA}")
    for arm, answer in measured.scored.items():
        say(console, f"dev F1 of {arm}: one training on {answer.trained_pieces:,} word pieces")


if __name__ == "__main__":
    run_program(run)
