"""The program itself: figures, options, and the processes of its arms on a tiny backbone."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from common.backbones import tiny_backbone
from rich.console import Console

from mpt.base.errors import ConfigError, MptError
from predict_job import ARMS, PredictAnswer, PredictJob, measure
from predict_throughput import summary, table
from program import named_arms

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "predict_throughput.py"


@pytest.fixture(scope="module")
def backbone(tmp_path_factory):
    """A tiny one with positions for every sentence."""
    return str(tiny_backbone(tmp_path_factory.mktemp("backbone"), "bert", max_position_embeddings=2048))


def answer(speed, memory=500):
    return PredictAnswer(
        words=1000,
        seconds=1000 / speed,
        cpu_seconds=500 / speed,
        peak_memory_mib=memory,
        data="data",
        machine="machine",
    )


@pytest.fixture
def answers():
    return {
        "pipeline_fp32": [answer(10), answer(20), answer(5)],
        "mpt": [answer(40, 300), answer(60, 400), answer(30, 200)],
    }


def test_ratios_are_taken_within_a_repeat(answers):
    # Medians alone would say 40 / 10 also here; the ratios are 2, 12 and 3.
    answers["pipeline_fp32"] = [answer(20), answer(5), answer(10)]
    assert summary(answers)["ratios"] == {"mpt_vs_pipeline_fp32": 3}


def test_figures_are_medians_with_their_spread(answers):
    figures = summary(answers)
    assert figures["words_per_second"] == {"pipeline_fp32": 10, "mpt": 40}
    assert figures["spread"] == {"pipeline_fp32": [5, 20], "mpt": [30, 60]}
    assert figures["words_per_cpu_second"] == {"pipeline_fp32": 20, "mpt": 80}
    assert figures["cpu_ratios"] == {"mpt_vs_pipeline_fp32": 4}
    assert figures["peak_memory_mib"] == {"pipeline_fp32": 500, "mpt": 300}


def test_without_mpt_there_is_no_ratio(answers):
    del answers["mpt"]
    assert summary(answers)["ratios"] == {}


def test_the_table_has_a_row_for_each_arm(answers):
    console = Console(width=120)
    with console.capture() as captured:
        console.print(table(answers))
    assert "4.00 x" in captured.get()
    assert "30 to 60" in captured.get()


def test_arms_take_turns_in_their_own_order_and_an_unknown_one_is_refused():
    assert named_arms("mpt, pipeline_fp32", ARMS) == ["pipeline_fp32", "mpt"]
    with pytest.raises(ConfigError, match=r'"mtp" is not one of .* Did you mean "mpt"'):
        named_arms("mtp", ARMS)


@pytest.mark.parametrize("arm", ["pipeline_fp32", "pipeline_bf16_8_sorted", "mpt"])
def test_every_kind_of_arm_tags_the_same_words(backbone, tmp_path, monkeypatch, arm):
    monkeypatch.setenv("MPT_DATA", str(tmp_path))
    found = measure(PredictJob(arm=arm, backbone=backbone, sentences=20, prompt_length=4))
    assert found.words == 570
    assert found.seconds > 0 and found.cpu_seconds > 0 and found.peak_memory_mib > 0
    assert "synthetic" in found.data and "20 sentences" in found.data


def test_what_a_process_refuses_is_told_as_an_error_here():
    with pytest.raises(MptError, match=r'^backbone "./nowhere": no such folder'):
        measure(PredictJob(arm="mpt", backbone="./nowhere", sentences=1, prompt_length=4))


def test_the_last_line_is_json(backbone, tmp_path, monkeypatch):
    monkeypatch.setenv("MPT_DATA", str(tmp_path))
    options = ["--arms", "mpt", "--repeats", "1", "--sentences", "5", "--prompt-length", "4", "--backbone", backbone]
    done = subprocess.run([sys.executable, SCRIPT, *options, "--json"], capture_output=True, text=True, check=True)
    figures = json.loads(done.stdout.splitlines()[-1])
    assert figures["words_per_second"]["mpt"] > 0
    assert {"ratios", "peak_memory_mib", "versions", "machine"} <= figures.keys()


def test_the_starting_process_does_not_load_torch():
    # A child's peak memory begins at that of the process which starts it.
    code = "import sys, predict_throughput; print(*{'torch', 'transformers'} & sys.modules.keys())"
    done = subprocess.run([sys.executable, "-c", code], cwd=SCRIPT.parent, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
