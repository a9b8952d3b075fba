"""Predictions for whole texts in the form of the file that they were made for."""

import csv
import json
from collections.abc import Mapping, Sequence
from io import StringIO
from pathlib import Path
from typing import Any

from mpt.data.example import TextExample
from mpt.data.formats.jsonlines import parse_json
from mpt.data.formats.source import read_text, split_lines
from mpt.data.formats.text_readers import TextSource, csv_rows
from mpt.data.formats.writers import refuse_input, write_whole


def write_answers(
    path_in: Path, source: TextSource, examples: Sequence[TextExample], answers: Sequence[str], path_out: Path
) -> None:
    """Write the predictions for all texts of a file.

    CSV comes back with its column of labels replaced, or with one appended; JSON lines with their labels replaced or
    added where they belong (a number where choices are numbered), also inside of lists that hold the examples; plain
    lines become JSON lines with `text` and `label`.

    Args:
        path_in: The file that the examples were read from. It is not changed.
        source: Its layout.
        examples: All examples of the file, in order, as `read_texts` gave them.
        answers: The label, or number of the choice, of each.
        path_out: Where to write, whole or not at all; an older file is replaced.

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
        write_whole(path_out, _csv(text, source, by_line), source.encoding)
    else:
        write_whole(path_out, _json_lines(text, source, by_line), "utf-8")


def _json_lines(text: str, source: TextSource, answers: Mapping[int, Sequence[str]]) -> str:
    objects: list[dict[str, Any]] = []
    for number, line in enumerate(split_lines(text), 1):
        if number not in answers:
            continue
        record: dict[str, Any] = {"text": line} if source.format == "text" else parse_json(line)
        for part, answer in zip(source.parts(record), answers[number], strict=True):
            gold = part.own.get(source.label_name)
            part.own[source.label_name] = _typed(answer, gold, numbered=source.unit == "choices")
        objects.append(record)
    return "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in objects)


def _typed(answer: str, gold: object, *, numbered: bool) -> object:
    """A prediction in the JSON type that labels have in the file."""
    if isinstance(gold, bool) and answer in ("true", "false"):
        return answer == "true"
    return int(answer) if numbered or (isinstance(gold, int) and answer.isdigit()) else answer


def _csv(text: str, source: TextSource, answers: Mapping[int, Sequence[str]]) -> str:
    """All rows again, quoted where the layout has quotes and a field needs them."""
    rows = [(line, row) for line, row in csv_rows(text, source) if row]
    name = source.fields.label
    names = rows[0][1]
    column = name if isinstance(name, int) else names.index(name) if name in names else len(names)
    out = StringIO()
    quoting = csv.QUOTE_MINIMAL if source.quoted else csv.QUOTE_NONE
    writer = csv.writer(
        out, delimiter=source.separator, quoting=quoting, lineterminator="\n", quotechar='"' if source.quoted else None
    )
    for line, row in rows:
        writer.writerow([*row[:column], *answers.get(line, [str(name)]), *row[column + 1 :]])
    return out.getvalue()
