"""Families of tasks: what of an example is scored, what scores are normalised over, and which figure judges them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

FamilyName = Literal["ner", "slots", "chunk", "pos", "tag", "srl", "classification", "choice", "qa"]
Metric = Literal["span_f1", "srl_f1", "accuracy", "macro_f1", "f1", "qa_f1"]
Unit = Literal["words", "text", "choices", "passage"]
SoftmaxOver = Literal["labels", "window", "example"]
"""What scores are normalised over: the labels of a word, or one label's words of a window, or of an example."""


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
    def softmax_over(self) -> SoftmaxOver:
        """What scores are normalised over."""
        if self.unit == "passage":
            return "window"
        return "example" if self.unit == "choices" else "labels"

    @property
    def noun(self) -> str:
        """What one example is called."""
        if self.predicate:
            return "predicate"
        return {"words": "sentence", "text": "text", "choices": "question", "passage": "question"}[self.unit]

    @property
    def windowed(self) -> bool:
        """Whether an example that does not fit a backbone is covered by several windows."""
        return self.unit in ("words", "passage")

    @property
    def labelled(self) -> bool:
        """Whether examples carry names out of a list of labels."""
        return not self.columns


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
