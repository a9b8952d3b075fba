"""mpt's predictor, as `mpt predict` runs it, with a prompt and a head that were not trained."""

from pathlib import Path

import torch
from mpt.experiments.prompts import prompt_shape

from mpt.base.settings import PromptSettings
from mpt.data.tasks import Task
from mpt.model.backbone.backbone import load_backbone
from mpt.model.heads import TokenHead
from mpt.model.scorer import Tagger
from mpt.model.state.bank import PromptBank
from mpt.serving.predictor import Predictor
from mpt.serving.saved import SavedModel
from mpt.training.checkpoint import Checkpoint
from predict_job import PredictJob, Tag


def mpt_tagger(job: PredictJob, task: Task) -> Tag:
    """Mpt's predictor over the backbone with a random prompt in all layers and a fresh head."""
    backbone = load_backbone(job.backbone, prompt_length=job.prompt_length)
    shape = prompt_shape(backbone, PromptSettings(length=job.prompt_length))
    prompt = torch.randn(shape.tensor_shape, generator=torch.Generator().manual_seed(0))
    head = TokenHead(backbone.hidden_size, task.labels, seed=0, task=task.name)
    tagger = Tagger(backbone, PromptBank([prompt], [shape]), {task.name: head})
    spec = task.spec.model_dump(mode="json", exclude_defaults=True)
    identity = {"tasks": {task.name: {"spec": spec}}}
    checkpoint = Checkpoint(prompts={}, heads={}, optimizer={}, state={}, identity=identity)
    return Predictor(SavedModel(folder=Path(), checkpoint=checkpoint, tagger=tagger)).predict
