"""Running text as sentences: plain lines, and documents of slot filling, snips (chunks) and rasa (character spans).

Predictions for them are JSON lines with `text`, `words`, `tags` and `spans`.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from mpt.base.errors import DataError
from mpt.data.example import Sentence
from mpt.data.formats.json_walk import items, line_finder, members, read_document, skip
from mpt.data.formats.jsonlines import char_spans_of, json_lines, member, parse_json
from mpt.data.formats.source import Problems, RawSentence, SourceFormat, Tags, quoted, read_text, split_lines
from mpt.data.formats.words import CharSpan, char_spans, tag_words, word_offsets
from mpt.data.tags import from_bio

RASA_EXAMPLES = ("common_examples", "intent_examples", "entity_examples")
"""Lists under rasa_nlu_data that hold training examples (rasa_nlu 0.x, training_data/formats/rasa.py)."""


def read_lines(text: str, source: SourceFormat, problems: Problems) -> Iterator[RawSentence]:
    """Yield a sentence for each line that is not blank."""
    for number, line in enumerate(split_lines(text), 1):
        sentence = tag_words(line, None, number, problems) if line.strip() else None
        if sentence is not None:
            yield sentence


def read_snips(text: str, source: SourceFormat, problems: Problems) -> Iterator[RawSentence]:
    """Yield the utterances of a document `{intent: [{"data": [{"text": ..., "entity": ...}, ...]}, ...]}`.

    The text of an utterance is that of its chunks, joined; a chunk with an `entity` is a slot of this type. Intents
    are not read.
    """
    document, line_at = read_document(text, problems), line_finder(text)
    for intent, at in members(text, skip(text, 0)) if document else ():
        if isinstance(document[intent], list):
            yield from _sentences(text, at, _snips_utterance, line_at, source, problems)
        else:
            problems.add(line_at(at), f'intent "{intent}" must hold a list of utterances')


def read_rasa(text: str, source: SourceFormat, problems: Problems) -> Iterator[RawSentence]:
    """Yield the examples of a Rasa NLU document `{"rasa_nlu_data": {"common_examples": [...]}}`.

    An example has a `text` and may have `entities` with `start`, `end` (excluded), `entity` and a `value` that equals
    the slice. A value that is a synonym of the slice is refused: it cannot be told from a wrong offset.
    """
    document = read_document(text, problems)
    data = document.get("rasa_nlu_data")
    if not isinstance(data, dict) or not isinstance(data.get(RASA_EXAMPLES[0]), list):
        if document:
            problems.add(1, f"expected a list rasa_nlu_data.{RASA_EXAMPLES[0]} in this document")
        return
    line_at = line_finder(text)
    top = dict(members(text, skip(text, 0)))
    for key, at in members(text, top["rasa_nlu_data"]):
        if key in RASA_EXAMPLES and isinstance(data[key], list):
            yield from _sentences(text, at, _rasa_example, line_at, source, problems)


def running_objects(
    path_in: Path, source: SourceFormat, raw: Sequence[RawSentence], sentences: Sequence[Sentence], tags: Tags
) -> str:
    """An object for each sentence, and for each blank one of plain lines, so that line numbers stay the same."""
    empty = _object("", [], [], source)
    objects: list[dict[str, Any]] = []
    for found, sentence, predicted in zip(raw, sentences, tags, strict=True):
        assert found.text is not None, "running text was checked to be there"
        if source.format == "text":
            objects += [empty] * (sentence.lines[0] - 1 - len(objects))
        objects.append(_object(found.text, sentence.words, predicted, source))
    if source.format == "text":
        lines = read_text(path_in, source.encoding).removesuffix("\n").count("\n") + 1
        objects += [empty] * (lines - len(objects))
    return json_lines(objects)


def _object(text: str, words: Sequence[str], tags: Sequence[str], source: SourceFormat) -> dict[str, Any]:
    record: dict[str, Any] = {"text": text, "words": [*words], "tags": from_bio(tags, source.tag_scheme)}
    if source.tag_scheme != "raw":
        record["spans"] = char_spans(text, word_offsets(text, words), tags)
    return record


def _snips_utterance(utterance: Any) -> tuple[str, list[CharSpan]]:
    chunks = member(utterance, "data") if isinstance(utterance, dict) else None
    if not isinstance(chunks, list) or not all(isinstance(chunk, dict) for chunk in chunks):
        raise DataError(f'an utterance must hold a list "data" of chunks, got {quoted(json.dumps(utterance))}')
    text, entities = "", []
    for index, chunk in enumerate(chunks):
        piece, kind = member(chunk, "text"), chunk.get("entity")
        if not isinstance(piece, str) or not isinstance(kind, str | None) or kind == "":
            raise DataError(f"data[{index}] must hold strings, got {quoted(json.dumps(chunk))}")
        if kind is not None:
            entities.append(CharSpan(start=len(text), end=len(text) + len(piece), type=kind))
        text += piece
    return text, entities


def _rasa_example(example: Any) -> tuple[str, list[CharSpan]]:
    text = member(example, "text") if isinstance(example, dict) else None
    if not isinstance(text, str):
        raise DataError(f'an example must hold a string "text", got {quoted(json.dumps(example))}')
    marked = example.get("entities", [])
    return text, char_spans_of(marked, text, type_keys=("entity",), text_keys=("value",), name="entities")


_Parse: TypeAlias = Callable[[Any], tuple[str, list[CharSpan]]]


def _sentences(
    text: str, at: int, parse: _Parse, line_at: Callable[[int], int], source: SourceFormat, problems: Problems
) -> Iterator[RawSentence]:
    """Yield the sentence of each item of the array that begins at offset `at`, with the line where the item begins."""
    for start, end in items(text, at):
        line = line_at(start)
        with problems.noting(line):
            words, entities = parse(parse_json(text[start:end]))
            sentence = tag_words(words, None if source.spans_field is None else entities, line, problems)
            if sentence is not None:
                yield sentence
