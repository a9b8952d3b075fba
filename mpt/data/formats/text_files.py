"""Files of whole texts: CSV, JSON lines and plain lines, for texts with a label and for questions with choices.

An object of JSON lines is an example, or holds lists every item of which is one: the answers to a passage's questions.
Everything that is wrong in a file is found before any of it is used, and raised at once with `file:line`.
"""

import csv
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from io import StringIO
from pathlib import Path
from typing import Any, Literal

from mpt.base.errors import DataError, every, placed
from mpt.data.example import TextExample
from mpt.data.families.family import Unit
from mpt.data.formats.jsonlines import json_lines, member, parse_json, read_objects
from mpt.data.formats.source import Problems, quoted, read_text, refuse_input, require_text, split_lines, write_text
from mpt.data.manifest.source_spec import Fields

Record = dict[str, Any]
csv.field_size_limit(1 << 24)  # passages of books occur; the default is 128 KiB


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """What one example is read from: an object, and where it stands.

    The view is the line with an item in the place of each list on the way to the object: `questions.question` is the
    question that the object belongs to.
    """

    own: Record  # the object itself, as it stands in its line
    view: Mapping[str, Any]
    place: str = ""  # in the line: `questions[0].answers[1]`; "" for the line itself


@dataclass(frozen=True, slots=True, kw_only=True)
class TextSource:
    """How a file of texts is laid out."""

    format: Literal["csv", "jsonl", "text"]  # csv has a header line unless fields are numbers
    unit: Unit  # "text" for texts with a label, "choices" for alternatives
    fields: Fields
    delimiter: str = ","  # of csv: `tab` or one character
    quoted: bool = True  # whether fields of csv may stand in double quotes; else quotes are plain characters
    encoding: str = "utf-8"
    label: str | None = None  # of all texts of the file; None where each has its own
    each: str | None = None  # path of the lists in an object of jsonl whose items are examples; None where it is one
    questions: Mapping[str, str] = field(default_factory=dict)  # text for values of `fields.question` that are no text
    labelled: bool = True  # whether labels are read

    def without_gold(self) -> "TextSource":
        """The layout of the same file, its labels left unread, for prediction."""
        return replace(self, labelled=False)

    @property
    def separator(self) -> str:
        """The character between columns of csv."""
        return "\t" if self.delimiter == "tab" else self.delimiter

    @property
    def label_name(self) -> str:
        """Name of the label in the object that is an example."""
        return str(self.fields.label).removeprefix(f"{self.each}.")

    def parts(self, record: Record) -> list[Item]:
        """What the examples of an object are read from, and written to.

        Raises:
            DataError: There is no such list, or it does not hold objects.
        """
        if self.each is None or self.format != "jsonl":
            return [Item(own=record, view=record)]
        return parts_of(record, self.each)


def read_texts(path: Path, source: TextSource) -> list[TextExample]:
    """Read all examples of a file, in its order.

    Raises:
        DataError: The file is missing, undecodable, malformed or not what `source` declares; lists every problem with
            `file:line`, the first 20 in words.
    """
    problems = Problems(path)
    text = read_text(path, source.encoding)
    documents: dict[str, int] = {}
    examples: list[TextExample] = []
    for line, record in _RECORDS[source.format](text, source, problems):
        with problems.noting(line):
            read = partial(_example, source=source, path=str(path), line=line, documents=documents)
            examples += every(read, source.parts(record))
    if not examples and not problems:
        problems.add(0, "no text in this file")
    problems.raise_any()
    return examples


def write_answers(
    path_in: Path, source: TextSource, examples: Sequence[TextExample], answers: Sequence[str], path_out: Path
) -> None:
    """Write the predictions for all texts of a file, whole or not at all.

    CSV comes back with its column of labels replaced, or with one appended; JSON lines with their labels replaced or
    added where they belong (a number where choices are numbered), also inside of lists that hold the examples; plain
    lines become JSON lines with `text` and `label`.

    All examples of the file, in order, as `read_texts` gave them, each have an answer: a label or number of a choice.

    Raises:
        DataError: The output is the input, or cannot be written.
    """
    assert len(examples) == len(answers), f"{len(answers)} predictions for {len(examples)} examples"
    refuse_input(path_in, path_out)
    text = read_text(path_in, source.encoding)
    by_line: dict[int, list[str]] = {}
    for example, answer in zip(examples, answers, strict=True):
        by_line.setdefault(example.lines[0], []).append(answer)
    if source.format == "csv":
        write_text(path_out, _answered_rows(text, source, by_line), source.encoding)
    else:
        write_text(path_out, _answered_objects(text, source, by_line))


def _example(part: Item, *, source: TextSource, path: str, line: int, documents: dict[str, int]) -> TextExample:
    try:
        inputs, tags = (_choices if source.unit == "choices" else _text)(part, source)
        document = _document(part, source, line, documents)
    except DataError as error:
        raise placed(error, part.place) from None
    return TextExample(inputs=inputs, tags=tags, path=path, lines=(line,), document=document)


def _csv_records(text: str, source: TextSource, problems: Problems) -> Iterator[tuple[int, Record]]:
    names: list[str] | None = None
    line = 0
    try:
        for line, row in _csv_rows(text, source):
            if not row:
                continue
            if isinstance(source.fields.text, int):
                yield line, {str(number): field for number, field in enumerate(row)}
            elif names is None:
                names = row
            elif len(row) != len(names):
                problems.add(line, f"{len(row)} columns, the header line has {len(names)} ({', '.join(names)})")
            else:
                yield line, dict(zip(names, row, strict=True))
    except csv.Error as error:
        hint = " Set quoted: false if quotes are plain characters here." if source.quoted else ""
        problems.add(line + 1, f"not CSV, behind the row of line {line}: {error}.{hint}")


def _csv_rows(text: str, source: TextSource) -> Iterator[tuple[int, list[str]]]:
    """Yield the line that each row begins in, counted from 1, and its fields, which in quotes may hold line ends."""
    quoting = csv.QUOTE_MINIMAL if source.quoted else csv.QUOTE_NONE
    rows = csv.reader(StringIO(text, newline=""), delimiter=source.separator, quoting=quoting, strict=True)
    before = 0
    for row in rows:
        yield before + 1, row
        before = rows.line_num


def _lines(text: str) -> Iterator[tuple[int, Record]]:
    return ((number, {"text": line}) for number, line in enumerate(split_lines(text), 1) if line.strip())


def _text(part: Item, source: TextSource) -> tuple[tuple[tuple[str, ...], ...], tuple[str, ...] | None]:
    """One text or a pair, and its label."""
    if source.format == "text":
        texts: tuple[str, ...] = (_string(part.view, "text"),)
    else:
        names = [source.fields.text] + ([] if source.fields.pair is None else [source.fields.pair])
        texts = tuple(_composed(part.view, str(name)) for name in names)
    if not source.labelled:
        return (texts,), None
    return (texts,), (source.label or _label(part.own, source.label_name),)


def _choices(part: Item, source: TextSource) -> tuple[tuple[tuple[str, ...], ...], tuple[str, ...] | None]:
    """A pair of context and choice for each choice, and the number of the right one."""
    record = part.view
    context = _composed(record, str(source.fields.text))
    if source.fields.question is not None:
        question = _string(record, source.fields.question)
        context = f"{context} {source.questions.get(question, question)}"
    names = source.fields.choices
    choices = _inner(record, names[0]) if len(names) == 1 else [_string(record, name) for name in names]
    if not isinstance(choices, list) or not all(isinstance(choice, str) and choice.strip() for choice in choices):
        raise DataError(f"{names[0]} must be a list of texts, got {quoted(json.dumps(choices))}")
    if len(choices) < 2:
        raise DataError(f"{len(choices)} choice; a question needs at least two")
    inputs = tuple((context, choice) for choice in choices)
    if not source.labelled:
        return inputs, None
    label = member(part.own, source.label_name)
    if isinstance(label, bool) or not isinstance(label, int) or not 0 <= label < len(choices):
        told = f"must be the number of a choice, 0 to {len(choices) - 1}, got {quoted(json.dumps(label))}"
        raise DataError(f"{source.label_name} {told}")
    return inputs, (str(label),)


def _composed(record: Mapping[str, Any], name: str) -> str:
    """A text that is one field, or several and what stands between them, as in `{word}: {sentence1}`."""
    parts = re.split(r"\{([^{}]+)\}", name)
    if len(parts) == 1:
        return _string(record, name)  # every other part of several was in braces
    return "".join(_string(record, part) if number % 2 else part for number, part in enumerate(parts))


def _string(record: Mapping[str, Any], name: str) -> str:
    return require_text(_inner(record, name), name)


def _label(record: Mapping[str, Any], name: str) -> str:
    """A label as text; JSON's true, false and whole numbers are labels too."""
    value = _field(record, name)
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    if not isinstance(value, str) or not value.strip():
        raise DataError(f"{name} must be a label, got {quoted(json.dumps(value))}")
    return value


def _field(record: Mapping[str, Any], name: str) -> Any:
    if name.isdigit() and name not in record:
        raise DataError(f"no column {name}, the row has {len(record)} (counted from 0)")
    return member(record, name)


def _inner(record: Mapping[str, Any], name: str) -> Any:
    """A field, or with a dot in its name one of an object inside."""
    outer, dot, rest = name.partition(".")
    if not dot or name in record or outer not in record:
        return _field(record, name)
    inner = record[outer]
    if not isinstance(inner, dict):
        raise DataError(f"{outer} must be an object with a field {rest}, got {quoted(json.dumps(inner))}")
    return _inner(inner, rest)


def _document(part: Item, source: TextSource, line: int, numbers: dict[str, int]) -> int | None:
    """Number of the document that a field names, in order of first occurrence; a line of several examples is one."""
    if source.format == "text" or source.fields.document is None:
        return line if part.place else None
    return numbers.setdefault(_string(part.view, str(source.fields.document)), len(numbers))


def parts_of(record: Record, path: str, before: str = "") -> list[Item]:
    """Every item of the lists that a path leads to from the line, or from the object at the place `before`, in order.

    What the last name of the path stands for is a list; what others do, an object or a list as well.

    Raises:
        DataError: A field is missing, no list, empty, or holds what is no object; all problems at once, with places.
    """
    name, _, rest = (path, "", "") if path in record else path.partition(".")
    try:
        value = member(record, name)
    except DataError as error:
        raise placed(error, before.removesuffix(".")) from None
    place = before + name
    if isinstance(value, list) and not value:
        raise DataError(f"{place} is an empty list, which gives no example. Fill it, or remove what it belongs to")
    if not isinstance(value, list) and not rest:
        raise DataError(f"{place} must be a list, every item of which is an example, got {quoted(json.dumps(value))}")
    items = enumerate(value) if isinstance(value, list) else [(None, value)]
    found = every(lambda item: _inside(place if item[0] is None else f"{place}[{item[0]}]", item[1], rest), items)
    return [replace(part, view={**record, name: part.view}) for parts in found for part in parts]


def _inside(place: str, item: Any, rest: str) -> list[Item]:
    if not isinstance(item, dict):
        raise DataError(f"{place} must be an object, got {quoted(json.dumps(item))}")
    return parts_of(item, rest, f"{place}.") if rest else [Item(own=item, view=item, place=place)]


def _answered_objects(text: str, source: TextSource, answers: Mapping[int, Sequence[str]]) -> str:
    objects: list[Record] = []
    for number, line in enumerate(split_lines(text), 1):
        if number not in answers:
            continue
        record: Record = {"text": line} if source.format == "text" else parse_json(line)
        for part, answer in zip(source.parts(record), answers[number], strict=True):
            gold = part.own.get(source.label_name)
            part.own[source.label_name] = _typed(answer, gold, numbered=source.unit == "choices")
        objects.append(record)
    return json_lines(objects)


def _typed(answer: str, gold: object, *, numbered: bool) -> object:
    """A prediction in the JSON type that labels have in the file."""
    if isinstance(gold, bool) and answer in ("true", "false"):
        return answer == "true"
    return int(answer) if numbered or (isinstance(gold, int) and answer.isdigit()) else answer


def _answered_rows(text: str, source: TextSource, answers: Mapping[int, Sequence[str]]) -> str:
    """All rows again, quoted where the layout has quotes and a field needs them."""
    rows = [(line, row) for line, row in _csv_rows(text, source) if row]
    name = source.fields.label
    names = rows[0][1]
    column = name if isinstance(name, int) else names.index(name) if name in names else len(names)
    out = StringIO()
    quoting, mark = (csv.QUOTE_MINIMAL, '"') if source.quoted else (csv.QUOTE_NONE, None)
    writer = csv.writer(out, delimiter=source.separator, quoting=quoting, lineterminator="\n", quotechar=mark)
    for line, row in rows:
        writer.writerow([*row[:column], *answers.get(line, [str(name)]), *row[column + 1 :]])
    return out.getvalue()


_RECORDS: Mapping[str, Callable[[str, TextSource, Problems], Iterator[tuple[int, Record]]]] = {
    "csv": _csv_records,
    "jsonl": lambda text, _, problems: read_objects(text, problems),
    "text": lambda text, *_: _lines(text),
}
"""Line numbers and objects of what the examples are in."""
