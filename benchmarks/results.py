"""What the measurements come to: medians, paired ratios, a table and a JSON object."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from rich.table import Table

from job import Answer

RATIOS = {
    "mpt_vs_peft_fp32": ("mpt", "peft_fp32"),
    "mpt_vs_peft_bf16": ("mpt", "peft_bf16"),
    "mpt_vs_peft_bf16_grouped": ("mpt", "peft_bf16_grouped"),
    "mpt_low_rank_vs_peft_lora_fp32": ("mpt_low_rank", "peft_lora_fp32"),
    "mpt_low_rank_vs_peft_lora_bf16_grouped": ("mpt_low_rank", "peft_lora_bf16_grouped"),
}
"""Which arm's word pieces per second are divided by which other's."""

FORMULA = (
    "(2 forward + 2 activation backward) x non-embedding backbone weights x real word pieces per second (nothing is "
    "counted for attention, prompts and heads), over the best bfloat16 matrix product of the same repeat"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurements:
    """Everything that was measured.

    Attributes:
        answers: Of each arm, one a repeat.
        product_rates: Operations per second of the best matrix product, one a repeat.
        scored: Of each arm, the longer training that ended with a dev score; empty when not asked for.
    """

    answers: Mapping[str, Sequence[Answer]]
    product_rates: Sequence[float]
    scored: Mapping[str, Answer]


def speeds(measured: Measurements) -> dict[str, list[float]]:
    """Real word pieces per second of each arm, one a repeat."""
    return {arm: [answer.pieces_per_second for answer in answers] for arm, answers in measured.answers.items()}


def ratio(measured: Measurements, name: str) -> float | None:
    """Median over repeats of the ratio within a repeat, so that what slows a whole repeat falls out.

    Returns:
        None when an arm was not run.
    """
    of, over = (speeds(measured).get(arm) for arm in RATIOS[name])
    return None if of is None or over is None else paired_ratio(of, over)


def paired_ratio(of: Sequence[float], over: Sequence[float]) -> float:
    """Median of the ratios of two arms' speeds in the same repeats."""
    return median(a / b for a, b in zip(of, over, strict=True))


def utilisation(measured: Measurements) -> float | None:
    """Share of the best matrix product's operations that mpt turns into useful ones; see `flops`.

    Returns:
        The median over repeats; None when the arm `mpt` was not run.
    """
    pairs = zip(measured.answers.get("mpt", []), measured.product_rates, strict=False)
    shares = [answer.pieces_per_second * (answer.flops_per_piece or 0) / rate for answer, rate in pairs]
    return median(shares) if shares else None


def summary(measured: Measurements) -> dict[str, Any]:
    """All figures, for programs."""
    by_arm = speeds(measured)
    return {
        "pieces_per_second": {arm: round(median(values), 1) for arm, values in by_arm.items()},
        "spread": {arm: [round(min(values), 1), round(max(values), 1)] for arm, values in by_arm.items()},
        "ratios": {name: _rounded(ratio(measured, name), 3) for name in RATIOS},
        "peak_memory_mib": {arm: round(_peak(answers)) for arm, answers in measured.answers.items()},
        "trained_values": {arm: answers[0].trained_values for arm, answers in measured.answers.items()},
        "utilisation": _rounded(utilisation(measured), 4),
        "dev_f1": {arm: _rounded(answer.dev_f1, 4) for arm, answer in measured.scored.items()} or None,
    }


def table(measured: Measurements) -> Table:
    """One row an arm, for people."""
    repeats = max(len(answers) for answers in measured.answers.values())
    made = Table(title=f"training, medians of {repeats} repeats", title_justify="left")
    made.add_column("arm")
    for name in ("word pieces/s", "lowest to highest", "mpt is faster by", "peak MiB", "trained values", "dev F1"):
        made.add_column(name, justify="right")
    over_peft = {over: ratio(measured, name) for name, (_, over) in RATIOS.items()}
    for arm, values in speeds(measured).items():
        score = measured.scored[arm].dev_f1 if arm in measured.scored else None
        factor = over_peft.get(arm)
        made.add_row(
            arm,
            f"{median(values):,.0f}",
            f"{min(values):,.0f} to {max(values):,.0f}",
            "" if factor is None else f"{factor:.2f} x",
            f"{_peak(measured.answers[arm]):,.0f}",
            f"{measured.answers[arm][0].trained_values:,}",
            "" if score is None else f"{100 * score:.1f}",
        )
    return made


def _peak(answers: Sequence[Answer]) -> float:
    return median(answer.peak_memory_mib for answer in answers)


def _rounded(value: float | None, digits: int) -> float | None:
    return None if value is None else round(value, digits)
