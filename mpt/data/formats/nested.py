"""Lists inside of JSON objects, every item of which is an example: the answers to the questions about a passage."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from mpt.base.errors import DataError, every, placed
from mpt.data.formats.jsonlines import member
from mpt.data.formats.source import quoted


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """What one example is read from.

    Attributes:
        own: The object itself, as it stands in its line.
        view: The line with an item in the place of each list on the way to the object: `questions.question` is the
            question that the object belongs to.
        place: Where it stands in the line, `questions[0].answers[1]`; "" for the line itself.
    """

    own: dict[str, Any]
    view: Mapping[str, Any]
    place: str = ""


def parts_of(record: dict[str, Any], path: str, before: str = "") -> list[Part]:
    """Return every item of the lists that a path leads to, in order.

    Args:
        record: The line, or an object in it.
        path: Names of fields with dots between them; what the last one names is a list, what others do an object or a
            list as well.
        before: Place of the object and a dot; "" for the line.

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


def _inside(place: str, item: Any, rest: str) -> list[Part]:
    if not isinstance(item, dict):
        raise DataError(f"{place} must be an object, got {quoted(json.dumps(item))}")
    return parts_of(item, rest, f"{place}.") if rest else [Part(own=item, view=item, place=place)]
