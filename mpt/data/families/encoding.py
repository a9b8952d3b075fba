"""A task's splits as word pieces: each family's own way."""

from collections.abc import Sequence
from dataclasses import replace

from mpt.base.errors import every
from mpt.data.encoded import EncodedSplit, EncodedTask
from mpt.data.example import Example, Question, TextExample, sentences_of
from mpt.data.families.frames import label_pieces
from mpt.data.families.passages import encode_questions
from mpt.data.families.texts import encode_texts
from mpt.data.families.tokenization import WordPieces, encode
from mpt.data.manifest.family_specs import PredicateSpec, QaSpec, WordSpec
from mpt.data.manifest.task_spec import Split, TaskSpec
from mpt.data.tasks import Task


def encode_task(task: Task, word_pieces: WordPieces) -> tuple[EncodedTask, list[str]]:
    """Encode every split that a task was loaded with.

    Returns:
        The encoded task, and notices that begin with the task's name.

    Raises:
        DataError: See `encode_examples` and `label_pieces`; lists the problems of all splits.
    """
    if task.spec.cloze is not None:
        label_pieces(task.spec, word_pieces, task=task.name)
    encoded = every(
        lambda examples: encode_examples(examples, task.spec, word_pieces, task.labels), task.splits.values()
    )
    splits: dict[Split, EncodedSplit] = {name: split for name, (split, _) in zip(task.splits, encoded, strict=True)}
    notices = [
        f'task "{task.name}" {name}: {notice}'
        for name, (_, found) in zip(task.splits, encoded, strict=True)
        for notice in found
    ]
    return EncodedTask(task=replace(task, splits={}), splits=splits), notices


def encode_examples(
    examples: Sequence[Example], spec: TaskSpec, word_pieces: WordPieces, labels: Sequence[str] | None
) -> tuple[EncodedSplit, list[str]]:
    """Encode examples as their family wants it.

    Args:
        examples: Of one task.
        spec: Its declaration.
        word_pieces: The backbone's tokenizer.
        labels: The task's labels; None leaves aside what is right.

    Returns:
        The windows, and notices for the user.

    Raises:
        DataError: An example falls under a policy of "error"; names all of them.
    """
    if spec.kind.unit == "words":
        assert isinstance(spec, WordSpec)
        return encode(
            sentences_of(examples),
            word_pieces,
            labels,
            long=spec.long_policy,
            no_piece=spec.no_piece,
            predicate=spec.predicate if isinstance(spec, PredicateSpec) and spec.kind.predicate else None,
        )
    if isinstance(spec, QaSpec):
        questions = [example for example in examples if isinstance(example, Question)]
        return encode_questions(questions, word_pieces, spec, labelled=labels is not None)
    texts = [example for example in examples if isinstance(example, TextExample)]
    return encode_texts(
        texts,
        word_pieces,
        labels,
        softmax_over=spec.kind.softmax_over,
        long=spec.long_policy,
        template=spec.cloze,
    )
