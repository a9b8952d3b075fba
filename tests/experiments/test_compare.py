import json
import shutil

import pytest
from common.ranks import run_ranks
from common.runs import files_of, quiet, write_bert
from rich.console import Console

from mpt.base.errors import CheckpointError, ConfigError
from mpt.experiments import compare as module
from mpt.experiments import comparison as stage
from mpt.experiments.compare import compare
from mpt.experiments.settings import load_compare_settings
from mpt.training import launch
from mpt.training.checkpoint import find_checkpoint, load_checkpoint

CONFIG = {
    "title": "A comparison",
    "manifest": "data/target.yaml",
    "shots": [20],
    "seeds": [0, 1],
    "prompt": {"length": 4},
    "optimizer": {"prompt_learning_rate": 0.2, "head_learning_rate": 0.05, "warmup_steps": 1},
    "training": {"steps": 4, "tokens_per_micro_batch": 256, "micro_batches": 1},
    "evaluation": {"every_steps": 2},
    "tuning": {"prompt_learning_rates": [0.1, 0.2], "seeds": [7]},
    "rows": {
        "linear head": {"method": "head"},
        "P-Tuning v2": {"method": "scratch"},
        "length 2": {"method": "scratch", "set": {"prompt.length": 2}},
        "MPT-2": {"method": "transfer"},
    },
}
NO_TUNING = {"prompt_learning_rates": [], "head_learning_rates": []}
PRETRAIN = {
    "manifest": "data/mixture.yaml",
    "prompt": {"length": 4},
    "optimizer": {"warmup_steps": 1},
    "training": {"steps": 4, "tokens_per_micro_batch": 256, "micro_batches": 1},
    "evaluation": {"every_steps": 4},
}


@pytest.fixture
def write(world, tmp_path):
    """Write the configuration of a comparison, some of its fields changed."""
    (tmp_path / "data").symlink_to(world.data)
    backbone = {"reference": str(world.backbone), "dtype": "float32"}

    def written(**changes):
        whole = {**CONFIG, "backbone": backbone, "pretrain": "pretrain.yaml", **changes}
        (tmp_path / "compare.yaml").write_text(json.dumps(whole))
        (tmp_path / "pretrain.yaml").write_text(json.dumps({**PRETRAIN, "backbone": backbone}))
        return load_compare_settings(tmp_path / "compare.yaml")

    return written


def shape(runs):
    return [(run.row, run.experiment, run.seed) for run in runs]


def test_every_row_is_trained_on_every_task_with_every_seed(write, tmp_path):
    runs = compare(write(), tmp_path / "out", resume="never", console=quiet())
    assert shape(runs) == [(row, "firms-20", seed) for row in CONFIG["rows"] for seed in (0, 1)]
    trained = {run.row: run.trained for run in runs}
    # Two layers of two heads of 16, keys and values; the head has 5 labels over 32 values.
    head = 5 * 32 + 5
    assert trained == {
        "linear head": head,
        "P-Tuning v2": 4 * 2 * 2 * 32 + head,
        "length 2": 2 * 2 * 2 * 32 + head,
        "MPT-2": 4 * 2 * 2 * 32 + head,
    }
    assert {run.row: run.trials for run in runs} == {"linear head": 0, "P-Tuning v2": 2, "length 2": 2, "MPT-2": 2}
    out = tmp_path / "out"
    assert (out / "results.md").read_text().startswith("# A comparison\n\n|  | firms-20, test span f1 |\n")
    assert len((out / "results.csv").read_text().splitlines()) == 9
    assert (out / "results.png").read_bytes().startswith(b"\x89PNG")
    assert json.loads((out / "results.json").read_text())["runs"][0]["row"] == "linear head"
    pretrained = json.loads((out / "pretrained/results.json").read_text())
    assert pretrained["stage"] == "pretrain"


def test_a_comparison_that_was_cut_off_goes_on(write, tmp_path, monkeypatch):
    rows = {name: row for name, row in CONFIG["rows"].items() if name != "MPT-2"}
    settings = write(rows=rows)
    compare(settings, tmp_path / "whole", resume="never", console=quiet())
    real, done = stage.run_trial, []

    def third_fails(*args):
        done.append(args)
        if len(done) == 3:
            raise KeyboardInterrupt
        return real(*args)

    monkeypatch.setattr(stage, "run_trial", third_fails)
    with pytest.raises(KeyboardInterrupt):
        compare(settings, tmp_path / "out", resume="never", console=quiet())
    left = json.loads((tmp_path / "out/results.json").read_text())["runs"]
    assert {run["row"] for run in left} == {"linear head"}
    monkeypatch.setattr(stage, "run_trial", lambda *args: done.append(args) or real(*args))
    runs = compare(settings, tmp_path / "out", resume="must", console=quiet())
    assert len(done) == 3 + 4, "what was finished is not done again"
    assert shape(runs) == [(row, "firms-20", seed) for row in rows for seed in (0, 1)]
    whole, out = (
        {name: data for name, data in files_of(tmp_path / folder / "runs").items() if name.endswith(".safetensors")}
        for folder in ("whole", "out")
    )
    assert whole == out


def test_a_pretrained_prompt_is_opened_in_the_type_of_the_comparison(write, world, tmp_path, monkeypatch):
    """Which is the processor's, where nothing is said; the prompt was trained in float32."""
    monkeypatch.setattr(launch, "multiplies_bfloat16", lambda device: True)
    console = Console(record=True, width=400)
    rows = {name: CONFIG["rows"][name] for name in ("P-Tuning v2", "MPT-2")}
    settings = write(
        backbone={"reference": str(world.backbone)}, rows=rows, seeds=[0], tuning={"prompt_learning_rates": []}
    )
    compare(settings, tmp_path / "out", resume="never", console=console)
    said = console.export_text()
    assert "note: " in said and "trained in float32, opened in bfloat16: scores may differ slightly" in said
    assert "dtype: bfloat16" in (tmp_path / "out" / "config.yaml").read_text()
    pretraining = json.loads((tmp_path / "pretrain.yaml").read_text())
    (tmp_path / "pretrain.yaml").write_text(json.dumps({**pretraining, "backbone": {"reference": str(world.backbone)}}))
    compare(settings, tmp_path / "neither", resume="never", console=quiet())
    assert "dtype: bfloat16" in (tmp_path / "neither" / "pretrained" / "config.yaml").read_text()


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        (
            {"rows": {"a": {"method": "scratch", "set": {"seeds": [1]}}}},
            r"rows.a.set: seeds cannot differ between rows",
        ),
        (
            {"rows": {"a": {"method": "scratch", "set": {"prompt.lenght": 2}}}},
            r"rows.a.set: --set prompt.lenght: unknown key. Known here: .*length",
        ),
        ({"rows": {}}, "rows"),
        ({"rows": {"a b": {"method": "scratch"}, "a-b": {"method": "head"}}}, "rows.a b: the name of its folder"),
        (
            {"rows": {"a": {"method": "transfer", "start": "fresh"}}},
            "rows.a.start: method transfer is a pre",
        ),
        (
            {"rows": {"a": {"method": "head", "pretrain": "pretrain.yaml"}}},
            "rows.a.pretrain: the row starts fresh",
        ),
        ({"rows": {"a": {"method": "transfer"}}, "head": "from:place"}, 'head from:place: .* Did you mean "places"'),
        ({"pretrain": None}, "rows.MPT-2: method transfer starts from a pretrained prompt. Give pretrain"),
        ({"shots": [1000]}, 'task "firms": 1000 shots asked for, train has 60 sentences. Ask for fewer'),
        ({"backbone": {"reference": "nowhere"}}, "backbone: .*pretrained with other settings of the backbone"),
    ],
)
def test_what_cannot_be_compared_is_told_before_anything_is_trained(write, tmp_path, changes, told):
    with pytest.raises((ConfigError, CheckpointError), match=told):
        compare(write(**changes), tmp_path / "out", resume="never", console=quiet())
    assert not list((tmp_path / "out").glob("runs/*"))


def counted(monkeypatch):
    """Folders that are pretrained into."""
    places, real = [], module.pretrain

    def spy(settings, folder, **more):
        places.append(folder.name)
        return real(settings, folder, **more)

    monkeypatch.setattr(module, "pretrain", spy)
    return places


def test_rows_start_from_states_of_their_own_each_pretrained_once(write, world, tmp_path, monkeypatch):
    other = {**PRETRAIN, "training": {**PRETRAIN["training"], "seed": 5}, "prompt": {"length": 3}}
    backbone = {"reference": str(world.backbone), "dtype": "float32"}
    (tmp_path / "other.yaml").write_text(json.dumps({**other, "backbone": backbone}))
    rows = {
        "shared": {"method": "transfer"},
        "its own": {"method": "transfer", "start": "pretrained", "pretrain": "other.yaml"},
        "its own again": {"method": "transfer", "pretrain": "other.yaml", "set": {"head": "fresh"}},
        "a run": {"method": "transfer", "pretrain": str(world.run)},
        "fresh": {"method": "scratch", "start": "fresh"},
    }
    places = counted(monkeypatch)
    results = compare(write(rows=rows, seeds=[0], tuning=NO_TUNING), tmp_path / "out", resume="never", console=quiet())
    assert places == ["pretrained", "pretrained-its-own"]
    assert [result.row for result in results] == list(rows)
    origins, lengths = {}, {}
    for name in rows:
        checkpoint = load_checkpoint(
            find_checkpoint(tmp_path / "out/runs/firms-20" / stage.folder_name(name) / "seed-0")
        )
        origin = checkpoint.identity["init_from"]
        origins[name], lengths[name] = origin and origin["step"], checkpoint.identity["prompt"]["length"]
    assert origins == {"shared": 4, "its own": 4, "its own again": 4, "a run": 12, "fresh": None}
    assert lengths == {"shared": 4, "its own": 3, "its own again": 3, "a run": 4, "fresh": 4}
    compare(write(rows=rows, seeds=[0], tuning=NO_TUNING), tmp_path / "out", resume="must", console=quiet())


def pretraining(tmp_path, **changes):
    """Change the pretraining of a comparison."""
    path = tmp_path / "pretrain.yaml"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def state_of(folder, row):
    checkpoint = load_checkpoint(find_checkpoint(folder / "runs/firms-20" / stage.folder_name(row) / "seed-0"))
    return checkpoint, {name: value.numpy().tobytes() for name, value in checkpoint.state.items()}


def test_a_pretrained_state_is_trained_by_its_own_method_as_by_a_transfer(write, tmp_path):
    """Updates of the layers that were pretrained, whatever those of a fresh start are."""
    rows = {
        "fresh": {"method": "prompt+low-rank"},
        "pretrained": {"method": "prompt+low-rank", "start": "pretrained"},
        "MPT-2": {"method": "transfer"},
    }
    settings = write(rows=rows, seeds=[0], tuning=NO_TUNING | {"low_rank_learning_rates": []})
    pretraining(tmp_path, method="prompt+low-rank", low_rank={"rank": 3, "targets": "attention"})
    results = compare(settings, tmp_path / "out", resume="never", console=quiet())
    (fresh, fresh_state), (own, own_state), (transferred, same) = (state_of(tmp_path / "out", row) for row in rows)
    assert own_state == same != fresh_state
    assert fresh.identity["init_from"] is None and own.identity["init_from"] == transferred.identity["init_from"]
    ranks = [checkpoint.identity["state"]["low_rank"]["rank"] for checkpoint in (fresh, own, transferred)]
    assert ranks == [8, 3, 3]
    assert [result.trained for result in results][1:] == [results[1].trained] * 2 != [results[0].trained] * 2


@pytest.mark.parametrize("run", [False, True], ids=["configuration", "run"])
def test_a_pretrained_state_of_another_method_is_refused_before_anything_is_trained(
    write, world, tmp_path, monkeypatch, run
):
    rows = {
        "head": {"method": "head", "start": "pretrained"},
        "both": {"method": "prompt+low-rank", "start": "pretrained"},
        "right": {"method": "prefix-tuning", "start": "pretrained"},
    }
    places = counted(monkeypatch)
    settings = write(rows=rows, **({"pretrain": str(world.run)} if run else {}))
    with pytest.raises(ConfigError) as caught:
        compare(settings, tmp_path / "out", resume="never", console=quiet())
    head, both = caught.value.problems
    assert "head: method head trains the head alone, and what it starts from holds prompt. Take method" in head
    assert "both: method prompt+low-rank trains prompt and low-rank, and what it starts from holds prompt." in both
    assert places == [] and not (tmp_path / "out").exists()


def test_rows_have_the_positions_of_what_is_pretrained_for_them_or_nothing_is_trained(write, world, tmp_path):
    """Some methods have the text behind the prompt whatever is declared, and all rows share the backbone."""
    rows = {name: CONFIG["rows"][name] for name in ("P-Tuning v2", "MPT-2")}
    settings = write(rows=rows, seeds=[0], tuning=NO_TUNING)
    pretraining(tmp_path, method="prefix-tuning")
    with pytest.raises(ConfigError, match=r"positions: there 'shifted', here 'unshifted'\. Make them equal"):
        compare(settings, tmp_path / "out", resume="never", console=quiet())
    assert not (tmp_path / "out").exists()
    backbone = {"reference": str(world.backbone), "dtype": "float32", "positions": "shifted"}
    settings = write(rows=rows, seeds=[0], tuning=NO_TUNING, backbone=backbone)
    pretraining(tmp_path, method="prefix-tuning")
    compare(settings, tmp_path / "out", resume="never", console=quiet())
    for row in rows:
        assert state_of(tmp_path / "out", row)[0].identity["backbone"]["positions"] == "shifted"


def test_all_rows_are_over_one_backbone_or_nothing_is_trained(write, world, tmp_path, monkeypatch):
    moved = {"reference": str(shutil.copytree(world.backbone, tmp_path / "moved")), "dtype": "float32"}
    rows = {"a run": {"method": "transfer", "pretrain": str(world.run)}}
    same = write(rows=rows, seeds=[0], tuning=NO_TUNING, backbone=moved | {"gradient_checkpointing": True})
    compare(same, tmp_path / "same", resume="never", console=quiet())
    places = counted(monkeypatch)
    other = {"reference": str(write_bert(tmp_path / "other", seed=1)), "dtype": "bfloat16"}
    with pytest.raises(ConfigError) as caught:
        compare(write(rows=rows | CONFIG["rows"], backbone=other), tmp_path / "out", resume="never", console=quiet())
    run, config = caught.value.problems if "run" in caught.value.problems[0] else reversed(caught.value.problems)
    assert "dtype: there 'float32', here 'bfloat16'; weights_sha256: there '" in run
    assert "pretrain.yaml was pretrained with other settings" in config and "reference: there '" in config
    assert places == [] and not (tmp_path / "out").exists()


def on_ranks(rank, path, folder):
    compare(load_compare_settings(path), folder, resume="never", console=quiet())


def computed(folder):
    """What a comparison has computed: tensors, choices of rates and scores, less what was measured."""
    found = {name: data for name, data in files_of(folder).items() if name.endswith((".safetensors", "tuning.json"))}
    runs = json.loads((folder / "results.json").read_text())["runs"]
    return found, [{**run, "seconds": 0, "peak_memory_mib": 0} for run in runs]


@pytest.mark.distributed
def test_two_ranks_compare_with_the_same_bits_as_one(write, tmp_path):
    """Pretraining first: what it ends must not be what the comparison still needs."""
    training = {**CONFIG["training"], "micro_batches": 6}
    rows = {name: CONFIG["rows"][name] for name in ("P-Tuning v2", "MPT-2")}
    settings = write(rows=rows, training=training)
    pretraining = json.loads((tmp_path / "pretrain.yaml").read_text())
    (tmp_path / "pretrain.yaml").write_text(json.dumps({**pretraining, "training": training}))
    compare(settings, tmp_path / "one", resume="never", console=quiet())
    run_ranks(2, tmp_path / "out", on_ranks, tmp_path / "compare.yaml", tmp_path / "two")
    assert computed(tmp_path / "two") == computed(tmp_path / "one")
