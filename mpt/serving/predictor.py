"""Tags for new text: from words to predictions, and from a file to the same file with predictions in it."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mpt.base.errors import ConfigError
from mpt.data.example import Example
from mpt.data.families.of_task import family_of
from mpt.data.formats.layouts import Layout, read_file, write_file
from mpt.evaluation.scoring import Request, label_scores
from mpt.serving.saved import SavedModel


class Predictor:
    """Predicts the tags of one task.

    Args:
        saved: The model.
        task: One of its tasks; None stands for the only one.
        no_answer_above: Of a task whose questions may have no answer, instead of what it was trained with.

    Raises:
        ConfigError: `no_answer_above` is given for another task.
    """

    def __init__(self, saved: SavedModel, task: str | None = None, *, no_answer_above: float | None = None) -> None:
        self.saved = saved
        self.task = saved.only_task() if task is None else task
        self.spec = saved.task_spec(self.task)
        if no_answer_above is not None:
            if self.spec.no_answer_limit is None:
                raise ConfigError(
                    f'no_answer_above: every input of task "{self.task}" has an answer, so there is no limit to set. '
                    "Leave it out, or train with no_answer: true in the manifest"
                )
            self.spec = self.spec.model_copy(update={"no_answer_above": no_answer_above})

    @property
    def source(self) -> Layout:
        """How the task's training files are laid out."""
        return self.spec.layout()

    def predict(self, examples: Sequence[Example]) -> tuple[list[list[str]], list[str]]:
        """Predict one tag for every word; see `predict_together`."""
        (found,) = predict_together([self], [examples])
        return found

    def predict_file(self, path_in: Path, source: Layout, path_out: Path) -> tuple[int, list[str]]:
        """Write a file's predictions; see `predict_files`."""
        (count,), notices = predict_files([self], path_in, [source], [path_out])
        return count, notices


def predict_together(
    predictors: Sequence[Predictor], examples: Sequence[Sequence[Example]]
) -> list[tuple[list[list[str]], list[str]]]:
    """Predict for several tasks, whose models are in one bank, in one pass over the texts of each.

    Returns:
        For each task the tags of each sentence (valid BIO2 for span tasks; all O where a sentence has no predicate to
        be asked about), and notices about long sentences and words that the tokenizer knows nothing of.
    """
    scorer = predictors[0].saved.scorer
    families = [family_of(it.spec) for it in predictors]
    asked = [[one for one in own if it.spec.kind.asks(one)] for it, own in zip(predictors, examples, strict=True)]
    pieces = scorer.backbone.word_pieces
    encoded = [family.encode(own, pieces, None) for family, own in zip(families, asked, strict=True)]
    requests = [
        Request(slot=it.saved.slot, tasks=(it.task,), split=split, examples=np.arange(len(split.places)))
        for it, (split, _) in zip(predictors, encoded, strict=True)
    ]
    predictions = []
    for number, (scores,) in enumerate(label_scores(scorer, requests)):
        it, (split, notices) = predictors[number], encoded[number]
        labels = it.saved.head(it.task).labels
        found = iter(families[number].decode(scores, split, requests[number].examples, labels))
        asks = it.spec.kind.asks
        tags = [next(found) if asks(one) else ["O"] * len(one.words) for one in examples[number]]
        predictions.append((tags, notices))
    return predictions


def predict_files(
    predictors: Sequence[Predictor], path_in: Path, layouts: Sequence[Layout], paths_out: Sequence[Path]
) -> tuple[list[int], list[str]]:
    """Write a file's predictions in the file's own form, a file for each task; see `mpt.data.formats.layouts`.

    Layouts (how the file is laid out) and outputs are those of each predictor's task.

    Returns:
        The number of sentences (of predicates, where tags are about one) for each task, and notices.

    Raises:
        DataError: The file is not laid out as said, or an output cannot be written.
    """
    read = [read_file(path_in, layout.without_gold()) for layout in layouts]
    predicted = predict_together(predictors, [examples for examples, _ in read])
    for layout, (examples, _), (tags, _), path_out in zip(layouts, read, predicted, paths_out, strict=True):
        write_file(path_in, layout, examples, tags, path_out)
    notices = [notice for _, said in (*read, *predicted) for notice in said]
    return [len(examples) for examples, _ in read], list(dict.fromkeys(notices))
