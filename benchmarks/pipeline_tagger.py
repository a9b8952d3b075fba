"""transformers' pipeline, as its users run it."""

from collections.abc import Sequence
from typing import Any

from transformers import AutoModelForTokenClassification, AutoTokenizer, pipeline

from mpt.data.example import Sentence
from mpt.data.tasks import Task
from mpt.model.backbone.identity import locate
from mpt.model.backbone.precision import DTYPES
from predict_job import PIPELINE_ARMS, PredictJob, Tag


def pipeline_tagger(job: PredictJob, task: Task) -> Tag:
    """Transformers' pipeline over the backbone with a fresh head; an entity for each piece that has one."""
    dtype, batch_size = PIPELINE_ARMS[job.arm]
    folder = locate(job.backbone, None)
    names = dict(enumerate(task.labels))
    model = AutoModelForTokenClassification.from_pretrained(
        folder, id2label=names, dtype=DTYPES[dtype], trust_remote_code=False
    )
    tokenizer: Any = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    tagger = pipeline("token-classification", model=model, tokenizer=tokenizer, device="cpu")

    def tag(sentences: Sequence[Sentence]) -> object:
        if job.arm.endswith("_sorted"):
            sentences = sorted(sentences, key=lambda sentence: len(sentence.words))
        return tagger([" ".join(sentence.words) for sentence in sentences], batch_size=batch_size)

    return tag
