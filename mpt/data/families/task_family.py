"""What a family does with a task: how its examples are encoded, their scores decoded and judged."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float32, Int64

from mpt.data.example import Example
from mpt.data.families.decode import decode_many
from mpt.data.families.metrics import Score, score, sentence_counts
from mpt.data.families.tokenization import WordPieces
from mpt.data.manifest.task_spec import TaskSpec
from mpt.data.windows import EncodedSplit

Scores = Sequence[Float32[np.ndarray, "W C"]]
"""Of each example, words by columns of the head."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskFamily:
    """One task as its family sees it. What is written here holds where every word that is scored has a label.

    Attributes:
        spec: The task's declaration.
    """

    spec: TaskSpec

    def encode(
        self, examples: Sequence[Example], word_pieces: WordPieces, labels: Sequence[str] | None
    ) -> tuple[EncodedSplit, list[str]]:
        """Turn examples into windows of word pieces, and tell what the user should know of it.

        Without the task's tags (None) what is right is left aside.

        Raises:
            DataError: An example falls under a policy of "error"; names all of them.
        """
        raise NotImplementedError

    def gold(self, split: EncodedSplit, examples: Sequence[int], labels: Sequence[str]) -> list[tuple[str, ...]]:
        """What is right: a sentence's tags, a text's label, the number of a choice, the answers that are accepted."""
        return [tuple(labels[int(label)] for label in own) for own in gold_labels(split, examples)]

    def decode(
        self, scores: Scores, split: EncodedSplit, examples: Int64[np.ndarray, " n"], labels: Sequence[str]
    ) -> list[list[str]]:
        """Predictions: a sentence's tags (valid BIO2 for spans), or as one item a label, a choice's number, an answer.

        Raises:
            MptError: A score is not finite.
        """
        return decode_many(scores, labels, self.spec.kind.spans)

    def score(
        self, scores: Scores, split: EncodedSplit, examples: Int64[np.ndarray, " n"], labels: Sequence[str]
    ) -> Score:
        """Judge label scores against what is right; arguments as for `decode`."""
        predicted = self.decode(scores, split, examples, labels)
        gold = self.gold(split, examples.tolist(), labels)
        return score(self.spec.metric, gold, predicted, labels, positive=self.spec.counted_label)

    def counts(self, gold: Sequence[Sequence[str]], predicted: Sequence[Sequence[str]]) -> Float[np.ndarray, "N 3"]:
        """What the bootstrap resamples; see `mpt.data.families.metrics.sentence_counts`."""
        return sentence_counts(self.spec.metric, gold, predicted, positive=self.spec.counted_label)


def gold_labels(split: EncodedSplit, examples: Sequence[int]) -> list[Int64[np.ndarray, " words"]]:
    """Label ids of the words of some examples."""
    assert split.labels is not None, "a task's examples have labels"
    bounds = split.example_words
    return [split.labels[bounds[example] : bounds[example + 1]] for example in examples]
