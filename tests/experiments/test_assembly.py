from types import SimpleNamespace

import pytest
from common.runs import changed, files_of, make_parts, transfer_settings

from mpt.base.errors import ConfigError, DataError
from mpt.base.settings import BackboneSettings, PromptSettings
from mpt.experiments import assembly
from mpt.experiments.assembly import (
    build_plan,
    describe_size,
    encode_tasks,
    open_backbone,
    open_run_folder,
    prompt_shape,
)
from mpt.training.launch import build_accelerator


@pytest.fixture(scope="module")
def parts(world):
    return make_parts(world)


def shape(parts, layers):
    return prompt_shape(parts.tagger.backbone, PromptSettings(length=5, layers=layers))


def test_prompt_layers(parts):
    assert shape(parts, "all").layers == (0, 1)
    assert shape(parts, 1).layers == (1,), "a number counts from the top"
    assert shape(parts, (0,)).layers == (0,)
    assert shape(parts, "all").tensor_shape == (2, 2, 2, 5, 16)


@pytest.mark.parametrize("layers", [3, (2,), (1, 0), (0, 0), ()])
def test_prompt_layers_that_the_backbone_does_not_have(parts, layers):
    with pytest.raises(ConfigError) as caught:
        shape(parts, layers)
    assert f"prompt.layers: {layers} over a backbone of 2 layers. Expected all, a number" in str(caught.value)


@pytest.mark.parametrize(("micro_batches", "tasks_per_step", "ranks"), [(3, 2, 1), (2, 1, 4), (4, 2, 4), (1, 1, 2)])
def test_micro_batches_are_shared_out_evenly_or_refused(parts, micro_batches, tasks_per_step, ranks):
    settings = changed(transfer_settings(), training__micro_batches=micro_batches)
    rates = {task.task.name: 1 / 3 for task in parts.tasks}
    accelerator = SimpleNamespace(num_processes=ranks)
    with pytest.raises(ConfigError) as caught:
        build_plan(parts.tasks, rates, settings, tasks_per_step=tasks_per_step, accelerator=accelerator)
    least = tasks_per_step * ranks
    assert f"is not a multiple of {tasks_per_step} tasks per step x {ranks} processes" in str(caught.value)
    assert f"Set training.micro_batches={least} or a multiple of it" in str(caught.value)
    settings = changed(settings, training__micro_batches=least)
    build_plan(parts.tasks, rates, settings, tasks_per_step=tasks_per_step, accelerator=accelerator)


def test_opening_a_backbone_probes_it(world, tmp_path, monkeypatch):
    probed = []
    monkeypatch.setattr(assembly, "probe", probed.append)
    accelerator = build_accelerator(tmp_path, [])
    backbone = open_backbone(BackboneSettings(reference=str(world.backbone)), prompt_length=3, accelerator=accelerator)
    assert probed == [backbone]


def test_problems_of_all_tasks_are_raised_at_once(world, parts):
    from dataclasses import replace

    strict = [replace(one, spec=one.spec.model_copy(update={"long": "error"})) for one in make_parts(world).loaded[:2]]
    for task in strict:
        long = replace(task.splits["train"][0], words=("Ada",) * 99, tags=("O",) * 99, lines=tuple(range(1, 100)))
        task.splits["train"] = (long,)
    with pytest.raises(DataError) as caught:
        encode_tasks(strict, parts.tagger.backbone)
    assert len(caught.value.problems) == 2
    assert all("longer than the 62 word pieces the backbone takes" in problem for problem in caught.value.problems)


def test_a_run_folder_is_made_once(tmp_path):
    given = {"config.yaml": b"x", "manifest.json": b"y"}
    open_run_folder(tmp_path / "a" / "run", given, resume="never")
    assert files_of(tmp_path / "a") == {"run/config.yaml": b"x", "run/manifest.json": b"y"}, "and nothing besides"
    with pytest.raises(ConfigError, match=r"run: this run folder exists\. Continue it with --resume auto, or"):
        open_run_folder(tmp_path / "a" / "run", given, resume="never")
    (tmp_path / "empty").mkdir()
    open_run_folder(tmp_path / "empty", given, resume="never")


def test_an_automatic_start_goes_on_with_a_folder_that_was_made_for_the_same_run(tmp_path):
    given = {"config.yaml": b"x", "manifest.json": b"y"}
    for _ in range(2):
        open_run_folder(tmp_path / "run", given, resume="auto")
    with pytest.raises(ConfigError, match=r"run: cannot resume, this call differs .* in config\.yaml\. "):
        open_run_folder(tmp_path / "run", {**given, "config.yaml": b"z"}, resume="auto")
    assert (tmp_path / "run" / "config.yaml").read_bytes() == b"x"
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "letters").touch()
    with pytest.raises(ConfigError, match=r"home: nothing to resume, config\.yaml, manifest\.json not found"):
        open_run_folder(tmp_path / "home", given, resume="auto")


def test_what_must_be_resumed_must_be_there(tmp_path):
    with pytest.raises(ConfigError, match="run: nothing to resume, there is no such run"):
        open_run_folder(tmp_path / "run", {}, resume="must")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("out", ["file", "file/run"])
def test_a_file_in_the_way_of_a_run_folder(tmp_path, out):
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"cannot make this folder: .*Give another --out"):
        open_run_folder(tmp_path / out, {}, resume="never")


def test_size_counts_what_is_trained(parts):
    trained = sum(p.numel() for p in parts.tagger.parameters())
    prompts = parts.tagger.bank.slots[0].numel()
    text = describe_size(parts.tagger)
    assert f"{prompts:,} prompt values + {trained - prompts:,} head weights" in text
    assert f"{parts.tagger.backbone.num_parameters:,} frozen" in text
