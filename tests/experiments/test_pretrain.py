import json
import shutil
from dataclasses import replace

import pytest
import torch
from common.interrupted import after_first, before_second, interrupted, without_times
from common.prompts import random_batch
from common.runs import files_of, run_pretrain, write_bert
from rich.console import Console

from mpt.base.errors import CheckpointError, ConfigError, ManifestError
from mpt.data import cache as text_cache
from mpt.evaluation.evaluator import evaluate_tasks
from mpt.experiments import pretrain as stage
from mpt.model.state.network import by_token, network_behind
from mpt.serving.saved import open_saved
from mpt.training import launch, loop
from mpt.training.checkpoint import latest, list_checkpoints, load_checkpoint


@pytest.fixture(scope="module")
def straight(world, tmp_path_factory):
    folder = tmp_path_factory.mktemp("straight") / "run"
    run_pretrain(world, folder)
    return folder


def test_a_run_folder_holds_what_was_given_and_what_came_out(straight, world):
    assert {path.name for path in straight.iterdir()} == {
        "config.yaml",
        "manifest.json",
        "metrics.jsonl",
        "results.json",
        "checkpoints",
    }
    results = json.loads((straight / "results.json").read_text())
    assert (results["stage"], results["steps"]) == ("pretrain", 6)
    assert results["best_step"] in (2, 4, 6)
    assert list(results["dev"]) == ["people", "places", "words"]
    assert json.loads((straight / "manifest.json").read_text())["name"] == "source"


def test_what_is_returned_is_what_is_written_and_is_of_the_best_checkpoint(world, tmp_path):
    scores = run_pretrain(world, tmp_path / "run")
    written = json.loads((tmp_path / "run" / "results.json").read_text())
    assert {name: score.primary for name, score in scores.items()} == {
        name: score["primary"] for name, score in written["dev"].items()
    }
    records = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    (best,) = [it for it in records if it["kind"] == "dev" and it["step"] == written["best_step"]]
    assert best["dev/people/span_f1"] == pytest.approx(scores["people"].primary, abs=1e-6)
    assert best["dev/words/accuracy"] == pytest.approx(scores["words"].primary, abs=1e-6)
    assert best["dev/score"] == max(it["dev/score"] for it in records if it["kind"] == "dev")


def test_the_same_settings_give_the_same_bytes(world, straight, tmp_path):
    run_pretrain(world, tmp_path / "run")
    assert without_times(tmp_path / "run") == without_times(straight)


def test_another_seed_gives_another_prompt(world, straight, tmp_path):
    run_pretrain(world, tmp_path / "run", training__seed=1)
    assert load_prompt(tmp_path / "run") != load_prompt(straight)


def load_prompt(run):
    return load_checkpoint(latest(run)).state["prompt.values"].numpy().tobytes()


def test_a_run_interrupted_at_every_evaluation_and_resumed_is_the_same_run(world, straight, tmp_path, monkeypatch):
    """Twice ended after its checkpoint, once in the middle of an interval, and resumed each time."""
    run = tmp_path / "run"
    interrupted(world, run, monkeypatch, resume="never", when=("_save", after_first(loop._save)))
    assert latest(run).name == "step-00000002"
    interrupted(world, run, monkeypatch, resume="must", when=("train_step", before_second(loop.train_step)))
    assert latest(run).name == "step-00000002", "a step after the checkpoint is lost, and done again"
    interrupted(world, run, monkeypatch, resume="must", when=("_save", after_first(loop._save)))
    assert latest(run).name == "step-00000004"
    run_pretrain(world, run, resume="must")
    assert without_times(run) == without_times(straight)


def test_a_streamed_run_that_is_interrupted_is_the_same_run(world, tmp_path, monkeypatch):
    """Three files of a streamed task beside an ordinary one; more micro-batches than an epoch has."""
    data = shutil.copytree(world.data, tmp_path / "data")
    sentences = (data / "places" / "train.txt").read_text().split("\n\n")
    for number in range(3):
        (data / "places" / f"part-{number}.txt").write_text("\n\n".join(sentences[number::3]) + "\n")
    manifest = json.loads((data / "mixture.yaml").read_text())
    manifest["tasks"]["places"] |= {"streamed": True, "labels": ["LOC", "PER"]}
    manifest["tasks"]["places"]["files"]["train"] = "places/part-*.txt"
    (data / "mixture.yaml").write_text(json.dumps(manifest))
    more = {"manifest": data / "mixture.yaml", "training__micro_batches": 2, "training__tokens_per_micro_batch": 64}
    run_pretrain(world, tmp_path / "straight", **more)
    run = tmp_path / "run"
    interrupted(world, run, monkeypatch, resume="never", when=("_save", after_first(loop._save)), **more)
    run_pretrain(world, run, resume="must", **more)
    assert without_times(run) == without_times(tmp_path / "straight")
    assert json.loads((run / "results.json").read_text())["dev"]["places"]["primary"] > 0


def test_a_run_interrupted_while_evaluating_is_the_same_run(world, straight, tmp_path, monkeypatch):
    run = tmp_path / "run"
    interrupted(world, run, monkeypatch, resume="never", when=("_evaluate", before_second(loop._evaluate)))
    run_pretrain(world, run, resume="must")
    assert without_times(run) == without_times(straight)


def test_resuming_a_finished_run_changes_nothing_and_clears_what_a_kill_left(world, straight, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(straight, run)
    (run / "checkpoints" / ".tmp-step-00000008-ab").mkdir()
    (run / ".tmp-metrics.jsonl-cd").touch()
    run_pretrain(world, run, resume="must")
    assert without_times(run) == without_times(straight)


def test_a_damaged_newest_checkpoint_is_refused_and_removing_it_goes_on(world, straight, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(straight, run)
    newest = latest(run)
    (newest / "optimizer.safetensors").write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"step-00000006: the checkpoint is damaged: optimizer\.safetensors"):
        run_pretrain(world, run, resume="must")
    shutil.rmtree(newest)
    run_pretrain(world, run, resume="must")
    assert without_times(run) == without_times(straight)


NETWORKS = ("mlp", "lstm")


def reparameterised(kind, **changes):
    """Changes that put a small network behind the prompt."""
    return {"prompt__reparameterisation": kind, "prompt__hidden_size": 8, "prompt__network_rate": 0.1, **changes}


@pytest.mark.parametrize("kind", NETWORKS)
def test_a_checkpoint_holds_the_flat_prompt_of_its_network(world, tmp_path, kind):
    run_pretrain(world, tmp_path / "run", **reparameterised(kind))
    run_pretrain(world, tmp_path / "flat")
    folders = list_checkpoints(tmp_path / "run" / "checkpoints")
    assert folders
    for folder in folders:
        checkpoint = load_checkpoint(folder)
        network = network_behind(torch.zeros(4, 2 * 2 * 2 * 16), kind=kind, input_size=32, hidden_size=8, seed=0)
        network.load_state_dict({name.removeprefix("prompt."): it for name, it in checkpoint.networks.items()})
        with torch.no_grad():  # where an LSTM has a kernel of its own
            assert torch.equal(by_token(checkpoint.state["prompt.values"]), network()), "folded: equal bits"
    trained = {name.rsplit("/", 1)[0] for name in checkpoint.optimizer if not name.startswith("heads.")}
    assert trained == {f"networks.prompt.{name}" for name, _ in network.named_parameters()}
    assert load_prompt(tmp_path / "run") != load_prompt(tmp_path / "flat")


@pytest.mark.parametrize("kind", NETWORKS)
def test_a_model_for_use_gives_the_scores_of_the_one_that_was_trained(world, tmp_path, monkeypatch, kind):
    scorers = []

    def spy(scorer, *args, **kwargs):
        scorers.append(scorer)
        return evaluate_tasks(scorer, *args, **kwargs)

    monkeypatch.setattr(stage, "evaluate_tasks", spy)
    run_pretrain(world, tmp_path / "run", **reparameterised(kind))
    saved = open_saved(tmp_path / "run").scorer
    assert saved.state.parts["prompt"].network is None and scorers[0].state.parts["prompt"].network is not None
    batch = random_batch(saved.backbone, 5, 7, tasks=("places",))
    with torch.no_grad():
        assert torch.equal(*(torch.cat(scorer(batch)) for scorer in (saved, scorers[0])))


@pytest.mark.parametrize("kind", NETWORKS)
def test_a_reparameterised_run_that_is_resumed_is_the_same_run(world, tmp_path, monkeypatch, kind):
    changes = reparameterised(kind)
    run_pretrain(world, tmp_path / "straight", **changes)
    run = tmp_path / "run"
    interrupted(world, run, monkeypatch, resume="never", when=("_save", after_first(loop._save)), **changes)
    interrupted(world, run, monkeypatch, resume="must", when=("train_step", before_second(loop.train_step)), **changes)
    run_pretrain(world, run, resume="must", **changes)
    assert without_times(run) == without_times(tmp_path / "straight")


def test_a_flat_run_knows_nothing_of_networks(straight):
    checkpoint = load_checkpoint(latest(straight))
    assert checkpoint.networks == {}
    assert list(checkpoint.identity["prompt"]) == ["length", "layers", "initialisation", "dropout"]


@pytest.mark.parametrize("changes", [{}, {"prompt__hidden_size": 16}, {"prompt__network_rate": 0.2}])
def test_resuming_with_another_network_is_refused(world, straight, tmp_path, changes):
    if not changes:
        refused(
            world, straight, tmp_path, "prompt.reparameterisation: checkpoint None, now 'mlp'", **reparameterised("mlp")
        )
        return
    run_pretrain(world, tmp_path / "made", **reparameterised("mlp"))
    (name, value), *_ = changes.items()
    was = reparameterised("mlp")[name]
    message = f"{name.replace('__', '.')}: checkpoint {was}, now {value}"
    refused(world, tmp_path / "made", tmp_path, message, **reparameterised("mlp", **changes))


def test_what_is_trained_is_told(world, tmp_path, capsys):
    run_pretrain(world, tmp_path / "run", console=Console(width=300), **reparameterised("mlp"))
    # Inputs 4 x 32, then 32 to 8, then 8 to the 128 values of a virtual token.
    assert "; the prompt comes out of 1,544 weights until training ends" in capsys.readouterr().out


def test_there_must_be_something_to_resume(world, tmp_path):
    with pytest.raises(CheckpointError, match="run: nothing to resume, it has no checkpoint"):
        run_pretrain(world, tmp_path / "run", resume="must")
    assert not (tmp_path / "run").exists()


def test_an_existing_run_folder_is_left_alone(world, straight):
    before = files_of(straight)
    with pytest.raises(ConfigError, match=r"run: this run folder exists\. Continue it with --resume auto, or"):
        run_pretrain(world, straight)
    assert files_of(straight) == before


REFUSED = [
    ({"prompt__length": 5}, "\n  prompt.length: checkpoint 4, now 5", "state.prompt.length: checkpoint 4, now 5"),
    ({"prompt__dropout": 0.5}, "prompt.dropout: checkpoint 0.1, now 0.5", ""),
    (
        {"prompt__layers": 1},
        "prompt.layers: checkpoint 'all', now 1",
        "state.prompt.layers: checkpoint [0, 1], now [1]",
    ),
    ({"optimizer__prompt_learning_rate": 0.1}, "optimizer.prompt_learning_rate: checkpoint 0.2, now 0.1", ""),
    ({"training__seed": 1}, "training.seed: checkpoint 0, now 1", ""),
    ({"training__steps": 8}, "training.steps: checkpoint 6, now 8", ""),
    ({"training__micro_batches": 2}, "training.micro_batches: checkpoint 1, now 2", ""),
    ({"training__backbone_dropout": 0.1}, "training.backbone_dropout: checkpoint 0.0, now 0.1", ""),
    ({"backbone__word_state": "mean"}, "backbone.word_state: checkpoint 'piece', now 'mean'", ""),
    ({"backbone__dtype": "bfloat16"}, "backbone.dtype: checkpoint 'float32', now 'bfloat16'", ""),
    ({"backbone__positions": "shifted"}, "backbone.positions: checkpoint 'unshifted', now 'shifted'", ""),
    ({"tasks": ("people", "places")}, "tasks.words", ""),
    ({"evaluation__select_by": "min"}, "evaluation.select_by: checkpoint 'macro_mean', now 'min'", ""),
]


def refused(world, straight, tmp_path, *parts, **changes):
    run = tmp_path / "run"
    shutil.copytree(straight, run)
    before = files_of(run)
    with pytest.raises(CheckpointError) as caught:
        run_pretrain(world, run, resume="must", **changes)
    message = str(caught.value)
    for part in ("step-00000006: this checkpoint was made for something else", "start a new run", *parts):
        assert part in message, message
    assert files_of(run) == before


@pytest.mark.parametrize(("changes", "first", "second"), REFUSED, ids=[next(iter(it[0])) for it in REFUSED])
def test_other_settings_are_refused(world, straight, tmp_path, changes, first, second):
    refused(world, straight, tmp_path, first, second, **changes)


def test_another_manifest_is_refused(own_world, straight, tmp_path):
    path = own_world.data / "mixture.yaml"
    content = json.loads(path.read_text())
    content["tasks"]["people"]["loss_weight"] = 2.0
    path.write_text(json.dumps(content))
    refused(
        own_world, straight, tmp_path, "manifest.sha256: checkpoint '", "tasks.people.spec.loss_weight: ", "now 2.0"
    )


def test_another_list_of_labels_is_refused(own_world, straight, tmp_path):
    path = own_world.data / "mixture.yaml"
    content = json.loads(path.read_text())
    content["tasks"]["people"]["labels"] = ["PER", "NEW"]
    path.write_text(json.dumps(content))
    refused(own_world, straight, tmp_path, "tasks.people.labels: checkpoint ['O', 'B-PER', 'I-PER'], now", "B-NEW")


def test_other_data_are_refused(own_world, straight, tmp_path):
    path = own_world.data / "words" / "train.txt"
    path.write_text(path.read_text() + "Ada PROPN\n\n")
    refused(own_world, straight, tmp_path, "tasks.words.files.words/train.txt: checkpoint '")


def test_another_backbone_is_refused(world, straight, tmp_path):
    other = replace(world, backbone=write_bert(tmp_path / "other", seed=1))
    refused(other, straight, tmp_path, "backbone.weights_sha256: checkpoint '")


def test_another_tokenizer_is_refused(world, straight, tmp_path):
    other = replace(world, backbone=tmp_path / "other")
    shutil.copytree(world.backbone, other.backbone)
    path = other.backbone / "tokenizer_config.json"
    path.write_text(path.read_text() + "\n")
    refused(other, straight, tmp_path, "backbone.tokenizer_sha256: checkpoint '")


def test_a_run_may_be_resumed_elsewhere(world, straight, tmp_path):
    """Where data, backbone and run lie is not what they are."""
    moved = replace(world, data=tmp_path / "data", backbone=tmp_path / "moved")
    for folder, source in ((moved.data, world.data), (moved.backbone, world.backbone), (tmp_path / "run", straight)):
        shutil.copytree(source, folder)
    shutil.rmtree(latest(tmp_path / "run"))
    run_pretrain(moved, tmp_path / "run", resume="must")
    assert load_prompt(tmp_path / "run") == load_prompt(straight)


def test_one_task_of_a_manifest_alone(world, tmp_path):
    assert list(run_pretrain(world, tmp_path / "run", tasks=("people",))) == ["people"]
    assert list(load_checkpoint(latest(tmp_path / "run")).heads) == ["people.bias", "people.weight"]


def test_an_unknown_task_is_refused_before_anything_is_made(world, tmp_path):
    with pytest.raises(ManifestError, match=r'no task "peple".*Did you mean "people"\?'):
        run_pretrain(world, tmp_path / "run", tasks=("peple",))
    assert not (tmp_path / "run").exists()


def test_selecting_by_an_unknown_task_is_refused(world, tmp_path):
    with pytest.raises(ConfigError, match=r'evaluation\.select_by: "peple" is neither .*Did you mean "people"\?'):
        run_pretrain(world, tmp_path / "run", evaluation__select_by="peple")


def test_micro_batches_that_tasks_cannot_share_are_refused(own_world, tmp_path):
    path = own_world.data / "mixture.yaml"
    content = json.loads(path.read_text())
    path.write_text(json.dumps({**content, "mixture": {"tasks_per_step": 2}}))
    with pytest.raises(ConfigError, match=r"micro_batches: 3 is not a multiple of 2 tasks per step x 1 processes"):
        run_pretrain(own_world, tmp_path / "run", training__micro_batches=3)
    run_pretrain(own_world, tmp_path / "run", training__micro_batches=4, training__steps=2)
    records = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert any(len([key for key in it if key.count("/") == 2]) == 2 for it in records if it["kind"] == "train")


def test_only_the_asked_for_checkpoints_are_kept(world, tmp_path):
    run_pretrain(world, tmp_path / "run", checkpoints__keep_last=1, checkpoints__every_steps=1)
    names = [folder.name for folder in list_checkpoints(tmp_path / "run" / "checkpoints")]
    assert names[-1] == "step-00000006"
    assert len(names) <= 2


def test_a_run_with_dropout_and_means_that_is_resumed_is_the_same_run(world, tmp_path, monkeypatch):
    changes = {"training__backbone_dropout": 0.3, "backbone__word_state": "mean"}
    run_pretrain(world, tmp_path / "straight", **changes)
    when = ("_save", after_first(loop._save))
    interrupted(world, tmp_path / "run", monkeypatch, resume="never", when=when, **changes)
    torch.manual_seed(99)
    run_pretrain(world, tmp_path / "run", resume="must", **changes)
    assert without_times(tmp_path / "run") == without_times(tmp_path / "straight")
    run_pretrain(world, tmp_path / "dry", backbone__word_state="mean")
    assert load_prompt(tmp_path / "dry") != load_prompt(tmp_path / "straight")


@pytest.mark.parametrize("native", [False, True])
def test_the_type_is_the_processors_unless_told(world, tmp_path, monkeypatch, native):
    """What it came to is said and recorded; emulated bfloat16 is had by asking for it, and told."""
    monkeypatch.setattr(launch, "multiplies_bfloat16", lambda device: native)
    chosen = "bfloat16" if native else "float32"
    for dtype, came_to in (("auto", chosen), ("bfloat16", "bfloat16"), ("float32", "float32")):
        console, folder = Console(record=True, width=400), tmp_path / dtype
        run_pretrain(world, folder, console=console, backbone__dtype=dtype, training__steps=2)
        said = console.export_text()
        assert said.count("many times as long in bfloat16") == (came_to == "bfloat16" and not native)
        assert f"threads, backbone in {came_to}; it computes" in said.replace("1 thread,", "threads,")
        assert f"dtype: {came_to}\n" in (folder / "config.yaml").read_text()
        assert load_checkpoint(latest(folder)).identity["backbone"]["dtype"] == came_to


def test_a_run_goes_on_in_its_type_alone(world, tmp_path, monkeypatch):
    run_pretrain(world, tmp_path / "run", training__steps=2)
    monkeypatch.setattr(launch, "multiplies_bfloat16", lambda device: True)
    with pytest.raises(CheckpointError, match=r"backbone\.dtype: checkpoint 'float32', now 'bfloat16'"):
        run_pretrain(world, tmp_path / "run", resume="must", training__steps=2, backbone__dtype="auto")
    monkeypatch.setattr(launch, "multiplies_bfloat16", lambda device: False)
    run_pretrain(world, tmp_path / "run", resume="must", training__steps=2, backbone__dtype="auto")


def test_a_kept_text_changes_the_start_and_nothing_else(world, straight, tmp_path, monkeypatch):
    monkeypatch.setenv("MPT_CACHE", str(tmp_path / "cache"))
    runs = {"read": tmp_path / "read", "made": tmp_path / "made", "kept": tmp_path / "kept"}
    run_pretrain(world, runs["read"], backbone__text_cache_gib=0.0)
    assert not (tmp_path / "cache").exists()
    run_pretrain(world, runs["made"])
    assert len(list((tmp_path / "cache" / "text").iterdir())) == 3, "three tasks"
    monkeypatch.setattr(text_cache, "load_task", None)
    run_pretrain(world, runs["kept"])
    for folder in runs.values():
        (folder / "config.yaml").write_bytes((straight / "config.yaml").read_bytes())
        assert without_times(folder) == without_times(straight)


def test_a_text_cache_that_cannot_be_used_is_told(world, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("MPT_CACHE", str(tmp_path / "file"))
    console = Console(record=True, width=400)
    run_pretrain(world, tmp_path / "run", console=console)
    (said,) = [line for line in console.export_text().splitlines() if "text cache" in line]
    assert "cannot be used (Not a directory); every start reads and tokenises the text anew." in said


def test_a_run_may_be_resumed_with_another_time_limit(world, straight, tmp_path):
    shutil.copytree(straight, tmp_path / "run")
    run_pretrain(world, tmp_path / "run", resume="must", training__timeout_seconds=5)


def test_a_run_may_be_resumed_without_its_kept_text(world, straight, tmp_path):
    shutil.copytree(straight, tmp_path / "run")
    run_pretrain(world, tmp_path / "run", resume="must", backbone__text_cache_gib=0.0)
    assert without_times(tmp_path / "run") == without_times(straight)
