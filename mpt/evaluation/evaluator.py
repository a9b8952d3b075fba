"""Scores and tags of whole splits: every word once, long sentences stitched, gold untouched."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from typing import Protocol, TypeVar

import numpy as np
import torch
from jaxtyping import Float32, Int64

from mpt.base.seeding import permutation
from mpt.data.encoded import EncodedSplit, EncodedTask
from mpt.data.families.family import Family
from mpt.data.manifest.task_spec import Split
from mpt.data.order.batch import collate, evaluation_batches, word_rows
from mpt.evaluation.answers import decode_answers, find_answers, score_found
from mpt.evaluation.decode import decode_choices, decode_many
from mpt.evaluation.metrics import Score, score
from mpt.model.scorer import Tagger
from mpt.training.workers import workers_for

# Positions of an evaluation batch, padding included. On a CPU attention scores are held whole, positions x heads x
# longest row, by every thread at once: more positions than these cost memory for no speed, a quarter of them are slow.
CPU_TOKENS = 1024
# A GPU is idle while small batches are put together; it holds no attention scores, so memory is linear in positions.
GPU_TOKENS = 32_768
Item = TypeVar("Item")
Rows = Float32[np.ndarray, "rows C"]


class SideBySide(Protocol):
    """Computes rows of every item, in the items' order; see `mpt.training.ranks.Share`."""

    def __call__(self, function: Callable[[Item], Rows], items: Sequence[Item]) -> list[Rows]:
        """The results of all items."""
        ...


def word_scores(
    tagger: Tagger,
    task: str,
    split: EncodedSplit,
    examples: Int64[np.ndarray, " n"],
    *,
    share: SideBySide | None = None,
) -> list[Float32[np.ndarray, "W C"]]:
    """Label scores of every word of some examples.

    On a CPU batches are computed side by side, each alone in one thread: scores do not depend on their number.

    Args:
        tagger: The model.
        task: Whose head scores.
        split: The encoded examples.
        examples: Indices of the wanted ones.
        share: Who computes which batch, the batches being the same whoever does; None for this process alone.

    Returns:
        One array for each wanted example, in the given order: its words by labels.
    """
    if len(examples) == 0:
        return []
    windows = np.concatenate([np.arange(*split.windows_of[i : i + 2]) for i in examples])
    scores = np.zeros((len(split.positions), len(tagger.head(task).labels)), dtype=np.float32)
    device = tagger.backbone.device
    batches = list(evaluation_batches(split, windows, tokens=batch_tokens(device)))

    def compute(rows: Int64[np.ndarray, " rows"]) -> Rows:
        with torch.no_grad():  # a mode of the thread that enters it
            batch = collate(split, rows, pad=tagger.backbone.word_pieces.pad).to(device)
            return tagger(task, batch).cpu().numpy()

    with closing(workers_for(device, len(batches))) as workers:
        found = workers.map(compute, batches) if share is None else share(compute, batches)
    for rows, computed in zip(batches, found, strict=True):
        scores[word_rows(split, rows)] = computed
    bounds = split.example_words
    return [scores[bounds[i] : bounds[i + 1]] for i in examples]


def batch_tokens(device: torch.device) -> int:
    """Positions of an evaluation batch on a device, padding included; a longer window is a batch of its own."""
    return CPU_TOKENS if device.type == "cpu" else GPU_TOKENS


def predict_split(
    tagger: Tagger,
    task: str,
    split: EncodedSplit,
    *,
    family: Family,
    examples: Int64[np.ndarray, " n"] | None = None,
    share: SideBySide | None = None,
) -> list[list[str]]:
    """Predictions for some examples (None: all).

    Returns:
        For each example the tags of its words (valid BIO2 where they stand for spans), its label, the number of the
        choice, or its answer ("" for none), as one item.
    """
    if examples is None:
        examples = np.arange(len(split.places))
    scores = word_scores(tagger, task, split, examples, share=share)
    if split.passages is not None:
        return decode_answers(scores, split, examples)
    if split.softmax_over == "example":
        return decode_choices(scores)
    return decode_many(scores, tagger.head(task).labels, family.spans)


def evaluate_task(
    tagger: Tagger,
    encoded: EncodedTask,
    split: Split,
    *,
    limit: int | None = None,
    share: SideBySide | None = None,
) -> Score:
    """Score one task on one of its splits.

    Args:
        tagger: The model.
        encoded: The task with that split.
        split: "dev" or "test".
        limit: Score a fixed random sample of this many examples; None scores all.
        share: Who computes which batch; None for this process alone.
    """
    count = len(encoded.splits[split].places)
    chosen = np.arange(count)
    if limit is not None and limit < count:
        chosen = np.sort(permutation(0, "evaluation sample", encoded.task.name, split, count=count)[:limit])
    task, rows = encoded.task, encoded.splits[split]
    gold = encoded.gold(split, chosen.tolist())
    if rows.passages is not None:
        found = find_answers(word_scores(tagger, task.name, rows, chosen, share=share), rows, chosen)
        return score_found(gold, found, rows.passages.no_answer_above)
    predicted = predict_split(tagger, task.name, rows, family=task.spec.kind, examples=chosen, share=share)
    return score(task.metric, gold, predicted, task.labels, positive=task.spec.counted_label)


def evaluate_tasks(
    tagger: Tagger,
    tasks: Sequence[EncodedTask],
    split: Split,
    *,
    limit: int | None = None,
    share: SideBySide | None = None,
) -> Mapping[str, Score]:
    """Score every task on a split, by name."""
    return {encoded.task.name: evaluate_task(tagger, encoded, split, limit=limit, share=share) for encoded in tasks}
