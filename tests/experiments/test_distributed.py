"""Runs on several ranks: the same bits as on one, whatever ends them on the way."""

import importlib
import json
import os
import signal
import sys
import time

import pytest
from common.ranks import run_ranks, start_ranks
from common.runs import manifest, run_pretrain, run_transfer
from rich.console import Console

from mpt.evaluation import scoring
from mpt.training import engines, launch
from mpt.training.checkpoint import list_checkpoints

# Two ranks and four hold the same task side by side; evaluations at 2, 4, 5.
RUN = {"training__steps": 5, "training__micro_batches": 8, "training__tokens_per_micro_batch": 64}
DROPPED = ("CHECKPOINT.json", "config.yaml")


def computed(folder):
    """Everything of a run that is computed, not measured."""
    found = {str(path.relative_to(folder)): path for path in sorted(folder.rglob("*")) if path.is_file()}
    content = {name: path.read_bytes() for name, path in found.items() if path.name not in DROPPED}
    content["metrics.jsonl"] = [
        {key: value for key, value in json.loads(line).items() if not key.startswith("perf/")}
        for line in content["metrics.jsonl"].splitlines()
    ]
    content["results.json"] = {**json.loads(content["results.json"]), "cost": None}
    for name in [name for name in content if name.endswith("progress.json")]:
        content[name] = {**json.loads(content[name]), "seconds": None}
    return content


def pretrain(rank, world, folder, resume, changes, sabotage=None):
    """One rank; `sabotage` is (rank, function to spoil, call, when, signal or exception)."""
    scoring.CPU_TOKENS = 64  # several batches of a dev set
    if sabotage is not None and sabotage[0] in (rank, "all"):
        spoil(*sabotage[1:])
    run_pretrain(world, folder, resume=resume, console=Console(file=sys.stdout, width=200), **changes)


def spoil(place, call, when, what):
    """Send this process a signal, or raise, before or after a call of a function."""
    module, name = place.rsplit(".", 1)
    module = importlib.import_module(module)
    real, calls = getattr(module, name), []

    def act():
        if isinstance(what, int):
            os.kill(os.getpid(), what)
        else:
            raise what

    def spoilt(*args, **kwargs):
        calls.append(1)
        if len(calls) == call and when == "before":
            act()
        result = real(*args, **kwargs)
        if len(calls) == call and when == "after":
            act()
        return result

    setattr(module, name, spoilt)


@pytest.fixture(scope="module")
def straight(world, tmp_path_factory):
    """The run on one process, never interrupted."""
    folder = tmp_path_factory.mktemp("straight")
    run_ranks(1, folder / "out", pretrain, world, folder / "run", "never", RUN)
    return computed(folder / "run")


def test_two_ranks_train_the_same_bits_as_one(world, straight, tmp_path):
    ranks = run_ranks(2, tmp_path / "out", pretrain, world, tmp_path / "run", "never", RUN)
    assert computed(tmp_path / "run") == straight
    first, second = ranks.errors()
    assert second == "", "one rank speaks"
    assert "launch: 2 processes on 1 machine, plain data parallelism over gloo; each (cpu, 1 thread) holds " in first
    assert "computes 4 of a step's 8 micro-batches" in first


def test_two_ranks_train_the_same_network_behind_a_prompt_as_one(world, tmp_path):
    changes = RUN | {"prompt__reparameterisation": "lstm", "prompt__hidden_size": 8}
    for ranks in (1, 2):
        run_ranks(ranks, tmp_path / f"out-{ranks}", pretrain, world, tmp_path / f"run-{ranks}", "never", changes)
    assert computed(tmp_path / "run-2") == computed(tmp_path / "run-1")
    assert any(name.endswith("networks.safetensors") for name in computed(tmp_path / "run-1"))


def test_a_signal_to_one_rank_saves_a_step_and_one_process_goes_on_to_the_same_bits(world, straight, tmp_path):
    sabotage = (1, "mpt.training.loop.train_step", 3, "before", signal.SIGTERM)
    ranks = run_ranks(2, tmp_path / "out", pretrain, world, tmp_path / "run", "auto", RUN, sabotage, status=143)
    assert [path.name for path in list_checkpoints(tmp_path / "run" / "checkpoints")][-1] == "step-00000003"
    assert "step 3: asked to stop; go on with --resume auto" in ranks.errors()[0]
    run_ranks(1, tmp_path / "out", pretrain, world, tmp_path / "run", "auto", RUN)
    assert computed(tmp_path / "run") == straight


def test_a_signal_in_an_evaluation_saves_before_it_is_done(world, straight, tmp_path):
    sabotage = (1, "mpt.evaluation.scoring.collate", 2, "before", signal.SIGINT)
    ranks = start_ranks(2, tmp_path / "out", pretrain, world, tmp_path / "run", "auto", RUN, sabotage)
    assert ranks.wait() == [143, 130], ranks.told()
    assert [path.name for path in list_checkpoints(tmp_path / "run" / "checkpoints")] == ["step-00000002-unscored"]
    assert "dev" not in (tmp_path / "run" / "metrics.jsonl").read_text()
    run_ranks(1, tmp_path / "out", pretrain, world, tmp_path / "run", "auto", RUN)
    assert computed(tmp_path / "run") == straight


def test_a_killed_rank_ends_the_run_and_it_goes_on(world, straight, tmp_path):
    sabotage = (1, "mpt.training.loop.train_step", 4, "before", signal.SIGKILL)
    ranks = start_ranks(2, tmp_path / "out", pretrain, world, tmp_path / "run", "auto", RUN, sabotage)
    began = time.monotonic()
    assert ranks.wait(30) == [2, -9], ranks.told()
    assert time.monotonic() - began < 30
    assert "error: lost contact with another process" in ranks.errors()[0]
    run_ranks(1, tmp_path / "out", pretrain, world, tmp_path / "run", "auto", RUN)
    assert computed(tmp_path / "run") == straight


def test_an_error_in_the_work_of_one_rank_is_told_by_it_alone(world, tmp_path):
    sabotage = (1, "mpt.training.step.collate", 2, "before", MemoryError("no memory left"))
    ranks = run_ranks(2, tmp_path / "out", pretrain, world, tmp_path / "run", "never", RUN, sabotage, status=1)
    quiet, loud = ranks.errors()
    assert "Traceback" not in quiet
    assert "MemoryError: no memory left" in loud


def transfer(rank, world, folder, resume, sabotage=None, baselines=("scratch",)):
    if sabotage is not None and sabotage[0] == rank:
        spoil(*sabotage[1:])
    run_transfer(world, folder, resume=resume, training__micro_batches=2, seeds=(0,), baselines=baselines)


def results(folder):
    """Everything of a comparison that is computed, not measured."""
    found = {str(path.relative_to(folder)): path for path in sorted(folder.rglob("*"))}
    content = {
        name: path.read_bytes()
        for name, path in found.items()
        if path.suffix in (".safetensors", ".md") or path.name in ("result.json", "tuning.json")
    }
    for name in [name for name in content if name.endswith("result.json")]:
        content[name] = {**json.loads(content[name]), "cost": None}
    return content


@pytest.mark.parametrize("baselines", [("scratch",), ("fine-tuning", "lora", "prompt-tuning", "p-tuning")])
def test_two_ranks_transfer_the_same_bits_as_one(world, tmp_path, baselines):
    transfer(0, world, tmp_path / "one", "never", baselines=baselines)
    run_ranks(2, tmp_path / "out", transfer, world, tmp_path / "two", "never", None, baselines)
    assert results(tmp_path / "two") == results(tmp_path / "one")


# The whole matrix: make test-distributed


def mixture(world, tmp_path, name):
    """A copy of the world's data with another mixture in it."""
    from dataclasses import replace
    from shutil import copytree

    copytree(world.data, tmp_path / "data")
    content = json.loads(manifest("source", ["people", "places", "words", "firms"]))
    content["mixture"] = MIXTURES[name]
    if name == "uneven":
        for task in ("people", "places"):
            path = tmp_path / "data" / task / "dev.txt"
            sentences = path.read_text().split("\n\n")
            path.write_text("\n\n".join(sentences[: {"people": 1, "places": 3}[task]]) + "\n\n")
    (tmp_path / "data" / "mixture.yaml").write_text(json.dumps(content))
    return replace(world, data=tmp_path / "data")


MIXTURES = {
    "proportional": {"strategy": "proportional", "tasks_per_step": 1},
    "temperature": {"strategy": "temperature", "temperature": 2.0, "tasks_per_step": 2},
    "uneven": {"strategy": "uniform", "tasks_per_step": 2},
}
"""The last has dev sets of one and of three sentences: fewer than ranks, and not a multiple of them."""


@pytest.mark.distributed
@pytest.mark.parametrize("name", MIXTURES)
def test_one_two_and_four_ranks_train_the_same_bits(world, tmp_path, name):
    own = mixture(world, tmp_path, name)
    found = []
    for count in (1, 2, 4):
        folder = tmp_path / f"run-{count}"
        run_ranks(count, tmp_path / f"out-{count}", pretrain, own, folder, "never", RUN)
        found.append(computed(folder))
    assert found[0] == found[1]
    assert found[0] == found[2]


@pytest.mark.distributed
@pytest.mark.parametrize("name", MIXTURES)
def test_a_run_moves_from_one_rank_to_two_and_back(world, tmp_path, name):
    own = mixture(world, tmp_path, name)
    run_ranks(1, tmp_path / "out", pretrain, own, tmp_path / "straight", "never", RUN)
    for count, step in ((1, 2), (2, 1)):
        sabotage = ("all", "mpt.training.loop.train_step", step, "before", signal.SIGTERM)
        run_ranks(count, tmp_path / "out", pretrain, own, tmp_path / "run", "auto", RUN, sabotage, status=143)
    run_ranks(1, tmp_path / "out", pretrain, own, tmp_path / "run", "auto", RUN)
    assert computed(tmp_path / "run") == computed(tmp_path / "straight")


MOMENTS = {
    "a step": ("mpt.training.loop.train_step", 2, "before"),
    "between micro-batches": ("mpt.training.step.collate", 7, "before"),
    "an evaluation": ("mpt.evaluation.scoring.collate", 2, "before"),
    "a save": ("mpt.training.loop.save_checkpoint", 1, "before"),
    "after a save": ("mpt.training.loop.rotate", 2, "after"),
    "the last save": ("mpt.training.loop.rotate", 3, "after"),
}


@pytest.mark.distributed
@pytest.mark.parametrize("target", [0, 1, "all"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("moment", MOMENTS)
def test_a_signal_while_training_leaves_a_checkpoint(world, straight, tmp_path, moment, number, target):
    if target == 1 and "save" in moment:
        pytest.skip("rank 0 alone saves")
    ranks = start_ranks(
        2, tmp_path / "out", pretrain, world, tmp_path / "run", "auto", RUN, (target, *MOMENTS[moment], number)
    )
    statuses = ranks.wait()
    if moment == "the last save":
        # Nothing is left to train: the signal has its usual effect on those it reached, when training ends.
        assert statuses[0] in (-number, 128 + number), ranks.told()
    else:
        own = 128 + number
        assert statuses == [own if target in (rank, "all") and ranks_reached(moment, rank) else 143 for rank in (0, 1)]
    assert list_checkpoints(tmp_path / "run" / "checkpoints"), "a checkpoint is published"
    run_ranks(2, tmp_path / "out", pretrain, world, tmp_path / "run", "auto", RUN)
    assert computed(tmp_path / "run") == straight


def ranks_reached(moment, rank):
    """Rank 0 alone saves."""
    return rank == 0 or "save" not in moment


EARLY = {
    "before joining": ("mpt.experiments.pretrain.build_accelerator", "before"),
    "reading data": ("mpt.experiments.pretrain.open_tasks", "before"),
    "comparing": ("mpt.experiments.pretrain.require_alike", "before"),
    "making the folder": ("mpt.experiments.run_folder.published_folder", "before"),
    "the folder made": ("mpt.experiments.pretrain.open_run_folder", "after"),
    "scoring at the end": ("mpt.experiments.pretrain._write_results", "before"),
}


@pytest.mark.distributed
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
@pytest.mark.parametrize("moment", EARLY)
def test_a_signal_at_any_other_time_loses_nothing(world, straight, tmp_path, moment, number):
    """It ends the rank at once; the others notice, as a launcher would have them do by a signal."""
    place, when = EARLY[moment]
    ranks = start_ranks(
        2, tmp_path / "out", pretrain, world, tmp_path / "run", "auto", RUN, (0, place, 1, when, number)
    )
    ranks.processes[0].join(60)
    assert ranks.processes[0].exitcode == -number
    if moment == "before joining":
        ranks.signal(1)  # it waits for rank 0 to come; the launcher would not let it wait
    assert ranks.wait(60)[1] in (2, -signal.SIGTERM), ranks.told()
    run_ranks(2, tmp_path / "out", pretrain, world, tmp_path / "run", "auto", RUN)
    assert computed(tmp_path / "run") == straight


FAILURES = ["mpt.training.step.collate", "mpt.evaluation.scoring.collate", "mpt.training.loop.save_checkpoint"]


@pytest.mark.distributed
@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize("place", FAILURES)
@pytest.mark.parametrize("what", [signal.SIGKILL, OSError(28, "No space left on device")], ids=["killed", "error"])
def test_a_rank_that_fails_ends_all_within_half_a_minute(world, straight, tmp_path, place, rank, what):
    if rank == 1 and "save" in place:
        pytest.skip("rank 0 alone saves")
    sabotage = (rank, place, 2, "before", what)
    began = time.monotonic()
    ranks = start_ranks(2, tmp_path / "out", pretrain, world, tmp_path / "run", "auto", RUN, sabotage)
    statuses = ranks.wait(60)
    assert time.monotonic() - began < 30
    assert statuses[rank] == (-9 if what == signal.SIGKILL else 1), ranks.told()
    assert statuses[1 - rank] == (2 if what == signal.SIGKILL else 1), ranks.told()
    if what != signal.SIGKILL:
        assert "No space left on device" in ranks.errors()[rank]
        assert "Traceback" not in ranks.errors()[1 - rank]
    run_ranks(2, tmp_path / "out", pretrain, world, tmp_path / "run", "auto", RUN)
    assert computed(tmp_path / "run") == straight


def other_rank(rank, world, other, folder, changes):
    """Rank 1 has been given something else."""
    if rank == 1:
        world, changes = other, {**RUN, **changes}
    else:
        changes = RUN
    pretrain(rank, world, folder, "auto", changes)


@pytest.mark.distributed
@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"training__seed": 7}, "training.seed: rank 0 0, rank 1 7"),
        ({"checkpoints__keep_last": 7}, "settings.checkpoints.keep_last: rank 0 2, rank 1 7"),
        ({"training__gradient_sum": "all_reduce"}, "training.gradient_sum: rank 0 'ordered', rank 1 'all_reduce'"),
    ],
)
def test_ranks_of_other_settings_are_refused(world, tmp_path, changes, told):
    ranks = run_ranks(2, tmp_path / "out", other_rank, world, world, tmp_path / "run", changes, status=2)
    assert told in ranks.errors()[0]
    assert ranks.errors()[1] == ""
    assert not (tmp_path / "run").exists()


def with_folder_of_its_own(rank, world, folder, resume):
    """Rank 1 is on a machine that sees another run folder."""
    pretrain(rank, world, folder if rank == 0 else folder.with_name("elsewhere"), resume, RUN)


@pytest.mark.distributed
def test_the_first_rank_alone_writes_and_only_a_shared_folder_is_gone_on_with(world, straight, tmp_path):
    run_ranks(2, tmp_path / "out", with_folder_of_its_own, world, tmp_path / "run", "never")
    assert computed(tmp_path / "run") == straight
    assert not (tmp_path / "elsewhere").exists()
    for resume in ("auto", "must"):
        ranks = run_ranks(2, tmp_path / "out", with_folder_of_its_own, world, tmp_path / "run", resume, status=2)
        told, silent = ranks.errors()
        assert "resumed step: rank 0 5, rank 1 None\nGive every process the same configuration" in told
        assert silent == ""


def with_versions_of_its_own(rank, world, folder):
    """Rank 1 is on a machine with another PyTorch."""
    from mpt.experiments import pretrain as stage

    if rank == 1:
        stage.versions = lambda: {**launch.versions(), "torch": "1.0"}
    pretrain(rank, world, folder, "never", RUN)


@pytest.mark.distributed
def test_ranks_of_other_package_versions_are_refused(world, tmp_path):
    ranks = run_ranks(2, tmp_path / "out", with_versions_of_its_own, world, tmp_path / "run", status=2)
    told, silent = ranks.errors()
    assert "versions.torch: rank 0 '" in told and "', rank 1 '1.0'" in told
    assert silent == ""
    assert not (tmp_path / "run").exists()


def without_deepspeed(rank, world, folder):
    """DeepSpeed is not installed on any machine."""
    engines.importlib.util.find_spec = lambda name: None
    pretrain(rank, world, folder, "never", RUN)


@pytest.mark.distributed
def test_an_engine_that_is_not_installed_is_told_once(world, tmp_path):
    environment = {"ACCELERATE_USE_DEEPSPEED": "true"}
    ranks = run_ranks(
        2, tmp_path / "out", without_deepspeed, world, tmp_path / "run", status=2, environment=environment
    )
    told, silent = ranks.errors()
    assert "error: launched under DeepSpeed, which is not installed here. Run: pip install" in told
    assert silent == ""


@pytest.mark.distributed
def test_ranks_of_another_manifest_are_refused(world, tmp_path):
    other = mixture(world, tmp_path, "uneven")
    ranks = run_ranks(2, tmp_path / "out", other_rank, world, other, tmp_path / "run", {}, status=2)
    assert "manifest.sha256: rank 0 '" in ranks.errors()[0]
    assert ranks.errors()[1] == ""


@pytest.mark.distributed
def test_micro_batches_that_ranks_cannot_share_are_refused_once(world, tmp_path):
    changes = {**RUN, "training__micro_batches": 3}
    ranks = run_ranks(2, tmp_path / "out", pretrain, world, tmp_path / "run", "never", changes, status=2)
    first, second = ranks.errors()
    assert "error: training.micro_batches: 3 is not a multiple of" in first
    assert second == ""


@pytest.mark.distributed
def test_an_all_reduce_trains_nearly_the_same(world, straight, tmp_path):
    import torch

    from mpt.training.checkpoint import latest, load_checkpoint

    changes = {**RUN, "training__gradient_sum": "all_reduce"}
    run_ranks(1, tmp_path / "out", pretrain, world, tmp_path / "one", "never", changes)
    assert computed(tmp_path / "one") == straight, "one process has one order"
    run_ranks(2, tmp_path / "out", pretrain, world, tmp_path / "two", "never", changes)
    one, two = (load_checkpoint(latest(tmp_path / name)) for name in ("one", "two"))
    for kind in ("prompts", "heads"):
        for name, tensor in getattr(one, kind).items():
            torch.testing.assert_close(getattr(two, kind)[name], tensor, rtol=1e-3, atol=1e-4)


@pytest.mark.distributed
def test_a_signal_in_a_transfer_keeps_what_is_finished(world, tmp_path):
    transfer(0, world, tmp_path / "one", "never")
    sabotage = (1, "mpt.training.loop.train_step", 8, "before", signal.SIGTERM)
    run_ranks(2, tmp_path / "out", transfer, world, tmp_path / "two", "auto", sabotage, status=143)
    assert len(list((tmp_path / "two").rglob("result.json"))) == 1
    run_ranks(2, tmp_path / "out", transfer, world, tmp_path / "two", "auto")
    assert results(tmp_path / "two") == results(tmp_path / "one")
