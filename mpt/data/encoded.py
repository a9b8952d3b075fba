"""A task with its splits as word pieces, ready for batches."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mpt.data.schema import Split
from mpt.data.sentence import Sentence
from mpt.data.tasks import Task
from mpt.data.tokenization import EncodedSplit, WordPieces, encode
from mpt.errors import MptError, merged


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodedTask:
    """One task as a backbone sees it.

    Attributes:
        task: The task; `task.splits` holds the sentences.
        splits: Its encoded splits by name.
    """

    task: Task
    splits: Mapping[Split, EncodedSplit]

    def sentences(self, split: Split) -> Sequence[Sentence]:
        """The sentences that an encoded split was made of."""
        return self.task.splits[split]

    def places(self, split: Split, windows: Sequence[int]) -> list[str]:
        """`file:line` of the sentences that windows are part of."""
        encoded = self.splits[split]
        return [self.task.splits[split][encoded.sentence_of(window)].where for window in windows]


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
    return EncodedTask(task=task, splits=splits), notices
