"""Scores and tags of whole splits: every word once, long sentences stitched, gold untouched."""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float32, Int64

from mpt.base.seeding import permutation
from mpt.data.encoded import EncodedTask
from mpt.data.families.metrics import Score
from mpt.data.families.of_task import family_of
from mpt.data.families.task_family import TaskFamily
from mpt.data.manifest.task_spec import Split
from mpt.data.windows import EncodedSplit
from mpt.evaluation.scoring import Request, SideBySide, label_scores
from mpt.model.scorer import Scorer


def word_scores(
    scorer: Scorer,
    task: str,
    split: EncodedSplit,
    examples: Int64[np.ndarray, " n"],
    *,
    share: SideBySide | None = None,
    slot: int = 0,
) -> list[Float32[np.ndarray, "W C"]]:
    """For each of some examples its words by labels, computed by a slot's task state; see `label_scores`."""
    request = Request(slot=slot, tasks=(task,), split=split, examples=examples)
    ((found,),) = label_scores(scorer, [request], share=share)
    return found


def predict_split(
    scorer: Scorer,
    task: str,
    split: EncodedSplit,
    *,
    family: TaskFamily,
    examples: Int64[np.ndarray, " n"] | None = None,
    share: SideBySide | None = None,
    slot: int = 0,
) -> list[list[str]]:
    """Predictions for some examples (None: all); see `mpt.data.families.task_family.TaskFamily.decode`."""
    if examples is None:
        examples = np.arange(len(split.places))
    scores = word_scores(scorer, task, split, examples, share=share, slot=slot)
    return family.decode(scores, split, examples, scorer.head(task, slot).labels)


def evaluate_task(
    scorer: Scorer,
    encoded: EncodedTask,
    split: Split,
    *,
    limit: int | None = None,
    share: SideBySide | None = None,
    slot: int = 0,
) -> Score:
    """Score one task on one of its splits, or on a fixed random sample of `limit` examples; see `label_scores`."""
    count = len(encoded.splits[split].places)
    chosen = np.arange(count)
    if limit is not None and limit < count:
        chosen = np.sort(permutation(0, "evaluation sample", encoded.task.name, split, count=count)[:limit])
    task, rows = encoded.task, encoded.splits[split]
    scores = word_scores(scorer, task.name, rows, chosen, share=share, slot=slot)
    return family_of(task.spec).score(scores, rows, chosen, task.labels)


def evaluate_tasks(
    scorer: Scorer,
    tasks: Sequence[EncodedTask],
    split: Split,
    *,
    limit: int | None = None,
    share: SideBySide | None = None,
) -> Mapping[str, Score]:
    """Score every task on a split, by name."""
    return {encoded.task.name: evaluate_task(scorer, encoded, split, limit=limit, share=share) for encoded in tasks}
