"""JSON documents of many lines: where in the text their members and items stand, so that an error can name a line."""

import json
import re
from bisect import bisect_left
from collections.abc import Callable, Iterator
from typing import Any

from mpt.data.formats.source import Problems

_DECODER = json.JSONDecoder()
_SPACE = re.compile(r"[ \t\r\n]*")


def read_document(text: str, problems: Problems) -> dict[str, Any]:
    """Check that the text is one JSON object, so that it can be walked; give an empty one when it is not."""
    try:
        document = json.loads(text)
    except json.JSONDecodeError as error:
        problems.add(error.lineno, f"not JSON: {error.msg}", column=error.colno)
    except RecursionError:
        problems.add(0, "the JSON is nested too deeply")
    else:
        if isinstance(document, dict) and document:
            return document
        problems.add(1, "expected a JSON object with something in it")
    return {}


def members(text: str, at: int) -> Iterator[tuple[str, int]]:
    """Yield key and offset of the value for each member of the valid object that begins at `at`."""
    at = skip(text, at + 1)
    while text[at] != "}":
        key, at = _DECODER.raw_decode(text, at)
        at = skip(text, skip(text, at) + 1)  # past the colon
        yield key, at
        at = _next(text, _DECODER.raw_decode(text, at)[1])


def items(text: str, at: int) -> Iterator[tuple[int, int]]:
    """Yield start and end of each item of the valid array that begins at `at`."""
    at = skip(text, at + 1)
    while text[at] != "]":
        end = _DECODER.raw_decode(text, at)[1]
        yield at, end
        at = _next(text, end)


def line_finder(text: str) -> Callable[[int], int]:
    """What tells the line of an offset; lines are counted from 1."""
    breaks = [match.start() for match in re.finditer("\n", text)]
    return lambda offset: bisect_left(breaks, offset) + 1


def _next(text: str, at: int) -> int:
    at = skip(text, at)
    return skip(text, at + 1) if text[at] == "," else at


def skip(text: str, at: int) -> int:
    """Offset of what follows the white space at `at`."""
    match = _SPACE.match(text, at)
    assert match is not None, "the pattern matches nothing as well"
    return match.end()
