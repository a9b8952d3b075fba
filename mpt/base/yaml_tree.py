"""YAML as a tree of values that know where they stand, before anything is checked against a schema.

Only the YAML 1.2 core schema: `no` is text, `010` is ten, `3e-2` is a number. Duplicate keys, tags, merge keys, several
documents, tabs, bytes that are not UTF-8, oversized files and aliases that unfold without end are errors.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NoReturn

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.events import AliasEvent, DocumentStartEvent, Event, NodeEvent, ScalarEvent, SequenceStartEvent

from mpt.base.errors import MptError, did_you_mean

MAX_BYTES = 4 * 2**20
MAX_VALUES = 100_000  # after expanding aliases: a small file must not unfold into gigabytes
MAX_DEPTH = 32

# The plain scalars of the YAML 1.2 core schema, https://yaml.org/spec/1.2.2/#1032-tag-resolution
_NULL = re.compile(r"(?:null|Null|NULL|~|)")
_BOOL = re.compile(r"(?:true|True|TRUE|false|False|FALSE)")
_INT = re.compile(r"[-+]?[0-9]{1,40}")
_BASED_INT = re.compile(r"0o[0-7]{1,40}|0x[0-9a-fA-F]{1,40}")
_FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?")
_SPECIAL_FLOAT = re.compile(r"[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)")

Scalar = None | bool | int | float | str


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """A value of a YAML file and where it stands.

    Attributes:
        value: A scalar, or the children of a list or of a mapping.
        where: `file:line:column` counted from 1, or `--set key` for an override.
        path: Dotted path of the value inside the file.
        text: A scalar as it was written.
        plain: True for a scalar without quotes.
        keys: Where each key of a mapping stands.
        size: Number of values in it, itself included, aliases expanded.
    """

    value: "Scalar | list[Node] | dict[str, Node]"
    where: str
    path: str
    text: str = ""
    plain: bool = False
    keys: dict[str, str] = field(default_factory=dict)
    size: int = 1

    @property
    def location(self) -> str:
        """`where: path`, for the start of a message."""
        said = not self.path or self.where == f"--set {self.path}"
        return self.where if said else f"{self.where}: {self.path}"

    def child(self, item: str | int) -> "Node | None":
        """Return one item of a mapping or of a list; None when there is none."""
        if isinstance(self.value, dict):
            return self.value.get(str(item))
        if isinstance(self.value, list) and isinstance(item, int) and item < len(self.value):
            return self.value[item]
        return None

    def locate(self, *path: str) -> str:
        """Return `where: path` of a value below this one, or of where it belongs when it is missing."""
        node = self
        for depth, key in enumerate(path):
            child = node.child(key)
            if child is None:
                return f"{node.where}: {'.'.join(filter(None, [node.path, *path[depth:]]))}"
            node = child
        return node.location


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """A file that is YAML, with the problems that were found so far."""

    root: Node
    problems: list[str]


def read_document(
    path: Path | None, *, error: type[MptError], overrides: Sequence[str] = (), kind: str = "configuration"
) -> Document:
    """Read a YAML file (None: an empty mapping) into a tree of values; `error` is raised when it is no YAML at all."""
    root, problems = Node(value={}, where=f"no {kind} file", path=""), []
    if path is not None:
        reader = _Reader(_read_text(path, error=error, kind=kind), name=str(path), error=error, kind=kind)
        root, problems = reader.document(), reader.problems
    if not isinstance(root.value, dict):
        raise error(f"{root.where}: a {kind} is a mapping of names to values, this is {_kind_of(root)}.")
    for override in overrides:
        root = _override(root, override, error=error, problems=problems)
    return Document(root=root, problems=problems)


def _read_text(path: Path, *, error: type[MptError], kind: str) -> str:
    try:
        with path.open("rb") as stream:
            content = stream.read(MAX_BYTES + 1)
    except FileNotFoundError:
        siblings = [str(path.parent / it.name) for it in path.parent.glob("*.y*ml")]
        raise error(f"{path}: {kind} not found.{did_you_mean(str(path), siblings)}") from None
    except OSError as problem:
        raise error(f"{path}: cannot read the {kind}: {problem.strerror}.") from None
    if len(content) > MAX_BYTES:
        raise error(f"{path}: larger than {MAX_BYTES // 2**20} MiB; a {kind} is small. Is this the right file?")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as problem:
        line = content.count(b"\n", 0, problem.start) + 1
        byte = content[problem.start]
        raise error(f"{path}:{line}: byte 0x{byte:02x} is not UTF-8. Save the {kind} as UTF-8.") from None


class _Reader:
    """Turns the events of the YAML parser into a tree, and notes what is not allowed."""

    def __init__(self, text: str, *, name: str, error: type[MptError], kind: str, root: str = "") -> None:
        self.name, self.error, self.kind, self.root = name, error, kind, root
        self.problems: list[str] = []
        self.anchors: dict[str, Node] = {}
        self.events = self._parse(text)

    def _parse(self, text: str) -> list[Event]:
        try:
            return list(YAML(typ="rt", pure=True).parse(text))
        except MarkedYAMLError as problem:
            mark = problem.problem_mark or problem.context_mark
            self._fail(self._at(mark), _syntax(f"{problem.problem}"))
        except YAMLError as problem:
            self._fail(self.name, f"not YAML: {str(problem).splitlines()[0]}.")

    def _fail(self, where: str, text: str) -> NoReturn:
        raise self.error(f"{where}: {text}")

    def _at(self, mark: Any) -> str:
        if self.root:  # an override: there is no file to point into
            return self.name
        return self.name if mark is None else f"{self.name}:{mark.line + 1}:{mark.column + 1}"

    def document(self) -> Node:
        """Read the one document that the file must hold."""
        starts = [event for event in self.events if isinstance(event, DocumentStartEvent)]
        if not starts:
            self._fail(self.name, f"the {self.kind} is empty.")
        if len(starts) > 1:
            self._fail(self._at(starts[1].start_mark), f"a second document starts here; a {self.kind} holds one.")
        if starts[0].version or starts[0].tags:
            self._fail(self._at(starts[0].start_mark), "YAML directives (%YAML, %TAG) are not supported; remove them.")
        stream = iter(self.events[2:])
        return self._node(next(stream), stream, self.root, 0)

    def _node(self, event: Event, stream: Iterator[Event], path: str, depth: int) -> Node:
        where = self._at(event.start_mark)
        assert isinstance(event, NodeEvent), event
        if isinstance(event, AliasEvent):
            if event.anchor not in self.anchors:
                self._fail(where, f"alias *{event.anchor} has no anchor &{event.anchor} before it.")
            return self.anchors[event.anchor]
        if depth > MAX_DEPTH:
            self._fail(where, f"nested more than {MAX_DEPTH} levels deep.")
        tag = getattr(event, "tag", None)
        if tag is not None:
            self.problems.append(f"{where}: {path}: tag {tag} is not allowed. Remove it; quote text that needs it.")
        if isinstance(event, ScalarEvent):
            node = self._scalar(event, where, path)
        else:
            read = self._list if isinstance(event, SequenceStartEvent) else self._mapping
            node = read(stream, where, path, depth)
        if node.size > MAX_VALUES:
            self._fail(where, f"more than {MAX_VALUES} values once aliases are expanded.")
        if event.anchor:
            self.anchors[event.anchor] = node
        return node

    def _scalar(self, event: ScalarEvent, where: str, path: str) -> Node:
        plain = event.style is None
        if any("\ud800" <= char <= "\udfff" for char in event.value):
            self._fail(where, "holds half of a surrogate pair. Write the character itself.")
        value = core_scalar(event.value) if plain else event.value
        return Node(value=value, where=where, path=path, text=event.value, plain=plain)

    def _list(self, stream: Iterator[Event], where: str, path: str, depth: int) -> Node:
        items: list[Node] = []
        for event in _until_end(stream):
            items.append(self._node(event, stream, f"{path}[{len(items)}]", depth + 1))
        return Node(value=items, where=where, path=path, size=1 + sum(item.size for item in items))

    def _mapping(self, stream: Iterator[Event], where: str, path: str, depth: int) -> Node:
        children, keys = dict[str, Node](), dict[str, str]()
        for event in _until_end(stream):
            key, at = self._key(event, stream, depth)
            child_path = f"{path}.{key}" if path else key
            child = self._node(next(stream), stream, child_path, depth + 1)
            if key in keys:
                self.problems.append(f"{at}: {child_path}: defined twice, first at {keys[key]}. Keep one.")
            else:
                children[key], keys[key] = child, at
        size = 1 + sum(child.size for child in children.values())
        return Node(value=children, where=where, path=path, keys=keys, size=size)

    def _key(self, event: Event, stream: Iterator[Event], depth: int) -> tuple[str, str]:
        node = self._node(event, stream, "", depth + 1)
        if isinstance(node.value, dict | list):
            self._fail(node.where, f"a key must be text, this is {_kind_of(node)}.")
        if not isinstance(node.value, str):
            told = f'key {node.text} is {_kind_of(node)}, not text. Quote it: "{node.text}".'
            self.problems.append(f"{node.where}: {told}")
        if node.plain and node.value == "<<":
            self._fail(node.where, "merge keys (<<) are not YAML 1.2. Write the fields out.")
        return node.text, node.where


def _until_end(stream: Iterator[Event]) -> Iterator[Event]:
    """Yield the events that start the children of a list or mapping; the children consume their own."""
    for event in stream:
        if not isinstance(event, NodeEvent):
            return  # the end of the list or mapping
        yield event


def core_scalar(text: str) -> Scalar:
    """Return what a plain scalar means in the YAML 1.2 core schema."""
    if _NULL.fullmatch(text):
        return None
    if _BOOL.fullmatch(text):
        return text.lower() == "true"
    if _INT.fullmatch(text):
        return int(text)
    if _BASED_INT.fullmatch(text):
        return int(text, 0)
    if _FLOAT.fullmatch(text):
        return float(text)
    if _SPECIAL_FLOAT.fullmatch(text):
        return float(text.replace(".", "", 1))
    return text


def _syntax(problem: str) -> str:
    if "'\\t'" in problem:
        return "a tab cannot indent or separate in YAML. Use spaces."
    if "mapping values are not allowed" in problem:
        return 'not YAML: a second ": " in one line, or wrong indentation. Quote text that holds ": ".'
    return f"not YAML: {problem}. Check quotes, brackets and indentation here and in the line before."


def _kind_of(node: Node) -> str:
    names = {dict: "a mapping", list: "a list", str: "text", bool: "true or false", type(None): "null"}
    return names.get(type(node.value), "a number")


def _override(root: Node, override: str, *, error: type[MptError], problems: list[str]) -> Node:
    """Return the tree with one `dotted.path=value` assignment made."""
    path, equals, text = override.partition("=")
    path = path.strip()
    if not equals or not all(path.split(".")):
        example = "for example --set optimizer.learning_rate=3e-2"
        problems.append(f"--set {override}: expected dotted.path=value, {example}.")
        return root
    if not text.strip():
        problems.append(f'--set {path}: the value is missing. Write {path}=null or {path}="" if that is meant.')
        return root
    try:
        reader = _Reader(text, name=f"--set {path}", error=error, kind="value", root=path)
        value = reader.document()
    except error as problem:
        problems += problem.problems
        return root
    problems += reader.problems
    return _assign(root, path.split("."), value, problems)


def _assign(node: Node, keys: list[str], value: Node, problems: list[str]) -> Node:
    if not keys:
        return value
    if not isinstance(node.value, dict):
        told = f"{node.path} is {_kind_of(node)}, it has no {keys[0]}. Set {node.path} as a whole."
        problems.append(f"{value.where}: {told}")
        return node
    path = f"{node.path}.{keys[0]}" if node.path else keys[0]
    child = node.value.get(keys[0], Node(value={}, where=value.where, path=path))
    children = {**node.value, keys[0]: _assign(child, keys[1:], value, problems)}
    where = value.where if len(keys) == 1 else node.keys.get(keys[0], value.where)
    return replace(node, value=children, keys={**node.keys, keys[0]: where})
