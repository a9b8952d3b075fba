import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from common.runs import changed, files_of, run_pretrain, run_transfer, state_bytes, transfer_settings, write_bert

from mpt.base.errors import CheckpointError, ConfigError, DivergedError, ManifestError, TrainingError
from mpt.data.families import words
from mpt.data.families.of_task import family_of
from mpt.data.families.tokenization import encode
from mpt.data.manifest.reading import load_manifest
from mpt.data.splits import sample_sentences
from mpt.data.tasks import load_tasks
from mpt.experiments import transfer as stage
from mpt.experiments import trial as trials
from mpt.experiments.settings import TuningSettings
from mpt.experiments.tables import Result
from mpt.model.backbone import precision
from mpt.serving.saved import open_saved
from mpt.training import launch, loop
from mpt.training.checkpoint import find_checkpoint, load_checkpoint


class Interrupted(BaseException):
    """Stands for the end of the process."""


@pytest.fixture(scope="module")
def done(world, tmp_path_factory):
    """Transfer with both baselines, two seeds and twenty sentences."""
    folder = tmp_path_factory.mktemp("transfer") / "results"
    return folder, run_transfer(world, folder, baselines=("scratch", "head"))


def replaced(monkeypatch, name, function):
    """Another function in its place, wherever the stage calls it."""
    for module in (stage, trials):
        if hasattr(module, name):
            monkeypatch.setattr(module, name, function)


def spied(monkeypatch, name):
    """Calls of a function of the stage, with what they return."""
    calls = []
    real = getattr(trials, name)

    def spy(*args, **kwargs):
        value = real(*args, **kwargs)
        calls.append((args, kwargs, value))
        return value

    replaced(monkeypatch, name, spy)
    return calls


def read(path):
    return json.loads(path.read_text())


def results_in(folder):
    """What `results.json` says of each run; results that were measured at different times are equal."""
    return [Result(**run) for run in read(folder / "results.json")["runs"]]


def runs_of(folder):
    """Identity of every run's best checkpoint, by method and seed."""
    return {
        (path.parent.name, path.name): load_checkpoint(find_checkpoint(path)).identity
        for path in sorted(folder.glob("*/*/seed-*"))
    }


# What comes out


def test_every_method_and_seed_has_a_result(done):
    folder, results = done
    assert [(r.task, r.shots, r.method, r.seed) for r in results] == [
        ("firms", 20, method, seed) for method in ("scratch", "head", "transfer") for seed in (0, 1)
    ]
    assert all(0 < r.dev <= 1 and 0 < r.test <= 1 for r in results)
    assert sorted(path.name for path in folder.iterdir()) == [
        "config.yaml",
        "firms-20",
        "init_from.json",
        "manifest.json",
        "results.csv",
        "results.json",
        "results.md",
        "results.png",
    ]


def test_results_json_holds_every_run_and_the_comparison(done, world):
    folder, results = done
    written = read(folder / "results.json")
    assert written["stage"] == "transfer"
    assert written["init_from"] == {
        "folder": str(find_checkpoint(world.run)),
        "tasks": ["people", "places", "words"],
    }
    assert [(run["method"], run["seed"], run["dev"], run["test"]) for run in written["runs"]] == [
        (r.method, r.seed, r.dev, r.test) for r in results
    ]
    (experiment,) = written["experiments"]
    assert (experiment["task"], experiment["shots"], experiment["metric"]) == ("firms", 20, "test span f1")
    assert list(experiment["methods"]) == ["head", "scratch", "transfer"]
    tests = {method: [r.test for r in results if r.method == method] for method in experiment["methods"]}
    for method, summary in experiment["methods"].items():
        assert summary["mean"] == pytest.approx(100 * sum(tests[method]) / 2)
        assert summary["seeds"] == 2
    gains = [100 * (t - s) for t, s in zip(tests["transfer"], tests["scratch"], strict=True)]
    assert experiment["transfer_minus_scratch"]["mean"] == pytest.approx(sum(gains) / 2)


def test_a_prompt_of_emulated_bfloat16_is_transferred_in_float32(world, tmp_path, monkeypatch):
    """Nothing of a finished run is kept where the type would be another."""
    run_pretrain(world, tmp_path / "run", training__steps=2, backbone__dtype="bfloat16")
    monkeypatch.setattr(launch, "multiplies_bfloat16", lambda device: False)
    arguments = {"init_from": tmp_path / "run", "training__steps": 2, "baselines": (), "seeds": (0,)}
    run_transfer(world, tmp_path / "out", **arguments)
    (identity,) = runs_of(tmp_path / "out").values()
    assert identity["backbone"]["dtype"] == "float32"
    monkeypatch.setattr(launch, "multiplies_bfloat16", lambda device: True)
    monkeypatch.setattr(precision, "multiplies_bfloat16", lambda device: True)
    with pytest.raises(ConfigError, match=r"differs from the one that made the folder in init_from\.json"):
        run_transfer(world, tmp_path / "out", resume="must", **arguments)


def test_results_md_is_the_table(done):
    header, rule, row = (done[0] / "results.md").read_text().splitlines()
    assert header == "| task | sentences | score | head | scratch | transfer | transfer - scratch |"
    assert set(rule) == set("| -")
    assert row.startswith("| firms | 20 | test span f1 | ")


def test_a_run_leaves_its_scores_and_its_checkpoints(done):
    folder, results = done
    for result in results:
        run = folder / "firms-20" / result.method / f"seed-{result.seed}"
        record = read(run / "result.json")
        assert record["result"]["test"] == result.test == record["test"]["primary"]
        assert record["dev"]["primary"] == result.dev
        assert record["test_evaluations"] == 1
        assert load_checkpoint(find_checkpoint(run)).step == record["best_step"]


def test_all_methods_train_equally_long_at_equal_rates_on_the_same_sentences(done):
    identities = runs_of(done[0])
    assert len(identities) == 6
    for (method, seed), identity in identities.items():
        same = identities["transfer", seed]
        assert identity["method"] == method
        assert identity["training"] == same["training"]
        assert identity["optimizer"] == same["optimizer"]
        assert identity["shots"] == same["shots"] == 20


def test_the_stage_is_deterministic(world, done, tmp_path):
    run_transfer(world, tmp_path / "again", baselines=("scratch", "head"))
    assert results_in(tmp_path / "again") == results_in(done[0]) == done[1]


# Where a method starts from

PROMPT, HEAD = "bank._slots.0._parts.prompt.flat", "_heads.slot_0.task_firms.weight"


def started(world, folder, monkeypatch, **changes):
    """The model of every trial before its first step."""
    models = {}
    real = trials.execute

    def spy(scorer, tasks, *args, **kwargs):
        models[kwargs["identity"]["method"], kwargs["identity"]["training"]["seed"]] = (state_bytes(scorer), scorer)
        return real(scorer, tasks, *args, **kwargs)

    monkeypatch.setattr(trials, "execute", spy)
    run_transfer(world, folder, **changes)
    return models


def test_transfer_starts_from_the_pretrained_prompt_and_the_baselines_do_not(world, tmp_path, monkeypatch):
    models = started(world, tmp_path / "results", monkeypatch, baselines=("scratch", "head"))
    pretrained = load_checkpoint(find_checkpoint(world.run)).state["prompt.values"].numpy().tobytes()
    for seed in (0, 1):
        assert models["transfer", seed][0][PROMPT] == pretrained
        assert models["scratch", seed][0][PROMPT] != pretrained
        assert models["head", seed][1].state.specs == {}
        assert models["scratch", seed][1].state.specs == models["transfer", seed][1].state.specs
    assert models["scratch", 0][0][PROMPT] != models["scratch", 1][0][PROMPT]


def test_baselines_have_a_fresh_head_whatever_the_head_of_transfer(world, tmp_path, monkeypatch):
    models = started(world, tmp_path / "results", monkeypatch, head="by-label", baselines=("scratch", "head"))
    heads = {key: state[HEAD] for key, (state, _) in models.items()}
    for seed in (0, 1):
        assert heads["scratch", seed] == heads["head", seed] != heads["transfer", seed]
    assert heads["scratch", 0] != heads["scratch", 1]


def test_a_fresh_head_is_that_of_the_baselines(world, tmp_path, monkeypatch):
    models = started(world, tmp_path / "results", monkeypatch, head="fresh")
    heads = {key: state[HEAD] for key, (state, _) in models.items()}
    assert heads["transfer", 0] == heads["scratch", 0]


def test_the_pretrained_model_itself_is_not_trained(world, tmp_path):
    before = files_of(world.run)
    run_transfer(world, tmp_path / "results", seeds=(0,))
    assert files_of(world.run) == before


# Shots


def same_arrays(ours, theirs):
    return all(np.array_equal(getattr(ours, name), getattr(theirs, name)) for name in ("pieces", "positions", "labels"))


def test_shots_are_drawn_by_seed_and_are_the_same_for_all_methods(world, tmp_path, monkeypatch):
    calls = spied(monkeypatch, "execute")
    run_transfer(world, tmp_path / "results", shots=(5,), baselines=("scratch", "head"))
    drawn = [args[1][0].splits["train"] for args, _, _ in calls]
    (task,), _ = load_tasks(load_manifest(world.data / "target.yaml"))
    samples = [tuple(sample_sentences(task.splits["train"], 5, seed=seed)) for seed in (0, 1)]
    word_pieces = open_saved(world.run).scorer.backbone.word_pieces
    expected = [family_of(task.spec).encode(sample, word_pieces, task.labels)[0] for sample in samples]
    assert [same_arrays(ours, theirs) for ours, theirs in zip(drawn, expected * 3, strict=True)] == [True] * 6
    assert samples[0] != samples[1] and not same_arrays(*expected)


def test_a_split_is_encoded_once_for_each_way_that_a_method_wants_its_text(world, tmp_path, monkeypatch):
    encoded = []

    def spy(sentences, word_pieces, labels, **more):
        encoded.append((len(sentences), word_pieces.room))
        return encode(sentences, word_pieces, labels, **more)

    monkeypatch.setattr(words, "encode", spy)
    run_transfer(world, tmp_path / "results", shots=(5, 10), baselines=("scratch", "prefix-tuning"), test=False)
    room = open_saved(world.run).scorer.backbone.word_pieces.room
    assert sorted(encoded) == sorted((count, size) for count in (60, 30) for size in (room, room - 4))
    encoded.clear()
    run_transfer(world, tmp_path / "tested", baselines=("scratch",), seeds=(0,))
    assert [count for count, _ in encoded] == [60, 30, 30], "test is encoded when it is scored"


def test_several_numbers_of_shots_are_several_experiments(world, tmp_path):
    results = run_transfer(world, tmp_path / "results", shots=(5, 10), seeds=(0,))
    assert [(r.shots, r.method) for r in results] == [
        (5, "scratch"),
        (5, "transfer"),
        (10, "scratch"),
        (10, "transfer"),
    ]
    assert len(read(tmp_path / "results" / "results.json")["experiments"]) == 2
    assert (tmp_path / "results" / "results.md").read_text().count("| firms |") == 2


def test_without_shots_all_sentences_are_used(world, tmp_path):
    (result,) = run_transfer(world, tmp_path / "results", shots=(), seeds=(0,), baselines=())
    assert result.shots is None
    assert (tmp_path / "results" / "firms" / "transfer" / "seed-0" / "result.json").is_file()


def test_shots_of_the_manifest_hold_when_none_are_given(own_world, tmp_path):
    path = own_world.data / "target.yaml"
    content = read(path)
    content["tasks"]["firms"]["shots"] = [4, 8]
    path.write_text(json.dumps(content))
    results = run_transfer(own_world, tmp_path / "results", shots=(), seeds=(0,), baselines=())
    assert [r.shots for r in results] == [4, 8]


def test_more_shots_than_sentences_are_refused(world, tmp_path):
    with pytest.raises(ConfigError, match=r'task "firms": 61 shots asked for, train has 60 sentences\. Ask for fewer'):
        run_transfer(world, tmp_path / "results", shots=(10, 61))
    assert not (tmp_path / "results").exists()


# Tuning and the test set


TUNING = TuningSettings(prompt_learning_rates=(0.001, 0.2), head_learning_rates=(0.0001, 0.1), seeds=(77,))


def test_every_method_is_tuned_on_the_same_grid_and_dev_decides(world, tmp_path):
    run_transfer(world, tmp_path / "results", tuning=TUNING, baselines=("scratch", "head"), seeds=(0,))
    grids = {}
    for method in ("scratch", "transfer", "head"):
        folder = tmp_path / "results" / "firms-20" / method
        tuning = read(folder / "tuning.json")
        grids[method] = [(it.get("prompt_learning_rate"), it["head_learning_rate"]) for it in tuning["trials"]]
        best = max(tuning["trials"], key=lambda one: one["dev"])
        assert tuning["chosen"] == {name: best[name] for name in tuning["chosen"]}
        used = read(folder / "seed-0" / "result.json")["optimizer"]
        assert {name: used[name] for name in tuning["chosen"]} == tuning["chosen"]
        assert len({it["dev"] for it in tuning["trials"]}) > 1, "the trials must differ for this test to say anything"
    assert grids["scratch"] == grids["transfer"] == [(0.001, 0.0001), (0.001, 0.1), (0.2, 0.0001), (0.2, 0.1)]
    assert grids["head"] == [(None, 0.0001), (None, 0.1)], "without a prompt there is no rate of it to tune"


def test_tuning_uses_its_own_seed_and_never_the_test_set(world, tmp_path, monkeypatch):
    trained, scored = spied(monkeypatch, "train_trial"), spied(monkeypatch, "evaluate_task")
    run_transfer(world, tmp_path / "results", tuning=TUNING, baselines=(), seeds=(3, 4))
    seeds = [args[1].seed for args, _, _ in trained]
    assert seeds == [77, 77, 77, 77, 3, 4]
    assert [args[2] for args, _, _ in scored] == ["dev", "test", "dev", "test"]
    assert [path.name for path in (tmp_path / "results" / "firms-20" / "transfer").iterdir()].count("seed-77") == 0


def test_trials_may_be_shorter_than_the_runs_that_count(world, tmp_path, monkeypatch):
    trained = spied(monkeypatch, "train_trial")
    tuning = TUNING.model_copy(update={"steps": 3})
    run_transfer(world, tmp_path / "results", tuning=tuning, baselines=(), seeds=(3,), training__steps=5)
    steps = [(args[1].seed, args[0].settings.training.steps, done[1].step) for args, _, done in trained]
    assert steps == [(77, 3, 3)] * 4 + [(3, 5, 5)]


def test_the_best_mean_over_the_tuning_seeds_wins(world, tmp_path, monkeypatch):
    """0.1 has the best single trial, 0.2 the best mean, and 0.3 diverges with one seed."""
    scores = {(0.1, 7): 0.9, (0.1, 8): 0.1, (0.2, 7): 0.6, (0.2, 8): 0.6, (0.3, 7): 0.99, (0.3, 8): None}
    monkeypatch.setattr(
        trials, "_tuning_score", lambda _, trial: scores[trial.optimizer.prompt_learning_rate, trial.seed]
    )
    tuning = TuningSettings(prompt_learning_rates=(0.1, 0.2, 0.3), seeds=(7, 8))
    run_transfer(world, tmp_path / "results", tuning=tuning, baselines=(), seeds=(0,))
    written = read(tmp_path / "results" / "firms-20" / "transfer" / "tuning.json")
    assert [trial["dev"] for trial in written["trials"]] == [0.5, 0.6, None]
    assert written["chosen"]["prompt_learning_rate"] == 0.2


def test_rates_that_diverge_lose_and_do_not_end_the_comparison(world, tmp_path, monkeypatch):
    train = trials.train_trial

    def diverging(session, trial, folder):
        if trial.seed == 77 and trial.optimizer.prompt_learning_rate == 0.2:
            raise DivergedError("not finite")
        return train(session, trial, folder)

    replaced(monkeypatch, "train_trial", diverging)
    run_transfer(world, tmp_path / "results", tuning=TUNING, baselines=(), seeds=(0,))
    tuning = read(tmp_path / "results" / "firms-20" / "transfer" / "tuning.json")
    assert [trial["dev"] is None for trial in tuning["trials"]] == [False, False, True, True]
    assert tuning["chosen"]["prompt_learning_rate"] == 0.001


def test_rates_that_all_diverge_are_an_error(world, tmp_path, monkeypatch):
    def diverging(session, trial, folder):
        raise DivergedError("not finite")

    replaced(monkeypatch, "train_trial", diverging)
    with pytest.raises(TrainingError, match=r"diverged with every rate .* Add lower ones"):
        run_transfer(world, tmp_path / "results", tuning=TUNING, baselines=(), seeds=(0,))


def test_one_pair_of_rates_needs_no_tuning(world, tmp_path, monkeypatch):
    trained = spied(monkeypatch, "train_trial")
    one = TuningSettings(prompt_learning_rates=(0.2,), head_learning_rates=(0.05,))
    run_transfer(world, tmp_path / "results", tuning=one, baselines=(), seeds=(0,))
    assert len(trained) == 1
    used = read(tmp_path / "results" / "firms-20" / "transfer" / "seed-0" / "result.json")["optimizer"]
    assert (used["prompt_learning_rate"], used["head_learning_rate"]) == (0.2, 0.05)


def test_the_test_set_is_scored_once_a_run_and_not_at_all_when_not_asked_for(world, tmp_path, monkeypatch):
    scored = spied(monkeypatch, "evaluate_task")
    run_transfer(world, tmp_path / "with", baselines=(), seeds=(0,))
    assert [args[2] for args, _, _ in scored].count("test") == 1
    scored.clear()
    (result,) = run_transfer(world, tmp_path / "without", baselines=(), seeds=(0,), test=False)
    assert [args[2] for args, _, _ in scored].count("test") == 0
    assert result.test is None
    assert read(tmp_path / "without" / "results.json")["experiments"][0]["metric"] == "dev span f1"
    record = read(tmp_path / "without" / "firms-20" / "transfer" / "seed-0" / "result.json")
    assert (record["test"], record["test_evaluations"]) == (None, 0)


# Resuming


def test_resuming_keeps_what_is_finished_and_redoes_the_run_that_was_cut_off(world, done, tmp_path, monkeypatch):
    folder = tmp_path / "results"
    real, saves = loop._save, []

    def die(*args, **kwargs):
        saves.append(1)
        real(*args, **kwargs)
        if len(saves) == 5:  # two checkpoints a run: in the middle of the third
            raise Interrupted

    with monkeypatch.context() as patch:
        patch.setattr(loop, "_save", die)
        with pytest.raises(Interrupted):
            run_transfer(world, folder, baselines=("scratch", "head"))
    assert (folder / "firms-20" / "head" / "seed-0" / "checkpoints").is_dir()
    trained = spied(monkeypatch, "train_trial")
    results = run_transfer(world, folder, baselines=("scratch", "head"), resume="must")
    assert [(args[1].method, args[1].seed) for args, _, _ in trained] == [
        ("head", 0),
        ("head", 1),
        ("transfer", 0),
        ("transfer", 1),
    ]
    assert results == done[1]
    assert results_in(folder) == results_in(done[0])


def test_resuming_a_finished_comparison_trains_nothing(world, done, tmp_path, monkeypatch):
    folder = shutil.copytree(done[0], tmp_path / "results")
    before = files_of(folder)
    trained = spied(monkeypatch, "train_trial")
    assert run_transfer(world, folder, baselines=("scratch", "head"), resume="must") == done[1]
    assert trained == []
    assert files_of(folder) == before


def test_tuning_is_not_done_twice(world, tmp_path, monkeypatch):
    folder = tmp_path / "results"
    run_transfer(world, folder, tuning=TUNING, baselines=(), seeds=(0,))
    shutil.rmtree(folder / "firms-20" / "transfer" / "seed-0")
    trained = spied(monkeypatch, "train_trial")
    run_transfer(world, folder, tuning=TUNING, baselines=(), seeds=(0,), resume="must")
    assert len(trained) == 1


def test_other_settings_do_not_continue_a_comparison(world, done, tmp_path):
    folder = shutil.copytree(done[0], tmp_path / "results")
    before = files_of(folder)
    with pytest.raises(ConfigError, match=r"cannot resume, this call differs .* in config\.yaml"):
        run_transfer(world, folder, baselines=("scratch", "head"), resume="must", training__steps=7)
    assert files_of(folder) == before


def test_there_must_be_something_to_resume(world, tmp_path):
    with pytest.raises(ConfigError, match="results: nothing to resume"):
        run_transfer(world, tmp_path / "results", resume="must")
    assert not (tmp_path / "results").exists()


def test_an_existing_folder_is_left_alone(world, done):
    before = files_of(done[0])
    with pytest.raises(ConfigError, match=r"this run folder exists\. Continue it with --resume auto, or give"):
        run_transfer(world, done[0])
    assert files_of(done[0]) == before


def test_a_saved_transfer_goes_on_bit_by_bit(world, tmp_path, monkeypatch):
    """Loaded as trainable in the middle, a run ends in the same bits as the run that went through."""
    runs = []
    real = loop.train

    def spy(run, checkpoint=None):
        runs.append(replace(run, resumable=True))
        return real(runs[-1], checkpoint)

    monkeypatch.setattr("mpt.experiments.execution.train", spy)
    run_transfer(world, tmp_path / "results", baselines=(), seeds=(0,), evaluation__every_steps=3)
    (run,) = runs
    run_folder = tmp_path / "results" / "firms-20" / "transfer" / "seed-0"
    middle, end = (load_checkpoint(run_folder / "checkpoints" / name) for name in ("step-00000003", "step-00000006"))
    again = replace(run, folder=tmp_path / "again")
    shutil.copytree(run_folder / "checkpoints" / "step-00000003", tmp_path / "again" / "checkpoints" / "step-00000003")
    with torch.no_grad():
        for parameter in again.scorer.parameters():
            parameter.fill_(7.0)
    real(again, middle)
    resumed = load_checkpoint(tmp_path / "again" / "checkpoints" / "step-00000006")
    for kind in ("state", "heads", "optimizer"):
        ours, theirs = getattr(resumed, kind), getattr(end, kind)
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    for part, own in run.scorer.tensors().items():
        assert own.keys() == resumed.tensors[part].keys()


def test_a_run_that_is_redone_when_it_was_cut_off_keeps_no_moments(done):
    for method in ("scratch", "transfer"):
        checkpoint = load_checkpoint(find_checkpoint(done[0] / "firms-20" / method / "seed-0"))
        assert checkpoint.optimizer == {} != checkpoint.state


# What is refused


def test_a_prompt_of_another_backbone_is_refused(world, tmp_path):
    other = write_bert(tmp_path / "other", seed=1)
    with pytest.raises(CheckpointError) as caught:
        run_transfer(world, tmp_path / "results", backbone=str(other))
    assert "backbone.weights_sha256: checkpoint '" in str(caught.value)
    assert "A task state works with the backbone it was trained on only" in str(caught.value)
    assert not (tmp_path / "results").exists()


def test_a_backbone_that_moved_is_given_its_new_place(world, done, tmp_path):
    moved = shutil.copytree(world.backbone, tmp_path / "moved")
    results = run_transfer(world, tmp_path / "results", backbone=str(moved), baselines=("scratch", "head"))
    assert results == done[1]


def test_an_unknown_target_task_is_refused(world, tmp_path):
    with pytest.raises(ManifestError, match=r'no task "firm"\. It has: firms\. Did you mean "firms"\?'):
        run_transfer(world, tmp_path / "results", tasks=("firm",))
    assert not (tmp_path / "results").exists()


def test_an_unknown_source_of_the_head_is_refused_before_anything_is_trained(world, tmp_path):
    with pytest.raises(CheckpointError, match=r'head from:place: .* Did you mean "places"\?'):
        run_transfer(world, tmp_path / "results", head="from:place")
    assert not (tmp_path / "results").exists()


def test_settings_of_the_test_are_valid():
    assert changed(transfer_settings(), seeds=(0,)).seeds == (0,)


# Reparameterised prompts


@pytest.mark.parametrize("kind", ["mlp", "lstm"])
def test_a_network_behind_the_target_prompt_starts_at_the_pretrained_prompt(world, tmp_path, monkeypatch, kind):
    made = spied(monkeypatch, "new_scorer")
    changes = {"prompt__reparameterisation": kind, "prompt__hidden_size": 8, "seeds": (0,), "baselines": ()}
    run_transfer(world, tmp_path / "results", optimizer__prompt_learning_rate=1e-9, **changes)
    (_, _, scorer), *_ = made
    source = load_checkpoint(find_checkpoint(world.run)).state["prompt.values"]
    prompt = scorer.state.parts["prompt"]
    assert prompt.network is not None and torch.allclose(prompt.flat, source, atol=1e-6)
    identity = runs_of(tmp_path / "results")["transfer", "seed-0"]
    assert (identity["prompt"]["reparameterisation"], identity["prompt"]["length"]) == (kind, 4)
    (run,) = (tmp_path / "results").glob("*/transfer/seed-0")
    assert torch.equal(open_saved(run).state.parts["prompt"].flat, prompt.flat)


def test_a_reparameterised_prompt_is_transferred_flat_unless_told(world, tmp_path):
    run_pretrain(world, tmp_path / "run", prompt__reparameterisation="mlp", prompt__hidden_size=8)
    run_transfer(world, tmp_path / "results", init_from=tmp_path / "run", seeds=(0,))
    for identity in runs_of(tmp_path / "results").values():
        assert "reparameterisation" not in identity["prompt"]
