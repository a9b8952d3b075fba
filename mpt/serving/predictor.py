"""Tags for new text: from words to predictions, and from a file to the same file with predictions in it."""

from collections.abc import Sequence
from pathlib import Path

from mpt.base.errors import ConfigError
from mpt.data.example import Example
from mpt.data.families.of_task import family_of
from mpt.data.formats.layouts import Layout, read_file, write_file
from mpt.evaluation.evaluator import predict_split
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
        """Predict one tag for every word.

        Returns:
            The tags of each sentence (valid BIO2 for span tasks; all O where a sentence has no predicate to be asked
            about), and notices about long sentences and words that the
            tokenizer knows nothing of.
        """
        scorer = self.saved.scorer
        family, asks = family_of(self.spec), self.spec.kind.asks
        asked = [example for example in examples if asks(example)]
        split, notices = family.encode(asked, scorer.backbone.word_pieces, None)
        found = iter(predict_split(scorer, self.task, split, family=family))
        return [next(found) if asks(example) else ["O"] * len(example.words) for example in examples], notices

    def predict_file(self, path_in: Path, source: Layout, path_out: Path) -> tuple[int, list[str]]:
        """Write a file's predictions in the file's own form; see `mpt.data.formats.layouts.write_file`.

        Returns:
            The number of sentences (of predicates, where tags are about one), and notices.

        Raises:
            DataError: The file is not laid out as `source` says, or the output cannot be written.
        """
        examples, said = read_file(path_in, source.without_gold())
        predicted, notices = self.predict(examples)
        write_file(path_in, source, examples, predicted, path_out)
        return len(examples), said + notices
