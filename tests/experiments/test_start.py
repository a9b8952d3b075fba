from dataclasses import replace

import pytest
from common.runs import files_of, quiet, transfer_settings

from mpt.base.settings import BackboneSettings, PromptSettings
from mpt.data.manifest.reading import load_manifest
from mpt.data.tasks import load_tasks
from mpt.experiments.execution import Inputs
from mpt.experiments.start import Start, start_from
from mpt.experiments.trial import Session, Trial, run_trial
from mpt.model.backbone.backbone import load_backbone
from mpt.serving.saved import open_saved
from mpt.training.checkpoint import find_checkpoint, load_checkpoint
from mpt.training.engines import Engine
from mpt.training.launch import build_accelerator


@pytest.fixture(scope="module")
def session(world, tmp_path_factory):
    """What trials from the pretrained model share."""
    folder = tmp_path_factory.mktemp("session")
    settings = transfer_settings()
    return Session(
        start=start_from(open_saved(world.run), settings.prompt),
        settings=settings,
        manifest=load_manifest(world.data / "target.yaml"),
        accelerator=build_accelerator(folder),
        engine=Engine(),
        console=quiet(),
    )


def trained(session, folder, method):
    (task,), _ = load_tasks(session.manifest)
    optimizer = session.settings.optimizer
    run_trial(session, Trial(task=task, shots=20, method=method, seed=0, optimizer=optimizer), folder)
    return folder


@pytest.mark.parametrize("method", ["scratch", "head"])
def test_baselines_need_no_pretrained_model_and_are_the_same_without(world, session, tmp_path, method):
    """Over the backbone of a pretrained model as over one that was opened for them."""
    with_it = trained(replace(session, start=replace(session.start, pretrained=None)), tmp_path / "with", method)
    bare = Start(
        backbone=load_backbone(str(world.backbone), dtype="float32", prompt_length=4),
        backbone_settings=BackboneSettings(reference=str(world.backbone), dtype="float32"),
        prompt_settings=PromptSettings(length=4, dropout=0.1),
    )
    without = trained(replace(session, start=bare, inputs=Inputs()), tmp_path / "without", method)
    ours, theirs = (load_checkpoint(find_checkpoint(run)) for run in (without, with_it))
    assert ours.identity["init_from"] is None
    assert ours.identity == theirs.identity
    tensors = ("state.safetensors", "heads.safetensors", "optimizer.safetensors")
    ours, theirs = (files_of(find_checkpoint(run)) for run in (without, with_it))
    assert all(ours[name] == theirs[name] for name in tensors)
