"""Families of tasks: what of an example is scored, which files hold such examples, and which figure judges them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from mpt.data.example import Example, Sentence
from mpt.data.tags import split_tag

FamilyName = Literal["ner", "slots", "chunk", "pos", "tag", "srl", "classification", "choice", "qa"]
Metric = Literal["span_f1", "srl_f1", "accuracy", "macro_f1", "f1", "qa_f1"]
Unit = Literal["words", "text", "choices", "passage"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """What all tasks of a family have in common.

    Attributes:
        unit: What is scored: every word of a sentence, a whole text, each of several choices, or every piece of a
            passage that may hold an answer.
        metrics: Figures that may judge it; the first is the default.
        formats: Layouts of files that hold such examples.
        spans: Whether tags stand for spans of words.
        predicate: Whether one word of a sentence is marked as the predicate that its tags are about.
        columns: Names of a head's scores where they are no labels.
    """

    unit: Unit
    metrics: tuple[Metric, ...]
    formats: tuple[str, ...]
    spans: bool = False
    predicate: bool = False
    columns: tuple[str, ...] = ()

    @property
    def source_noun(self) -> str:
        """What a file holds one after the other."""
        return {"words": "sentence", "text": "text", "choices": "question", "passage": "question"}[self.unit]

    @property
    def noun(self) -> str:
        """What one example is called."""
        return "predicate" if self.predicate else self.source_noun

    @property
    def every_word(self) -> bool:
        """Whether every word is scored."""
        return self.unit == "words"

    @property
    def windowed(self) -> bool:
        """Whether an example that does not fit a backbone is covered by several windows."""
        return self.unit in ("words", "passage")

    @property
    def labelled(self) -> bool:
        """Whether examples carry names out of a list of labels."""
        return not self.columns

    def tags(self, labels: Sequence[str]) -> tuple[str, ...]:
        """What a head scores: for spans O, then B- and I- of each label; else the labels, or what has none."""
        if self.spans:
            return ("O", *(f"{prefix}-{label}" for label in labels for prefix in "BI"))
        return self.columns or tuple(labels)

    def label_of(self, tag: str) -> str | None:
        """The label that a tag stands for: a span's type, None for O, or the tag itself; None where there are none."""
        if self.spans:
            return None if tag == "O" else split_tag(tag)[1]
        return tag if self.labelled else None

    def relabelled(self, tag: str, label: str | None) -> str:
        """The tag with another label; without one a word of a span is O."""
        if self.spans:
            return "O" if label is None else f"{split_tag(tag)[0]}-{label}"
        assert label is not None, "the schema refuses it"
        return label

    def asks(self, example: Example) -> bool:
        """Whether there is anything to predict: a word is marked as the predicate, where tags are about one."""
        return not self.predicate or (isinstance(example, Sentence) and example.predicate is not None)


_WORD_FORMATS = ("conll", "conllu", "jsonl", "parquet", "hub")
_SPANS = Family(
    unit="words", metrics=("span_f1",), formats=(*_WORD_FORMATS, "jsonl_spans", "snips", "rasa"), spans=True
)
_TAGS = Family(unit="words", metrics=("accuracy",), formats=_WORD_FORMATS)

FAMILIES: Mapping[FamilyName, Family] = {
    "ner": _SPANS,
    "slots": _SPANS,
    "chunk": _SPANS,
    "pos": _TAGS,
    "tag": _TAGS,
    "srl": Family(unit="words", metrics=("srl_f1", "span_f1"), formats=("props", "jsonl"), spans=True, predicate=True),
    "classification": Family(unit="text", metrics=("accuracy", "macro_f1", "f1"), formats=("csv", "jsonl", "text")),
    "choice": Family(unit="choices", metrics=("accuracy",), formats=("jsonl",), columns=("choice",)),
    "qa": Family(unit="passage", metrics=("qa_f1",), formats=("squad", "record"), columns=("start", "end")),
}
