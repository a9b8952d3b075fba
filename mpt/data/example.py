"""The record types that readers yield and every later stage takes."""

from collections.abc import Collection
from dataclasses import dataclass
from typing import TypeAlias


@dataclass(frozen=True, slots=True, kw_only=True)
class Located:
    """Where an example comes from.

    Attributes:
        path: The file it was read from.
        lines: Line number of each word of a sentence in that file, counted from 1, repeated where a line holds several;
            of a text or a question the line that it begins in.
        document: Number of its document or article in that file; None where the source declares none.
    """

    path: str
    lines: tuple[int, ...]
    document: int | None = None

    @property
    def where(self) -> str:
        """`file:line` of its beginning."""
        return f"{self.path}:{self.lines[0]}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Sentence(Located):
    """A sequence of words with its gold tags.

    Attributes:
        words: The words as the file has them, never empty.
        tags: One tag a word: BIO2 for span tasks whatever the file's own scheme is, the tag itself for raw tasks. None
            when the text carries no labels (prediction).
        predicate: Index of the word that the tags are about, in tasks that have one; a sentence with several predicates
            is as many examples.
    """

    words: tuple[str, ...]
    tags: tuple[str, ...] | None
    predicate: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TextExample(Located):
    """Texts that are read whole, and what is right for them.

    Attributes:
        inputs: What the backbone reads: one input for a classified text, one for each choice. An input is a text or a
            pair of texts.
        tags: The label of a classified text, or the number of the right choice, counted from 0; one item. None when
            nothing is known (prediction).
    """

    inputs: tuple[tuple[str, ...], ...]
    tags: tuple[str, ...] | None

    @property
    def words(self) -> tuple[str, ...]:
        """What stands between white space in its different texts, for counts and comparisons."""
        texts = dict.fromkeys(text for texts in self.inputs for text in texts)
        return tuple(word for text in texts for word in text.split())


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """A part of a passage: its text, and the offset in characters where that begins."""

    text: str
    start: int

    @property
    def end(self) -> int:
        """Offset behind the last character."""
        return self.start + len(self.text)


@dataclass(frozen=True, slots=True, kw_only=True)
class Question(Located):
    """A question about a passage that may hold its answer.

    Attributes:
        id: Names it in its file.
        question: What is asked.
        passage: What is read, exactly as in the file.
        answers: Accepted answers, any of which is right; empty where the passage holds none; None when nothing is
            known (prediction).
    """

    id: str
    question: str
    passage: str
    answers: tuple[Answer, ...] | None

    @property
    def where(self) -> str:
        """`file:line`, and the question's id, since many files have one line."""
        return f"{self.path}:{self.lines[0]} ({self.id})"

    @property
    def tags(self) -> tuple[str, ...] | None:
        """Texts of the accepted answers."""
        return None if self.answers is None else tuple(answer.text for answer in self.answers)

    @property
    def words(self) -> tuple[str, ...]:
        """What stands between white space in question and passage, for counts and comparisons."""
        return (*self.question.split(), *self.passage.split())


Example: TypeAlias = Sentence | TextExample | Question


def sentences_of(examples: Collection[Example]) -> list[Sentence]:
    """The examples of a task whose words are scored."""
    sentences = [example for example in examples if isinstance(example, Sentence)]
    assert len(sentences) == len(examples), "a task is of one family"
    return sentences
