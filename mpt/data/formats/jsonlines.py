"""JSON lines: one object a line, with words and tags (jsonl) or with text and character spans (jsonl_spans)."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from mpt.base.errors import DataError, did_you_mean
from mpt.data.example import Sentence
from mpt.data.formats.source import (
    Edits,
    Problems,
    RawSentence,
    SourceFormat,
    Tags,
    join_surrogates,
    quoted,
    split_lines,
)
from mpt.data.formats.words import CharSpan, char_spans, tag_words, word_offsets
from mpt.data.tags import from_bio


def read_jsonl(text: str, source: SourceFormat, problems: Problems) -> Iterator[RawSentence]:
    """Yield the sentences of objects that hold a list of words and, unless `tags_field` is None, a list of tags."""
    for line, record in read_objects(text, problems):
        with problems.noting(line):
            yield word_sentence(record, source, line)


def read_jsonl_spans(text: str, source: SourceFormat, problems: Problems) -> Iterator[RawSentence]:
    """Yield the sentences of objects that hold a text and, unless `spans_field` is None, its entities.

    An entity is `{"start": 0, "end": 5, "type": "PER"}` (`label` does as well as `type`, and a `text` or `value` must
    equal the slice) or `[0, 5, "PER"]`; offsets count characters, the end is excluded.
    """
    for line, record in read_objects(text, problems):
        with problems.noting(line):
            text, name = member(record, source.text_field), source.spans_field
            if not isinstance(text, str):
                raise DataError(f"{source.text_field} must be a string, got {quoted(json.dumps(text))}")
            entities = None
            if name is not None:
                keys, texts = ("type", "label"), ("text", "value")
                entities = char_spans_of(member(record, name), text, type_keys=keys, text_keys=texts, name=name)
            sentence = tag_words(text, entities, line, problems)
            if sentence is not None:
                yield sentence


def object_edits(path: Path, source: SourceFormat, sentences: Sequence[Sentence], tags: Tags) -> Edits:
    """What puts its tags or spans into each line that holds an object."""

    def edit(line: str, sentence: Sentence, predicted: Sequence[str]) -> str:
        record = parse_json(join_surrogates(line))
        if source.format == "jsonl":
            record[source.tags_field or "tags"] = from_bio(predicted, source.scheme)
        else:
            text = record[source.text_field]
            record[source.spans_field or "spans"] = char_spans(text, word_offsets(text, sentence.words), predicted)
        return json.dumps(record, ensure_ascii=not source.encoding.startswith("utf"))

    pairs = zip(sentences, tags, strict=True)
    return {s.lines[0]: partial(edit, sentence=s, predicted=predicted) for s, predicted in pairs}


def read_objects(text: str, problems: Problems) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield line number and object of each line that is not blank."""
    for number, line in enumerate(split_lines(text), 1):
        if not line.strip():
            continue
        try:
            record = parse_json(line)
        except json.JSONDecodeError as error:
            problems.add(number, f"not JSON: {error.msg}. Line: {quoted(line)}", column=error.colno)
        except DataError as error:
            problems.add(number, str(error))
        else:
            if isinstance(record, dict):
                yield number, record
            else:
                problems.add(number, f"expected an object, one a line, got {quoted(line)}")


def json_lines(objects: Iterable[object]) -> str:
    """An object a line."""
    return "".join(json.dumps(item, ensure_ascii=False) + "\n" for item in objects)


def parse_json(text: str) -> Any:
    """Parse JSON; a DataError where a key occurs twice in an object, or the text is nested too deeply."""
    try:
        return json.loads(text, object_pairs_hook=_unique_keys)
    except RecursionError:
        raise DataError("the JSON is nested too deeply") from None


def _unique_keys(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    """An object of its members; `json` would keep the last of two with one key without a word."""
    members = dict(pairs)
    if len(members) < len(pairs):
        twice = next(key for index, (key, _) in enumerate(pairs) if key in dict(pairs[:index]))
        raise DataError(f'key "{twice}" occurs twice in one object')
    return members


def member(record: Mapping[str, Any], name: str) -> Any:
    """A member of an object; a DataError where there is none of this name."""
    if name not in record:
        raise DataError(f'no field "{name}" among {", ".join(record) or "none"}.{did_you_mean(name, record)}')
    return record[name]


def char_spans_of(
    entities: Any, text: str, *, type_keys: Sequence[str], text_keys: Sequence[str], name: str
) -> list[CharSpan]:
    """Read a list of objects with `start`, `end` and a type, or of lists `[start, end, type]`.

    Args:
        entities: What should be that list.
        text: The text that they mark.
        type_keys: Keys under which the type may stand.
        text_keys: Keys under which the marked text may stand; it must equal the slice.
        name: What messages call the list.

    Raises:
        DataError: An entity is malformed or its text is not the slice; all problems at once.
    """
    if not isinstance(entities, list):
        raise DataError(f"{name} must be a list, got {quoted(json.dumps(entities))}")
    spans: list[CharSpan] = []
    found: list[str] = []
    for index, entity in enumerate(entities):
        span = _char_span(entity, type_keys)
        shown = next((entity[key] for key in text_keys if key in entity), None) if isinstance(entity, dict) else None
        if span is None:
            found.append(f"{name}[{index}] must give start, end and {type_keys[0]}, got {quoted(json.dumps(entity))}")
        elif shown is not None and shown != text[span.start : span.end]:
            slice_ = quoted(text[span.start : span.end])
            found.append(f"{name}[{index}] says {quoted(str(shown))}, but {span.start}:{span.end} is {slice_}")
        else:
            spans.append(span)
    if found:
        raise DataError(found)
    return spans


def word_sentence(record: Mapping[str, Any], source: SourceFormat, line: int) -> RawSentence:
    """The sentence of a list of words and, unless `tags_field` is None, of tags; a DataError where it is none."""
    words = _strings(record, source.words_field)
    tags = None if source.tags_field is None else _strings(record, source.tags_field)
    if not words:
        raise DataError(f"{source.words_field} is empty")
    blank = [f"{source.words_field}[{index}] is an empty word" for index, word in enumerate(words) if not word.strip()]
    if blank:
        raise DataError(blank)
    if tags is not None and len(tags) != len(words):
        raise DataError(f"{source.words_field} has {len(words)} items, {source.tags_field} has {len(tags)}")
    predicate = None if source.predicate_field is None else _predicate(record, source.predicate_field, len(words))
    return RawSentence(words=words, tags=tags, lines=(line,) * len(words), predicate=predicate)


def _predicate(record: Mapping[str, Any], name: str, words: int) -> int | None:
    value = member(record, name)
    if value is None or (type(value) is int and 0 <= value < words):  # a bool is no index
        return value
    raise DataError(f"{name} must be the number of a word, 0 to {words - 1}, or null, got {quoted(json.dumps(value))}")


def _strings(record: Mapping[str, Any], name: str) -> tuple[str, ...]:
    value = member(record, name)
    if not isinstance(value, list):
        raise DataError(f"{name} must be a list of strings, got {quoted(json.dumps(value, default=str))}")
    wrong = [index for index, item in enumerate(value) if not isinstance(item, str)]
    if wrong:
        shown = quoted(json.dumps(value[wrong[0]], default=str))
        hint = " Write the names of the tags, not their ids" if isinstance(value[wrong[0]], int) else ""
        raise DataError(f"{name}[{wrong[0]}] must be a string, got {shown}.{hint}")
    return tuple(value)


def _char_span(entity: Any, type_keys: Sequence[str]) -> CharSpan | None:
    if isinstance(entity, dict):
        start, end = entity.get("start"), entity.get("end")
        kind = next((entity[key] for key in type_keys if key in entity), None)
    elif isinstance(entity, list) and len(entity) == 3:
        start, end, kind = entity
    else:
        return None
    if type(start) is int and type(end) is int and isinstance(kind, str) and kind:  # a bool is no offset
        return CharSpan(start=start, end=end, type=kind)
    return None
