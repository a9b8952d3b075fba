"""The program itself: its options, its errors, and the process of an arm on a tiny backbone."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from common.backbones import LAYERS, tiny_backbone

from job import Job, measure
from large_backbone import write_backbone
from mpt.base.errors import ConfigError, MptError
from mpt.model.backbone.backbone import load_backbone
from train_throughput import checked_arms

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "train_throughput.py"


@pytest.fixture(scope="module")
def backbone(tmp_path_factory):
    """A tiny one with positions for every window and a prompt."""
    return tiny_backbone(tmp_path_factory.mktemp("backbone"), "bert", max_position_embeddings=512)


@pytest.fixture
def job(backbone, tmp_path, monkeypatch):
    """A short training of mpt on synthetic sentences."""
    monkeypatch.setenv("MPT_DATA", str(tmp_path))
    return Job(
        arm="mpt",
        backbone=str(backbone),
        pieces=6000,
        prompt_length=4,
        device="cpu",
        seed=0,
        learning_rate=0.1,
        score_dev=True,
    )


def test_arms_take_turns_in_their_own_order(monkeypatch):
    assert checked_arms("mpt_low_rank, mpt, peft_lora_fp32") == ["peft_lora_fp32", "mpt", "mpt_low_rank"]


def test_an_unknown_arm_is_refused_with_the_known_ones():
    with pytest.raises(ConfigError, match=r'"mpt_lowrank" is not one of .* Did you mean "mpt_low_rank"\?'):
        checked_arms("mpt,mpt_lowrank")


def test_without_peft_its_arms_are_refused_with_the_remedy(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"--arms peft_bf16: .*pip install 'mpt-prompts\[bench\]'"):
        checked_arms("mpt,peft_bf16")
    assert checked_arms("mpt") == ["mpt"]


def test_a_wrong_option_ends_with_status_2_and_no_traceback():
    done = subprocess.run([sys.executable, SCRIPT, "--arms", "x"], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith('error: --arms "x" is not one of')


def test_the_starting_process_does_not_load_torch():
    # A child's peak memory begins at that of the process which starts it.
    code = "import sys, train_throughput; print(*{'torch', 'transformers'} & sys.modules.keys())"
    done = subprocess.run([sys.executable, "-c", code], cwd=SCRIPT.parent, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def test_mpt_trains_prompts_of_all_layers_and_answers(job):
    answer = measure(job)
    assert answer.trained_values == LAYERS * 2 * 4 * 32 + 3 * 32 + 3
    assert 0 < answer.timed_pieces < answer.trained_pieces
    assert answer.seconds > 0 and answer.peak_memory_mib > 0 and answer.flops_per_piece
    assert answer.dev_f1 is not None and 0 <= answer.dev_f1 <= 1
    assert "synthetic" in answer.data


def test_what_a_process_refuses_is_told_as_an_error_here(job):
    from dataclasses import replace

    with pytest.raises(MptError, match=r'^backbone "./nowhere": no such folder'):
        measure(replace(job, backbone="./nowhere"))


def test_a_random_backbone_of_any_size_can_be_prompted(backbone, tmp_path):
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    write_backbone(tmp_path, str(backbone), max_position_embeddings=514, **sizes)
    loaded = load_backbone(str(tmp_path), prompt_length=4)
    assert (loaded.identity.architecture, loaded.num_layers, loaded.max_positions) == ("RobertaModel", 2, 513)
    assert json.loads((tmp_path / "config.json").read_text())["dtype"] == "bfloat16"
