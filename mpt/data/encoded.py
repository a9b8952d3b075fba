"""A task with its splits as word pieces, ready for batches."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from mpt.data.schema import Split
from mpt.data.tasks import Task
from mpt.data.tokenization import EncodedSplit, WordPieces, encode
from mpt.errors import every


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodedTask:
    """One task as a backbone sees it: arrays, and no object for a sentence.

    Attributes:
        task: The task, its sentences left out.
        splits: Its encoded splits by name.
    """

    task: Task
    splits: Mapping[Split, EncodedSplit]

    def gold(self, split: Split, sentences: Sequence[int]) -> list[tuple[str, ...]]:
        """The tags of some sentences."""
        encoded, names = self.splits[split], self.task.labels
        assert encoded.labels is not None, "a task's sentences have tags"
        bounds = encoded.sentence_words
        spans = ((int(bounds[sentence]), int(bounds[sentence + 1])) for sentence in sentences)
        return [tuple(names[label] for label in encoded.labels[start:end].tolist()) for start, end in spans]

    def places(self, split: Split, windows: Sequence[int]) -> list[str]:
        """`file:line` of the sentences that windows are part of."""
        encoded = self.splits[split]
        return [encoded.places.where(encoded.sentence_of(window)) for window in windows]


def encode_task(task: Task, word_pieces: WordPieces) -> tuple[EncodedTask, list[str]]:
    """Encode every split that a task was loaded with.

    Returns:
        The encoded task, and notices that begin with the task's name.

    Raises:
        DataError: See `mpt.data.tokenization.encode`; lists the problems of all splits.
    """
    spec = task.spec
    encoded = every(
        lambda sentences: encode(sentences, word_pieces, task.labels, long=spec.long, no_piece=spec.no_piece),
        task.splits.values(),
    )
    splits: dict[Split, EncodedSplit] = {name: split for name, (split, _) in zip(task.splits, encoded, strict=True)}
    notices = [
        f'task "{task.name}" {name}: {notice}'
        for name, (_, found) in zip(task.splits, encoded, strict=True)
        for notice in found
    ]
    return EncodedTask(task=replace(task, splits={}), splits=splits), notices
