"""Strict YAML: a file becomes a checked, frozen settings object, or one error that names every problem.

Nothing is coerced: `"3"` is not a number and `3` is not text (a whole number will do where a number with decimals is
expected). Every problem is reported as `file:line:column: dotted.path: problem`, all of them at once.
"""

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import replace
from io import StringIO
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

from pydantic import AliasChoices, BaseModel, ConfigDict, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails
from ruamel.yaml import YAML
from ruamel.yaml.representer import RoundTripRepresenter
from ruamel.yaml.scalarstring import DoubleQuotedScalarString

from mpt.base.errors import MptError, did_you_mean
from mpt.base.yaml_tree import MAX_BYTES, Document, Node, core_scalar, read_document

M = TypeVar("M", bound=BaseModel)

MAX_PROBLEMS = 20
MAX_SHOWN = 60  # characters of a user's value in a message
_KINDS = {
    "text": ("string_type",),
    "a path": ("path_type",),
    "a whole number": ("int_type", "int_parsing", "int_from_float"),
    "a number": ("float_type", "float_parsing"),
    "a finite number": ("finite_number",),
    "true or false": ("bool_type",),
    "null": ("none_required",),
    "a list": ("list_type", "tuple_type", "set_type", "frozen_set_type"),
    "a mapping": ("dict_type", "model_type", "model_attributes_type", "dataclass_type"),
}
_NOUNS = {kind: noun for noun, kinds in _KINDS.items() for kind in kinds}
_BOUNDS = {
    "greater_than": ("must be above {}", "gt"),
    "greater_than_equal": ("must be at least {}", "ge"),
    "less_than": ("must be below {}", "lt"),
    "less_than_equal": ("must be at most {}", "le"),
    "multiple_of": ("must be a multiple of {}", "multiple_of"),
}


class Settings(BaseModel):
    """Base of everything that is read from YAML: unknown keys are errors, no coercion, immutable, finite numbers."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class FieldErrors(ValueError):
    """Raise it in a model's validator to report several problems: what is wrong and what to do, by field.

    A field of that model is dotted if it lies deeper; the empty one is the model.
    """

    def __init__(self, problems: dict[str, str]) -> None:
        super().__init__("; ".join(problems.values()))
        self.problems = problems


class _Representer(RoundTripRepresenter):
    """Writes null where ruamel.yaml would leave the value empty."""


_Representer.add_representer(type(None), lambda it, _: it.represent_scalar("tag:yaml.org,2002:null", "null"))


def load_model(
    path: Path | None,
    model: type[M],
    *,
    error: type[MptError],
    overrides: Sequence[str] = (),
    kind: str = "configuration",
) -> M:
    """Read a YAML file, which messages call a `kind`, into a settings object; None leaves every field at its default.

    Overrides are `dotted.path=value` assignments made after reading; the value is YAML.

    Raises:
        MptError: Of class `error`, with every problem of the file and of the overrides.
    """
    return build(read_document(path, error=error, overrides=overrides, kind=kind), model, error=error)


def build(document: Document, model: type[M], *, error: type[MptError]) -> M:
    """Check a document against a model; raise `error` with every problem if there is one."""
    problems = list(document.problems)
    try:
        # JSON mode: strict, yet a list becomes a tuple and text a path.
        result = model.model_validate_json(json.dumps(_plain(document.root)))
    except ValidationError as invalid:
        problems += _describe(invalid.errors(include_url=False), model, document.root)
    else:
        if not problems:
            return result
    problems = sorted(dict.fromkeys(problems), key=_position)
    more = [f"... and {len(problems) - MAX_PROBLEMS} more problems."] if len(problems) > MAX_PROBLEMS else []
    raise error(problems[:MAX_PROBLEMS] + more)


def dump(model: BaseModel) -> str:
    """Return YAML that `load_model` reads back to an equal object, fields in their declared order."""
    yaml = YAML(typ="rt", pure=True)
    yaml.Representer = _Representer
    yaml.width = 120
    stream = StringIO()
    yaml.dump(_quoted(model.model_dump(mode="json")), stream)
    return stream.getvalue()


def _position(problem: str) -> tuple[int, int]:
    """Sort key: problems of the file from top to bottom, then those of overrides."""
    found = re.match(r"[^\n]*?:(\d+):(\d+): ", problem)
    return (int(found[1]), int(found[2])) if found else (MAX_BYTES, 0)


def _plain(node: Node) -> Any:
    if isinstance(node.value, dict):
        return {key: _plain(child) for key, child in node.value.items()}
    if isinstance(node.value, list):
        return [_plain(child) for child in node.value]
    return node.value


def _quoted(value: Any) -> Any:
    """Quote text that a reader of the core schema would take for something else."""
    if isinstance(value, dict):
        return {_quoted(key): _quoted(child) for key, child in value.items()}
    if isinstance(value, list):
        return [_quoted(child) for child in value]
    if isinstance(value, str) and (not value.isprintable() or not isinstance(core_scalar(value), str)):
        return DoubleQuotedScalarString(value)
    return value


def _describe(errors: list[ErrorDetails], model: type[BaseModel], root: Node) -> list[str]:
    """Translate what pydantic found; every message reads `where: path: problem. What to do`."""
    problems: list[str] = []
    unions: dict[tuple[str | int, ...], dict[str, list[ErrorDetails]]] = {}
    for error in errors:
        _, prefix, branch = _follow(root, error, model)
        if branch is None:
            problems += _messages(error, model, root)
        else:
            unions.setdefault(prefix, {}).setdefault(branch, []).append(error)
    for branches in unions.values():
        problems += _union_messages(branches, model, root)
    return problems


def _follow(root: Node, error: ErrorDetails, model: type[BaseModel]) -> tuple[Node, tuple[str | int, ...], str | None]:
    """The deepest existing value on the way to what an error is about, the path to the first union, and its branch.

    A branch is a name that pydantic puts into a location, although the file holds no such key.
    """
    node, prefix, branch = root, (), None
    for item in _walk(model, error["loc"])[1]:
        child = node.child(item)
        if child is not None:
            node, prefix = child, (*prefix, item) if branch is None else prefix
        elif branch is None and item != "[key]" and error["type"] != "missing":
            branch = str(item)
    return node, prefix, branch


def _union_messages(branches: dict[str, list[ErrorDetails]], model: type[BaseModel], root: Node) -> list[str]:
    """Say what is wrong in the branch that was meant; when none fits at all, say what would."""
    depth = {branch: min(len(error["loc"]) for error in errors) for branch, errors in branches.items()}
    meant = [branch for branch, errors in branches.items() if depth[branch] > min(depth.values()) or len(branches) == 1]
    if meant:
        best = min(meant, key=lambda branch: len(branches[branch]))
        return [message for error in branches[best] for message in _messages(error, model, root)]
    flat = [error for errors in branches.values() for error in errors]
    right_kind = [error for error in flat if _noun(error) is None]  # its value is wrong, which says more than its kind
    if right_kind:
        return [message for error in right_kind for message in _messages(error, model, root)]
    node = _follow(root, flat[0], model)[0]
    *others, last = dict.fromkeys(filter(None, map(_noun, flat)))
    expected = f"{', '.join(others)} or {last}" if others else last
    return [f"{node.location}: expected {expected}, got {_shown(node)}."]


def _noun(error: ErrorDetails) -> str | None:
    if error["type"] == "literal_error":
        return error.get("ctx", {})["expected"].replace("'", '"')
    return _NOUNS.get(error["type"])


def _messages(error: ErrorDetails, model: type[BaseModel], root: Node) -> list[str]:
    node, _, _ = _follow(root, error, model)
    kind, context = error["type"], error.get("ctx", {})
    known, loc = _fields(model, error["loc"][:-1]), _walk(model, error["loc"])[1]
    if kind == "missing":
        return [f"{node.locate(str(loc[-1]))}: is required. Add it."]
    if kind == "extra_forbidden":
        parent, key = _parent(root, loc[:-1]), str(loc[-1])
        place = replace(node, where=parent.keys[key]).location
        twin = next((name for name, names in known.items() if key in names), None)
        unknown = f"unknown key.{_advice(key, list(known), parent)}"
        return [f"{place}: {f'is {twin} by another name. Keep one of them.' if twin else unknown}"]
    if kind in ("union_tag_invalid", "union_tag_not_found"):
        tag = context["discriminator"].strip("'")
        child = node.child(tag)
        text = "is required. Add it." if child is None else _choice(child, context.get("expected_tags", ""))
        return [f"{node.locate(tag)}: {text}"]
    raised = context.get("error")
    if isinstance(raised, FieldErrors):
        return [f"{node.locate(*filter(None, name.split('.')))}: {text}" for name, text in raised.problems.items()]
    if loc and loc[-1] == "[key]":
        key, where = str(loc[-2]), _parent(root, loc[:-2]).keys[str(loc[-2])]
        return [f"{where}: {node.path}: {raised or _reason(error, replace(node, value=key, text=key))}"]
    return [f"{node.location}: {raised or _reason(error, node)}"]


def _parent(root: Node, loc: Iterable[str | int]) -> Node:
    node = root
    for item in loc:
        node = node.child(item) or node
    return node


def _reason(error: ErrorDetails, node: Node) -> str:
    kind, context = error["type"], error.get("ctx", {})
    if kind == "literal_error":
        return _choice(node, context["expected"])
    if kind in _BOUNDS:
        text, key = _BOUNDS[kind]
        return f"{text.format(f'{context[key]:g}')}, got {_shown(node)}."
    if kind in ("too_short", "too_long"):
        bound = f"least {context['min_length']}" if kind == "too_short" else f"most {context['max_length']}"
        return f"needs at {bound}, has {context['actual_length']}."
    if kind == "string_pattern_mismatch":
        return f"{_shown(node)} does not fit the pattern {context['pattern']}."
    noun = _NOUNS.get(kind)
    if noun is None:
        return f"{error['msg'][0].lower()}{error['msg'][1:]}, got {_shown(node)}."
    return f"expected {noun}, got {_shown(node)}.{_cure(noun, node)}"


def _choice(node: Node, expected: str) -> str:
    """Say which values are allowed; `expected` is pydantic's `'a', 'b' or 'c'`."""
    choices = [part.strip().strip("'") for part in expected.replace(" or ", ", ").split(", ")]
    advice = did_you_mean(node.value, choices) if isinstance(node.value, str) else ""
    among = f"not one of {', '.join(choices)}" if len(choices) > 1 else f"not {choices[0]}"
    return f"{_shown(node)} is {among}.{advice}"


def _cure(noun: str, node: Node) -> str:
    if noun == "text" and node.text and not isinstance(node.value, dict | list | str):
        return f' Quote it: "{node.text}".'
    if node.value is None:
        return " Give it a value or remove the line."
    if isinstance(node.value, str) and noun != "text" and not isinstance(core_scalar(node.value), str):
        return " Remove the quotes."
    if noun == "true or false" and isinstance(node.value, str):
        return " Write true or false."
    return ""


def _shown(node: Node) -> str:
    """Show a value as the user wrote it, shortened."""
    if isinstance(node.value, dict | list):
        return "a mapping" if isinstance(node.value, dict) else "a list"
    if node.value is None:
        return "null" if node.text else "nothing"
    text = (node.text if len(node.text) <= MAX_SHOWN else node.text[:MAX_SHOWN] + "...").replace("\n", "\\n")
    if isinstance(node.value, str):
        return f'"{text}"'
    return f"the boolean {text}" if isinstance(node.value, bool) else text


def _advice(key: str, known: list[str], parent: Node) -> str:
    unused = [name for name in known if not isinstance(parent.value, dict) or name not in parent.value]
    return did_you_mean(key, unused) or (f" Known here: {', '.join(known)}." if known else "")


def _fields(model: type[BaseModel], loc: Iterable[str | int]) -> dict[str, list[Any]]:
    """What files may call each field of the model at a location, of several models where a union leaves it open."""
    models = filter(_is_model, _walk(model, loc)[0])
    return {name: _names(name, field) for found in models for name, field in found.model_fields.items()}


def _walk(model: type[BaseModel], loc: Iterable[str | int]) -> tuple[list[Any], tuple[str | int, ...]]:
    """Return the types that a location leads to, and the location without the tags of unions, which no file holds."""
    types, path = _members(model), ()
    for item in loc:
        tagged = [it for it in types if _is_model(it) and _is_tagged(it, item)] if len(types) > 1 else []
        if not tagged:
            path = (*path, item)
        types = tagged or [inner for it in types for inner in _inside(it, item)] or types  # or the name of a branch
    return types, path


def _members(annotation: Any) -> list[Any]:
    """Return what an annotation leaves open: the members of unions, without what `Annotated` adds."""
    if get_origin(annotation) is Annotated:
        return _members(get_args(annotation)[0])
    if get_origin(annotation) in (Union, UnionType):
        return [member for argument in get_args(annotation) for member in _members(argument)]
    return [annotation]


def _inside(annotation: Any, item: str | int) -> list[Any]:
    """Return the types of one item of a model, a list or a mapping."""
    if _is_model(annotation):
        fields = [field for name, field in annotation.model_fields.items() if item in _names(name, field)]
        return [member for field in fields for member in _members(field.annotation)]
    if get_origin(annotation) is dict:
        return _members(get_args(annotation)[1])
    return _members(get_args(annotation)[0]) if isinstance(item, int) and get_args(annotation) else []


def _names(name: str, field: FieldInfo) -> list[Any]:
    """What a file may call a field."""
    return field.validation_alias.choices if isinstance(field.validation_alias, AliasChoices) else [name]


def _is_model(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def _is_tagged(model: type[BaseModel], tag: str | int) -> bool:
    annotations = [field.annotation for field in model.model_fields.values()]
    return any(get_origin(it) is Literal and tag in get_args(it) for it in annotations)
