"""Both stages under DeepSpeed and FSDP2 on two CPU ranks, beside a plain launch."""

import json
import shutil
from importlib.util import find_spec

import pytest
import torch
from common.engines import ENGINES, engine, environment
from common.ranks import run_ranks
from common.runs import quiet, run_transfer
from safetensors.torch import load_file

TOLERANCE = 1e-3
RUN = {
    "training__micro_batches": 4,
    "training__tokens_per_micro_batch": 64,
    "checkpoints__keep_last": 99,
    "optimizer__clip_norm": 0.5,
}
LONG = RUN | {"training__steps": 50, "evaluation__every_steps": 25}
TENSORS = ("state.safetensors", "heads.safetensors", "optimizer.safetensors")
EVERY = [engine("zero1", pytest.mark.distributed), engine("zero2"), engine("zero3"), engine("fsdp2")]


def pretrain(rank, world, folder, resume, changes):
    from common.runs import pretrain_settings

    from mpt.experiments.pretrain import pretrain as run

    run(pretrain_settings(world, **changes), folder, resume=resume, console=quiet())


def transfer(rank, world, folder, changes):
    run_transfer(world, folder, resume="never", **changes)


def launch(name, count, world, folder, resume="never", changes=RUN, **fields):
    return run_ranks(
        count,
        folder.parent / f"out-{folder.name}",
        pretrain,
        world,
        folder,
        resume,
        changes,
        environment=environment(name, **fields),
    )


def losses(run):
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [line["train/loss"] for line in lines if "train/loss" in line]


def tensors(run):
    """Everything trained in the newest checkpoint."""
    newest = sorted((run / "checkpoints").iterdir())[-1]
    return {f"{name}/{key}": value for name in TENSORS for key, value in load_file(newest / name).items()}


def assert_same(run, other, *, bits=True):
    ours, theirs = tensors(run), tensors(other)
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        if bits:
            assert torch.equal(value, theirs[name]), name
        else:
            torch.testing.assert_close(value, theirs[name], atol=TOLERANCE, rtol=0)


@pytest.fixture(scope="module")
def straight(world, tmp_path_factory):
    """A run of fifty steps on one rank, without an engine."""
    folder = tmp_path_factory.mktemp("straight") / "run"
    launch("plain", 1, world, folder, changes=LONG)
    return folder


@pytest.fixture(scope="module")
def short(world, tmp_path_factory):
    """The same in six steps."""
    folder = tmp_path_factory.mktemp("short") / "run"
    launch("plain", 1, world, folder)
    return folder


@pytest.mark.parametrize("name", EVERY)
def test_an_engine_trains_what_a_plain_launch_trains(name, world, straight, tmp_path):
    """With three tasks and two drawn in each step, so that some heads stand still."""
    launch(name, 2, world, tmp_path / "run", changes=LONG)
    ours, theirs = losses(tmp_path / "run"), losses(straight)
    assert len(ours) == len(theirs) == 50
    assert max(abs(one - other) for one, other in zip(ours, theirs, strict=True)) < TOLERANCE
    # ZeRO-3 computes a linear layer with other kernels, which frees gathered weights sooner.
    assert_same(tmp_path / "run", straight, bits=name != "zero3")


UPDATED = RUN | {"optimizer__low_rank_learning_rate": 0.02}


@pytest.mark.parametrize("method", ["low-rank", pytest.param("prompt+low-rank", marks=pytest.mark.distributed)])
def test_low_rank_updates_are_trained_alike_under_every_engine(method, world, tmp_path):
    """The same bits as on one rank without; ZeRO-3 computes a linear layer with other kernels."""
    changes = UPDATED | {"method": method}
    launch("plain", 1, world, tmp_path / "one", changes=changes)
    kinds = {name.split("/")[1].split(".")[0] for name in tensors(tmp_path / "one") if name.startswith("state")}
    assert kinds == {part.replace("-", "_") for part in method.split("+")}
    assert all(bool(value.any()) for name, value in tensors(tmp_path / "one").items() if "lora_B" in name), "moved"
    launch("plain", 2, world, tmp_path / "two", changes=changes)
    assert_same(tmp_path / "two", tmp_path / "one")
    for name in (name for name in ("zero2", "zero3", "fsdp2") if name == "fsdp2" or find_spec("deepspeed")):
        launch(name, 2, world, tmp_path / name, changes=changes)
        assert_same(tmp_path / name, tmp_path / "one", bits=name != "zero3")
        ours, theirs = losses(tmp_path / name), losses(tmp_path / "one")
        assert max(abs(one - other) for one, other in zip(ours, theirs, strict=True)) < TOLERANCE


@pytest.mark.parametrize("name", [engine("zero2"), engine("fsdp2", pytest.mark.distributed)])
@pytest.mark.parametrize("method", ["fine-tuning", pytest.param("prompt-tuning", marks=pytest.mark.distributed)])
def test_what_the_backbone_computes_with_is_not_trained_under_an_engine(name, method, world, tmp_path):
    arguments = (world, tmp_path / "run", "never", RUN | {"method": method})
    variables = environment(name)
    told = run_ranks(2, tmp_path / "out", pretrain, *arguments, environment=variables, status=2).told()
    assert told.count(f"{method} train what the backbone computes with, expected methods with deep prompts") == 1
    assert not (tmp_path / "run").exists()


@pytest.mark.distributed
@pytest.mark.parametrize("resumed", [engine(name) for name in (*ENGINES, "plain")])
@pytest.mark.parametrize("first", [engine(name) for name in (*ENGINES, "plain")])
def test_a_checkpoint_goes_on_under_every_engine_and_rank_count(first, resumed, world, short, tmp_path):
    launch(first, 2, world, tmp_path / "run")
    for later in sorted((tmp_path / "run" / "checkpoints").iterdir())[1:]:
        shutil.rmtree(later)
    launch(resumed, 1, world, tmp_path / "run", resume="must")
    assert_same(tmp_path / "run", short, bits="zero3" not in (first, resumed))


@pytest.mark.parametrize("name", [engine("zero2")])
def test_a_checkpoint_goes_on_without_the_engine(name, world, short, tmp_path):
    launch(name, 2, world, tmp_path / "run")
    for later in sorted((tmp_path / "run" / "checkpoints").iterdir())[1:]:
        shutil.rmtree(later)
    launch("plain", 1, world, tmp_path / "run", resume="must")
    assert_same(tmp_path / "run", short)


@pytest.mark.distributed
@pytest.mark.parametrize(
    "changes",
    [
        {"backbone__dtype": "bfloat16"},
        {"backbone__gradient_checkpointing": True},
        {"prompt__layers": 1},
        {"training__gradient_sum": "all_reduce"},
        {"prompt__reparameterisation": "mlp", "prompt__hidden_size": 8},
        {"training__backbone_dropout": 0.3, "backbone__word_state": "mean"},
    ],
    ids=lambda changes: next(iter(changes)),
)
@pytest.mark.parametrize("name", [engine(name) for name in ENGINES])
def test_settings_hold_under_every_engine(name, changes, world, tmp_path):
    launch("plain", 1, world, tmp_path / "plain", changes=RUN | changes)
    launch(name, 2, world, tmp_path / "run", changes=RUN | changes)
    # Kernels of bfloat16 differ by more than those of float32.
    exact = name != "zero3" and "training__gradient_sum" not in changes
    if exact:
        assert_same(tmp_path / "run", tmp_path / "plain")
    ours, theirs = losses(tmp_path / "run"), losses(tmp_path / "plain")
    tolerance = 0.1 if "backbone__dtype" in changes else TOLERANCE
    assert max(abs(one - other) for one, other in zip(ours, theirs, strict=True)) < tolerance


@pytest.mark.distributed
@pytest.mark.parametrize("name", [engine(name) for name in ENGINES])
def test_transfer_under_an_engine_scores_what_a_plain_one_scores(name, world, tmp_path):
    changes = {"training__micro_batches": 4, "baselines": ("scratch", "head")}
    run_ranks(1, tmp_path / "out-1", transfer, world, tmp_path / "plain", changes)
    out = tmp_path / "out-2"
    run_ranks(2, out, transfer, world, tmp_path / "run", changes, environment=environment(name))
    ours, theirs = (json.loads((tmp_path / run / "results.json").read_text())["runs"] for run in ("run", "plain"))
    assert ours == theirs


@pytest.mark.parametrize("name", [engine("zero2")])
def test_a_contradiction_in_the_engines_configuration_is_told_once(name, world, tmp_path, monkeypatch):
    config = {"zero_optimization": {"stage": 2}, "gradient_accumulation_steps": 4, "train_batch_size": 64}
    (tmp_path / "zero.json").write_text(json.dumps(config))
    told = run_ranks(
        2,
        tmp_path / "out",
        pretrain,
        world,
        tmp_path / "run",
        "never",
        RUN,
        environment=environment(name) | {"ACCELERATE_DEEPSPEED_CONFIG_FILE": str(tmp_path / "zero.json")},
        status=2,
    ).told()
    assert told.count("DeepSpeed's gradient_accumulation_steps: 4 contradicts mpt") == 1
    assert told.count("DeepSpeed's train_batch_size: 64 contradicts mpt") == 1
    assert not (tmp_path / "run").exists()
