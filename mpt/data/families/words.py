"""Families whose words are scored: spans of words, arguments of predicates, a tag for every word."""

from collections.abc import Sequence

from mpt.data.example import Example, sentences_of
from mpt.data.families.task_family import TaskFamily
from mpt.data.families.tokenization import WordPieces, encode
from mpt.data.windows import EncodedSplit


class WordFamily(TaskFamily):
    """Every word of a sentence has a tag, which may stand for a span of words or for the word alone."""

    def encode(
        self, examples: Sequence[Example], word_pieces: WordPieces, labels: Sequence[str] | None
    ) -> tuple[EncodedSplit, list[str]]:
        """Windows of whole words; see `mpt.data.families.tokenization.encode`."""
        return encode(
            sentences_of(examples),
            word_pieces,
            labels,
            long=self.spec.long_policy,
            no_piece=self.spec.no_piece,
            predicate=self.spec.predicate if self.spec.kind.predicate else None,
        )
