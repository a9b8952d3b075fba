"""Every method as a pretraining has it: one shared state of its parts, which evaluates, resumes and transfers."""

import json
import re

import pytest
from common.interrupted import after_first, before_second, interrupted, without_times
from common.runs import quiet, run_pretrain, run_transfer

from mpt.base.errors import CheckpointError
from mpt.experiments import trial as trials
from mpt.experiments.evaluate import evaluate
from mpt.experiments.methods import METHODS, PRETRAINABLE, trained_by
from mpt.experiments.settings import TuningSettings
from mpt.serving.saved import open_saved
from mpt.training import loop
from mpt.training.checkpoint import find_checkpoint, latest, load_checkpoint

RATES = {
    "prompt": ["prompt", "head"],
    "head": ["head"],
    "bitfit": ["backbone", "head"],
    "lora": ["low_rank", "head"],
    "low-rank": ["low_rank", "head"],
    "prompt+low-rank": ["prompt", "low_rank", "head"],
    "fine-tuning": ["backbone", "head"],
    "prompt-tuning": ["prompt", "head"],
    "p-tuning": ["prompt", "head"],
    "prefix-tuning": ["prompt", "head"],
}
"""Learning rates of each method."""


def settings_of(method):
    """Rates that move everything in six steps."""
    rates = {"optimizer__low_rank_learning_rate": 0.02, "optimizer__backbone_learning_rate": 0.01}
    return {"method": method, "prompt__hidden_size": 8, **rates}


@pytest.fixture(scope="module", params=PRETRAINABLE)
def pretrained(request, world, tmp_path_factory):
    """A run of each method, by name."""
    folder = tmp_path_factory.mktemp("pretrained") / "run"
    run_pretrain(world, folder, **settings_of(request.param))
    return request.param, folder


def test_every_method_pretrains():
    assert list(RATES) == list(PRETRAINABLE) == ["prompt", *(name for name in METHODS if name in PRETRAINABLE)]
    assert trained_by("prompt") == trained_by("scratch") == METHODS["scratch"]


def test_a_run_holds_the_parts_of_its_method_and_scores_as_it_did(world, pretrained):
    method, folder = pretrained
    checkpoint = load_checkpoint(find_checkpoint(folder))
    assert checkpoint.identity["method"] == method
    assert list(checkpoint.identity["state"]) == list(trained_by(method).parts)
    assert set(checkpoint.heads) == {
        f"{task}.{it}" for task in ("people", "places", "words") for it in ("weight", "bias")
    }
    assert bool(checkpoint.networks) == (method == "p-tuning")
    report = evaluate(
        folder, world.data / "mixture.yaml", tasks=(), split="dev", out=None, backbone=None, console=quiet()
    )
    written = json.loads((folder / "results.json").read_text())["dev"]
    assert {one.task: one.score.to_json() for one in report.tasks} == written


def test_a_run_that_is_resumed_is_the_same_run(world, pretrained, tmp_path, monkeypatch):
    method, folder = pretrained
    run, changes = tmp_path / "run", settings_of(method)
    interrupted(world, run, monkeypatch, resume="never", when=("_save", after_first(loop._save)), **changes)
    interrupted(world, run, monkeypatch, resume="must", when=("train_step", before_second(loop.train_step)), **changes)
    run_pretrain(world, run, resume="must", **changes)
    assert without_times(run) == without_times(folder)


def test_a_transfer_goes_on_from_the_parts_and_tunes_their_rates(world, pretrained, tmp_path, monkeypatch):
    method, folder = pretrained
    starts, real = [], trials.execute

    def spy(scorer, *args, **kwargs):
        starts.append({name: value.tobytes() for name, value in values(scorer.state).items()})
        return real(scorer, *args, **kwargs)

    monkeypatch.setattr(trials, "execute", spy)
    pairs = {f"{name}_learning_rates": (0.001, 0.01) for name in ("prompt", "low_rank", "backbone")}
    tuning = TuningSettings(**pairs, head_learning_rates=(0.05, 0.1), seeds=(7,))
    more = {"training__steps": 2, "evaluation__every_steps": 2, "seeds": (0,), "tuning": tuning}
    results = run_transfer(world, tmp_path / "results", init_from=folder, baselines=(), **more)
    saved = open_saved(folder)
    assert starts == [{name: value.tobytes() for name, value in values(saved.state).items()}] * len(starts)
    (tuned,) = (tmp_path / "results").glob("*/transfer/tuning.json")
    trials_done = json.loads(tuned.read_text())["trials"]
    assert [name.removesuffix("_learning_rate") for name in trials_done[0] if name != "dev"] == RATES[method]
    assert len(trials_done) == 2 ** len(RATES[method]) == results[0].trials
    (run,) = (tmp_path / "results").glob("*/transfer/seed-0")
    identity = load_checkpoint(find_checkpoint(run)).identity
    assert (identity["method"], identity["state"]) == ("transfer", saved.state.specs)
    assert identity["backbone"]["positions"] == ("shifted" if trained_by(method).shifted else "unshifted")


def values(state):
    """Flat values of a state by name, as arrays."""
    return {name: value.detach().numpy() for name, value in state.values().items()}


def test_a_run_of_one_method_is_not_gone_on_with_as_another(world, pretrained, tmp_path):
    method, folder = pretrained
    other = "head" if method == "prompt" else "prompt"
    with pytest.raises(CheckpointError, match=f"method: checkpoint '{re.escape(method)}', now '{other}'"):
        run_pretrain(world, folder, resume="must", **settings_of(other))


def test_a_run_without_moments_is_not_gone_on_with(world, tmp_path):
    run_transfer(world, tmp_path / "results", baselines=(), seeds=(0,))
    (run,) = (tmp_path / "results").glob("*/transfer/seed-0")
    newest = latest(run)
    with pytest.raises(
        CheckpointError, match=rf"{newest.name}: holds no moments of the optimizer, .*\(--resume auto\)"
    ):
        run_pretrain(world, run, resume="must")


def test_lora_and_low_rank_train_the_layers_that_their_names_stand_for(world, tmp_path):
    for method, count in (("lora", 4), ("low-rank", 12)):
        run_pretrain(world, tmp_path / method, training__steps=2, **settings_of(method))
        assert len(open_saved(tmp_path / method).state.parts["low_rank"].names) == count
    told = {"training__steps": 2, "low_rank__targets": "feed-forward", "low_rank__layers": 1}
    run_pretrain(world, tmp_path / "told", **told, **settings_of("lora"))
    names = open_saved(tmp_path / "told").state.parts["low_rank"].names
    assert sorted(names) == ["encoder.layer.1.intermediate.dense", "encoder.layer.1.output.dense"]
