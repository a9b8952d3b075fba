"""Families whose words are scored: spans of words, arguments of predicates, a tag for every word."""

from collections.abc import Sequence

from mpt.data.example import Example, sentences_of
from mpt.data.families.task_family import TaskFamily
from mpt.data.families.tokenization import WordPieces, encode
from mpt.data.manifest.family_specs import PredicateSpec, WordSpec
from mpt.data.windows import EncodedSplit


class WordFamily(TaskFamily):
    """Every word of a sentence has a tag, which may stand for a span of words or for the word alone."""

    def encode(
        self, examples: Sequence[Example], word_pieces: WordPieces, labels: Sequence[str] | None
    ) -> tuple[EncodedSplit, list[str]]:
        """Windows of whole words; see `mpt.data.families.tokenization.encode`."""
        spec = self.spec
        assert isinstance(spec, WordSpec), "the manifest refuses other formats"
        return encode(
            sentences_of(examples),
            word_pieces,
            labels,
            long=spec.long_policy,
            no_piece=spec.no_piece,
            predicate=spec.predicate if isinstance(spec, PredicateSpec) and spec.kind.predicate else None,
        )
