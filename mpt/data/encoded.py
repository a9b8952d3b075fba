"""A task with its splits as word pieces, ready for batches."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from mpt.data.schema import Split
from mpt.data.tasks import Task
from mpt.data.tokenization import EncodedSplit, WordPieces, encode
from mpt.errors import MptError, merged


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
    splits: dict[Split, EncodedSplit] = {}
    notices: list[str] = []
    errors: list[MptError] = []
    for name, sentences in task.splits.items():
        try:
            splits[name], found = encode(
                sentences, word_pieces, task.labels, long=task.spec.long, no_piece=task.spec.no_piece
            )
        except MptError as error:
            errors.append(error)
            continue
        notices += [f'task "{task.name}" {name}: {notice}' for notice in found]
    if errors:
        raise merged(errors)
    return EncodedTask(task=replace(task, splits={}), splits=splits), notices
