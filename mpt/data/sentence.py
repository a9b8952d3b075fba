"""The one record type that every reader yields and every later stage takes."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Sentence:
    """A sequence of words with its gold tags, and where it came from.

    Attributes:
        words: The words as the file has them, never empty.
        tags: One tag a word: BIO2 for span tasks whatever the file's own scheme is, the tag itself for raw tasks. None
            when the text carries no labels (prediction).
        path: The file it was read from.
        lines: Line number of each word in that file, counted from 1. Formats with one sentence a line repeat it.
        document: Number of document marks seen before it in that file; None where the source declares none.
    """

    words: tuple[str, ...]
    tags: tuple[str, ...] | None
    path: str
    lines: tuple[int, ...]
    document: int | None = None

    @property
    def where(self) -> str:
        """`file:line` of the first word."""
        return f"{self.path}:{self.lines[0]}"
