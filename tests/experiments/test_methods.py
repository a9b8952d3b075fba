"""Every method as trials have it: what is trained, what is left alone, what is saved."""

import importlib.util
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from common.runs import changed, files_of, quiet, state_bytes, transfer_settings
from rich.console import Console

from mpt.base.errors import BackboneError, CheckpointError, LaunchError
from mpt.data.manifest.reading import load_manifest
from mpt.data.order.batch import collate
from mpt.data.tasks import load_tasks
from mpt.experiments import trial as trials
from mpt.experiments.inputs import encode_tasks
from mpt.experiments.methods import BASELINES, METHODS
from mpt.experiments.start import require_trainable, start_from
from mpt.experiments.trial import Session, Trial, run_trial
from mpt.model.backbone.sharding import Sharding
from mpt.serving.saved import open_saved
from mpt.training.checkpoint import find_checkpoint
from mpt.training.engines import Engine
from mpt.training.launch import build_accelerator

LABELS, HIDDEN, LAYERS, INNER, LENGTH = 5, 32, 2, 64, 4
RANK = 8
HEAD = HIDDEN * LABELS + LABELS
BIASES = LAYERS * (4 * HIDDEN + INNER + HIDDEN + 2 * HIDDEN) + HIDDEN  # projections, two norms; norm of embeddings
"""Query, key, value, output; both halves of the feed-forward block; biases of norms."""
WIDTH = 8
"""Of the network behind a prompt."""
ENCODER = sum(8 * WIDTH // 2 * (into + WIDTH // 2 + 2) for into in (HIDDEN, WIDTH))
ENCODER += WIDTH * (WIDTH + 1) + HIDDEN * (WIDTH + 1)
"""Two layers of an LSTM, four gates in two directions with weights of inputs, of states and two biases; two linear."""


def num_trained(method, backbone):
    """Trained parameters besides those of the head, by formula."""
    return {
        "head": 0,
        "bitfit": BIASES,
        "lora": LAYERS * 2 * 2 * RANK * HIDDEN,  # queries and values, two factors
        "fine-tuning": backbone.num_parameters,
        "prompt-tuning": LENGTH * HIDDEN,
        "p-tuning": LENGTH * HIDDEN + ENCODER,
        "prefix-tuning": LAYERS * 2 * LENGTH * HIDDEN,
        "scratch": LAYERS * 2 * LENGTH * HIDDEN,
        "transfer": LAYERS * 2 * LENGTH * HIDDEN,
    }[method]


@pytest.fixture(scope="module")
def session(world, tmp_path_factory):
    """What trials share; ten steps at rates that move everything."""
    folder = tmp_path_factory.mktemp("session")
    settings = transfer_settings(
        optimizer__backbone_learning_rate=0.01,
        training__steps=10,
        evaluation__every_steps=10,
        training__head_dropout=0.0,
        prompt__hidden_size=WIDTH,
        prompt__network_rate=0.3,
    )
    return Session(
        start=start_from(open_saved(world.run), settings.prompt),
        settings=settings,
        manifest=load_manifest(world.data / "target.yaml"),
        accelerator=build_accelerator(folder),
        engine=Engine(),
        console=quiet(),
    )


def tensors_of(backbone):
    backbone.switch.to(None)
    return {
        name: (id(value), value.numpy().tobytes()) for name, value in backbone.model.state_dict(keep_vars=True).items()
    }


@pytest.fixture(scope="module")
def done(session, tmp_path_factory):
    """Folder, losses, model and its start of a trial of each method, all over one backbone, one after the other."""
    (task,), _ = load_tasks(session.manifest)
    before = tensors_of(session.start.backbone)
    runs = {}
    for method in ("fine-tuning", *METHODS):  # fine-tuning first, so that every other one comes after it
        starts, models = [], []

        def spied(tagger, *args, real=trials.execute, starts=starts, models=models, **kwargs):
            starts.append(state_bytes(tagger))
            models.append(tagger)
            return real(tagger, *args, **kwargs)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(trials, "execute", spied)
            folder = tmp_path_factory.mktemp("runs") / f"{method}-{len(runs)}"
            trial = Trial(task=task, shots=None, method=method, seed=0, optimizer=session.settings.optimizer)
            result = run_trial(session, trial, folder)
        runs.setdefault(method, []).append((folder, starts[0], models[0], result))
        assert tensors_of(session.start.backbone) == before, method
    return runs


def test_the_known_methods():
    assert BASELINES == (
        "head",
        "bitfit",
        "lora",
        "fine-tuning",
        "prompt-tuning",
        "p-tuning",
        "prefix-tuning",
        "scratch",
    )


@pytest.mark.parametrize("method", METHODS)
def test_the_loss_falls(done, method):
    folder, _, _, _ = done[method][0]
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    losses = [line["train/loss"] for line in lines if "train/loss" in line]
    assert len(losses) == 10
    assert sum(losses[-3:]) < 0.9 * sum(losses[:3])


@pytest.mark.parametrize("method", METHODS)
def test_as_many_parameters_are_trained_as_by_formula_and_all_of_them_move(done, session, method):
    folder, start, tagger, _ = done[method][0]
    trained = HEAD + num_trained(method, session.start.backbone)
    assert sum(p.numel() for p in tagger.trained) == trained
    assert json.loads((folder / "result.json").read_text())["trained_parameters"] == trained
    now = state_bytes(tagger)
    assert now.keys() == start.keys()
    still = {name for name in start if start[name] == now[name]}
    # The softmax over pieces does not notice what is added to every key.
    buffers = {name for name, _ in tagger.named_buffers()}  # where a prompt out of a network starts
    assert all("key/bias" in name or name in buffers for name in still), still


def test_a_method_does_not_depend_on_what_was_trained_before(done):
    (first, *_), (again, *_) = done["fine-tuning"]
    ours, theirs = (files_of(find_checkpoint(folder)) for folder in (first, again))
    ours, theirs = (
        {name: value for name, value in files.items() if name.endswith(".safetensors")} for files in (ours, theirs)
    )
    assert ours == theirs
    assert "backbone.safetensors" in ours


@pytest.mark.parametrize("method", METHODS)
def test_a_saved_model_gives_equal_logits(done, session, method):
    folder, _, tagger, _ = done[method][0]
    saved = open_saved(folder)
    (task,), _ = load_tasks(session.manifest)
    logits = []
    for model in (tagger, saved.tagger):
        (encoded,), _ = encode_tasks([task], model.backbone)
        batch = collate(encoded.splits["dev"], np.arange(12), pad=model.backbone.word_pieces.pad)
        with torch.no_grad():
            logits.append(model("firms", batch))
    assert torch.equal(*logits)
    names = {path.name for path in saved.folder.iterdir()}
    assert ("backbone.safetensors" in names) == (METHODS[method].weights is not None)
    assert ("reparameterisation.safetensors" in names) == (method == "p-tuning")


@pytest.mark.parametrize("method", ["prompt-tuning", "p-tuning", "prefix-tuning"])
def test_text_starts_behind_the_prompt(done, session, method):
    _, _, tagger, _ = done[method][0]
    backbone = tagger.backbone
    assert backbone.shifted
    assert backbone.word_pieces.room + LENGTH + 2 == backbone.max_positions
    assert not session.start.backbone.shifted
    assert session.start.backbone.word_pieces.room + 2 == backbone.max_positions


def test_prefix_tuning_starts_from_noise_of_scale_one(done):
    _, start, _, _ = done["prefix-tuning"][0]
    values = torch.frombuffer(bytearray(start["bank.slots.0"]), dtype=torch.float32)
    assert 0.9 < values.std() < 1.1


# What is refused


def test_engines_train_deep_prompts_and_heads_alone():
    sharded = Engine(name="FSDP2", sharding=Sharding(shard=lambda _: None, finish=lambda _: None))
    for engine in (sharded, Engine(name="DeepSpeed ZeRO-2", zero={})):
        require_trainable(("head", "scratch", "prefix-tuning"), [], engine)
        with pytest.raises(LaunchError, match=r"under .*: bitfit, prompt-tuning train .* Leave them out"):
            require_trainable(("scratch", "bitfit", "prompt-tuning"), [], engine)
    require_trainable(BASELINES, [], Engine())


def test_lora_without_peft_is_refused(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    require_trainable(("scratch", "bitfit"), [], Engine())
    with pytest.raises(BackboneError, match=r'"lora" needs PEFT, .*pip install .mpt-prompts\[peft\]'):
        require_trainable(("lora",), [], Engine())


@pytest.mark.parametrize("method", ["fine-tuning", "prompt-tuning"])
def test_baselines_without_a_deep_prompt_are_nothing_to_start_from(done, session, method):
    folder, *_ = done[method][0]
    with pytest.raises(CheckpointError, match=rf"without a deep prompt \({method}\), expected a pretrained prompt"):
        start_from(open_saved(folder), session.settings.prompt)


def test_a_prompt_that_leaves_no_room_to_shifted_text_is_refused(session):
    long = session.start.prompt_settings.model_copy(update={"length": 40})
    with pytest.raises(BackboneError, match="only 22 word pieces of text fit beside the prompt"):
        replace(session.start, prompt_settings=long).of(METHODS["prompt-tuning"])


def dropping(session, rate, **prompt):
    """A session whose three steps drop values of the backbone's states."""
    settings = changed(session.settings, training__backbone_dropout=rate, training__steps=3)
    start = replace(session.start, prompt_settings=changed(session.start.prompt_settings, **prompt))
    return replace(session, settings=settings, start=start, console=Console(record=True, width=400))


@pytest.mark.parametrize("method", METHODS)
def test_every_method_trains_through_the_dropout_of_the_backbone(session, tmp_path, method):
    (task,), _ = load_tasks(session.manifest)
    trial = Trial(task=task, shots=None, method=method, seed=0, optimizer=session.settings.optimizer)
    heads = {}
    for name, rate in (("none", 0.0), ("much", 0.5), ("again", 0.5)):
        run_trial(dropping(session, rate), trial, tmp_path / name)
        heads[name] = files_of(find_checkpoint(tmp_path / name))["heads.safetensors"]
    assert heads["much"] == heads["again"] != heads["none"]
