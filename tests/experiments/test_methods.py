"""Every method as trials have it: what is trained, what is left alone, what is saved."""

import json
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from common.runs import changed, files_of, quiet, state_bytes, transfer_settings
from rich.console import Console

from mpt.base.errors import BackboneError, ConfigError, LaunchError
from mpt.data.manifest.reading import load_manifest
from mpt.data.order.batch import collate
from mpt.data.tasks import load_tasks
from mpt.experiments import trial as trials
from mpt.experiments.execution import encode_tasks
from mpt.experiments.methods import BASELINES, METHODS
from mpt.experiments.start import require_trainable, start_from
from mpt.experiments.trial import Session, Trial, run_trial
from mpt.model.backbone.sharding import Sharding
from mpt.serving.saved import open_saved
from mpt.training.checkpoint import find_checkpoint, load_checkpoint
from mpt.training.engines import Engine
from mpt.training.launch import build_accelerator

LABELS, HIDDEN, LAYERS, INNER, LENGTH = 5, 32, 2, 64, 4
RANK = 8
HEAD = HIDDEN * LABELS + LABELS
BIASES = LAYERS * (4 * HIDDEN + INNER + HIDDEN + 2 * HIDDEN) + HIDDEN  # projections, two norms; norm of embeddings
"""Query, key, value, output; both halves of the feed-forward block; biases of norms."""
PROMPT = LAYERS * 2 * LENGTH * HIDDEN
UPDATES = LAYERS * RANK * (4 * 2 * HIDDEN + 2 * (HIDDEN + INNER))
"""Two factors for each projection, and for both halves of the feed-forward block."""
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
        "low-rank": UPDATES,
        "prompt+low-rank": PROMPT + UPDATES,
        "fine-tuning": backbone.num_parameters,
        "prompt-tuning": LENGTH * HIDDEN,
        "p-tuning": LENGTH * HIDDEN + ENCODER,
        "prefix-tuning": PROMPT,
        "scratch": PROMPT,
        "transfer": PROMPT,
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
    return {
        name: (id(value), value.numpy().tobytes()) for name, value in backbone.model.state_dict(keep_vars=True).items()
    }


def started(session, method):
    """The session with the start that the stages give a method."""
    if METHODS[method].pretrained:
        return session
    return replace(session, start=replace(session.start, pretrained=None))


@pytest.fixture(scope="module")
def done(session, tmp_path_factory):
    """Folder, losses, model and its start of a trial of each method, all over one backbone, one after the other."""
    (task,), _ = load_tasks(session.manifest)
    before = tensors_of(session.start.backbone)
    runs = {}
    for method in ("fine-tuning", *METHODS):  # fine-tuning first, so that every other one comes after it
        starts, models = [], []

        def spied(scorer, *args, real=trials.execute, starts=starts, models=models, **kwargs):
            starts.append(state_bytes(scorer))
            models.append(scorer)
            return real(scorer, *args, **kwargs)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(trials, "execute", spied)
            folder = tmp_path_factory.mktemp("runs") / f"{method}-{len(runs)}"
            trial = Trial(task=task, shots=None, method=method, seed=0, optimizer=session.settings.optimizer)
            result = run_trial(started(session, method), trial, folder)
        runs.setdefault(method, []).append((folder, starts[0], models[0], result))
        assert tensors_of(session.start.backbone) == before, method
    return runs


def test_the_known_methods():
    assert BASELINES == (
        "head",
        "bitfit",
        "lora",
        "low-rank",
        "prompt+low-rank",
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
    folder, start, scorer, _ = done[method][0]
    trained = HEAD + num_trained(method, session.start.backbone)
    assert scorer.num_trained == trained
    assert json.loads((folder / "result.json").read_text())["trained_parameters"] == trained
    now = state_bytes(scorer)
    assert now.keys() == start.keys()
    still = {name for name in start if start[name] == now[name]}
    # The softmax over pieces does not notice what is added to every key.
    buffers = {name for name, _ in scorer.named_buffers()}  # where a prompt out of a network starts
    assert all("key.bias" in name or "key/bias" in name or name in buffers for name in still), still


def test_a_method_does_not_depend_on_what_was_trained_before(done):
    (first, *_), (again, *_) = done["fine-tuning"]
    ours, theirs = (files_of(find_checkpoint(folder)) for folder in (first, again))
    ours, theirs = (
        {name: value for name, value in files.items() if name.endswith(".safetensors")} for files in (ours, theirs)
    )
    assert ours == theirs
    assert any(name.startswith("weights.") for name in load_checkpoint(find_checkpoint(first)).state)


@pytest.mark.parametrize("method", METHODS)
def test_a_saved_model_gives_equal_logits(done, session, method):
    folder, _, scorer, _ = done[method][0]
    saved = open_saved(folder)
    (task,), _ = load_tasks(session.manifest)
    logits = []
    for model in (scorer, saved.scorer):
        (encoded,), _ = encode_tasks([task], model.backbone)
        batch = collate(encoded.splits["dev"], np.arange(12), pad=model.backbone.word_pieces.pad, tasks=["firms"])
        with torch.no_grad():
            logits.append(torch.cat(model(batch)))
    assert torch.equal(*logits)
    parts = METHODS[method].parts or ("prompt",) * (method == "transfer")
    kinds = dict.fromkeys(name.partition(".")[0] for name in saved.checkpoint.state)
    assert set(kinds) == set(saved.checkpoint.identity["state"]) == set(parts)
    assert bool(saved.checkpoint.networks) == (method == "p-tuning")


@pytest.mark.parametrize("method", ["prompt-tuning", "p-tuning", "prefix-tuning"])
def test_text_starts_behind_the_prompt(done, session, method):
    _, _, scorer, _ = done[method][0]
    backbone = scorer.backbone
    assert backbone.shifted
    assert backbone.word_pieces.room + LENGTH + 2 == backbone.max_positions
    assert not session.start.backbone.shifted
    assert session.start.backbone.word_pieces.room + 2 == backbone.max_positions


def test_prefix_tuning_starts_from_noise_of_scale_one(done):
    _, start, _, _ = done["prefix-tuning"][0]
    (prompt,) = [value for name, value in start.items() if name.startswith("bank.")]
    values = torch.frombuffer(bytearray(prompt), dtype=torch.float32)
    assert 0.9 < values.std() < 1.1


# What is refused


def of(*names):
    """What a launch asks about methods from fresh starts."""
    return {name: (METHODS[name], METHODS[name].parts) for name in names}


def test_engines_train_what_acts_on_activations_alone():
    sharded = Engine(name="FSDP2", sharding=Sharding(shard=lambda _: None, finish=lambda _: None))
    for engine in (sharded, Engine(name="DeepSpeed ZeRO-2", zero={})):
        require_trainable(of("head", "scratch", "prefix-tuning", "lora", "low-rank", "prompt+low-rank"), [], engine)
        for method in ("bitfit", "fine-tuning", "prompt-tuning", "p-tuning"):
            with pytest.raises(LaunchError, match=rf"under .*: {method} train .* Leave them out"):
                require_trainable(of("scratch", method, "low-rank"), [], engine)
        pretrained = {"MPT-2": (METHODS["transfer"], ("prompt", "weights"))}
        with pytest.raises(LaunchError, match=r"under .*: MPT-2 train .* Leave them out"):
            require_trainable(pretrained, [], engine)
    require_trainable(of(*BASELINES), [], Engine())


def test_lora_needs_no_peft(session, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    (task,), _ = load_tasks(session.manifest)
    trial = Trial(task=task, shots=5, method="lora", seed=0, optimizer=session.settings.optimizer)
    run_trial(started(session, "lora"), trial, tmp_path / "run")
    assert sorted(open_saved(tmp_path / "run").state.parts["low_rank"].names) == [
        f"encoder.layer.{layer}.attention.self.{name}" for layer in range(LAYERS) for name in ("query", "value")
    ]


@pytest.mark.parametrize(
    ("method", "rates"),
    [
        ("scratch", ("prompt", "head")),
        ("fine-tuning", ("backbone", "head")),
        ("prompt-tuning", ("prompt", "head")),
        ("lora", ("low_rank", "head")),
        ("prompt+low-rank", ("prompt", "low_rank", "head")),
        ("head", ("head",)),
    ],
)
def test_a_pretrained_state_is_trained_whole_whatever_its_parts(done, session, method, rates):
    folder, *_ = done[method][0]
    start = start_from(open_saved(folder), session.settings.prompt)
    assert start.parts(METHODS["transfer"]) == METHODS[method].parts
    assert start.rates(METHODS["transfer"]) == rates == started(session, method).start.rates(METHODS[method])
    trained = {"row": (METHODS[method], start.parts(METHODS[method]))}
    require_trainable(trained, [], Engine())


def test_another_method_than_the_pretrained_one_is_refused_with_both(done, session):
    folder, *_ = done["lora"][0]
    parts = start_from(open_saved(folder), session.settings.prompt).parts(METHODS["scratch"])
    with pytest.raises(ConfigError) as caught:
        require_trainable({"A": (METHODS["scratch"], parts), "B": (METHODS["head"], parts)}, [], Engine())
    assert "A: method scratch trains prompt, and what it starts from holds low-rank. Take" in str(caught.value)
    assert "B: method head trains the head alone, and what it starts from holds low-rank. Take" in str(caught.value)


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
        run_trial(dropping(started(session, method), rate), trial, tmp_path / name)
        heads[name] = files_of(find_checkpoint(tmp_path / name))["heads.safetensors"]
    assert heads["much"] == heads["again"] != heads["none"]
