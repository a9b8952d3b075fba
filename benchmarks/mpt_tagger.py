"""mpt's predictor, as `mpt predict` runs it, with a prompt and a head that were not trained."""

from pathlib import Path

from mpt.base.settings import LowRankSettings, PromptSettings
from mpt.data.tasks import Task
from mpt.model.backbone.backbone import load_backbone
from mpt.model.heads import TokenHead
from mpt.model.scorer import Scorer
from mpt.model.state.starts import StatePlan, fresh_state
from mpt.serving.predictor import Predictor
from mpt.serving.saved import SavedModel
from mpt.training.checkpoint import Checkpoint
from predict_job import PredictJob, Tag


def mpt_tagger(job: PredictJob, task: Task) -> Tag:
    """Mpt's predictor over the backbone with a random prompt in all layers and a fresh head."""
    backbone = load_backbone(job.backbone, prompt_length=job.prompt_length)
    prompt = PromptSettings(length=job.prompt_length, initialisation="normal_1")
    plan = StatePlan(parts=("prompt",), prompt=prompt, low_rank=LowRankSettings())
    head = TokenHead(backbone.hidden_size, task.labels, seed=0, task=task.name)
    scorer = Scorer(backbone, fresh_state(plan, backbone, [], seed=0), {task.name: head})
    spec = task.spec.model_dump(mode="json", exclude_defaults=True)
    identity = {"tasks": {task.name: {"spec": spec}}}
    checkpoint = Checkpoint(state={}, heads={}, optimizer={}, networks={}, progress={}, identity=identity)
    return Predictor(SavedModel(folder=Path(), checkpoint=checkpoint, scorer=scorer)).predict
