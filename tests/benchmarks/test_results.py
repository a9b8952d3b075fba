import pytest
from rich.console import Console

from job import Answer
from results import Measurements, summary, table


def answer(speed, *, flops=None, dev_f1=None):
    return Answer(
        trained_pieces=1200,
        timed_pieces=1000,
        seconds=1000 / speed,
        peak_memory_mib=500,
        trained_values=80,
        flops_per_piece=flops,
        dev_f1=dev_f1,
        data="data",
        machine="machine",
    )


@pytest.fixture
def measured():
    return Measurements(
        answers={
            "peft_fp32": [answer(10), answer(20), answer(5)],
            "mpt": [answer(40, flops=3), answer(60, flops=3), answer(30, flops=3)],
        },
        product_rates=[240, 300, 180],
        scored={"mpt": answer(1, dev_f1=0.5)},
    )


def test_ratios_are_taken_within_a_repeat(measured):
    # Medians alone would say 40 / 10; within the repeats mpt is 4, 3 and 6 times as fast.
    assert summary(measured)["ratios"]["mpt_vs_peft_fp32"] == 4
    swapped = Measurements(
        answers={**measured.answers, "peft_fp32": [answer(20), answer(5), answer(10)]}, product_rates=[1] * 3, scored={}
    )
    assert summary(swapped)["ratios"]["mpt_vs_peft_fp32"] == 3


def test_an_arm_that_was_not_run_has_no_ratio(measured):
    ratios = summary(measured)["ratios"]
    assert list(ratios) == [
        "mpt_vs_peft_fp32",
        "mpt_vs_peft_bf16",
        "mpt_vs_peft_bf16_grouped",
        "mpt_low_rank_vs_peft_lora_fp32",
        "mpt_low_rank_vs_peft_lora_bf16_grouped",
    ]
    assert ratios["mpt_low_rank_vs_peft_lora_fp32"] is None


def test_utilisation_is_the_share_of_the_product_rate_of_the_same_repeat(measured):
    assert summary(measured)["utilisation"] == 0.5  # 40 x 3 / 240, 60 x 3 / 300, 30 x 3 / 180
    without = Measurements(answers={"peft_fp32": [answer(10)]}, product_rates=[1], scored={})
    assert summary(without)["utilisation"] is None


def test_speeds_are_medians_with_their_spread(measured):
    figures = summary(measured)
    assert figures["pieces_per_second"] == {"peft_fp32": 10, "mpt": 40}
    assert figures["spread"] == {"peft_fp32": [5, 20], "mpt": [30, 60]}


def test_scores_are_null_unless_asked_for(measured):
    assert summary(measured)["dev_f1"] == {"mpt": 0.5}
    without = Measurements(answers=measured.answers, product_rates=measured.product_rates, scored={})
    assert summary(without)["dev_f1"] is None


def test_the_table_has_a_row_for_each_arm(measured):
    console = Console(width=120)
    with console.capture() as captured:
        console.print(table(measured))
    rows = {line.split()[1]: line for line in captured.get().splitlines() if "peft" in line or "│ mpt" in line}
    assert "4.00 x" in rows["peft_fp32"]
    assert "50.0" in rows["mpt"]
