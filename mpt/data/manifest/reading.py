"""Manifests: a strict YAML file that declares tasks and how they are mixed.

Every problem of the file is reported at once, with its position. Reading a manifest touches no data file; the files
are found, hashed and read when a task is loaded (`mpt.data.tasks`).
"""

import hashlib
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from mpt.base.errors import ManifestError, did_you_mean
from mpt.base.strict_yaml import FieldErrors, Settings, build
from mpt.base.yaml_tree import Document, Node, read_document
from mpt.data.families.family import FAMILIES
from mpt.data.formats.source import SPAN_FORMATS
from mpt.data.manifest.meaning import has_meaning
from mpt.data.manifest.task_spec import Mixture, Name, TaskName, TaskSpec

_UNHASHED = {"license", "citation", "enabled"}  # they change no number


class _File(Settings):
    """The whole file, defaults already merged into the tasks."""

    version: Literal[1]
    name: Name
    root: str = "."
    tasks: Annotated[dict[TaskName, TaskSpec], Field(min_length=1)]
    mixture: Mixture = Field(default_factory=Mixture)

    @model_validator(mode="after")
    def _rates(self) -> Self:
        explicit = self.mixture.strategy == "explicit"
        problems = {}
        for name, task in self.tasks.items():
            if explicit and task.enabled and task.rate is None:
                problems[f"tasks.{name}.rate"] = "strategy explicit needs a rate for every task. Add it."
            elif not explicit and task.rate is not None:
                problems[f"tasks.{name}.rate"] = f"has no meaning with strategy {self.mixture.strategy}; use explicit."
        if not any(task.enabled for task in self.tasks.values()):
            problems["tasks"] = "every task has enabled: false; a mixture needs at least one."
        if not explicit and self.mixture.strategy != "temperature" and "temperature" in self.mixture.model_fields_set:
            problems["mixture.temperature"] = f"has no meaning with strategy {self.mixture.strategy}. Remove it."
        if problems:
            raise FieldErrors(problems)
        return self


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """A manifest that holds what it must.

    Attributes:
        path: The file it was read from.
        name: Its name.
        root: Absolute folder below which all data files lie, symbolic links resolved.
        tasks: Enabled tasks by name, in the file's order.
        disabled: Names of the tasks with `enabled: false`.
        mixture: How often each task is drawn.
    """

    path: Path
    name: str
    root: Path
    tasks: Mapping[str, TaskSpec]
    disabled: tuple[str, ...]
    mixture: Mixture
    document: Document = field(repr=False, compare=False)

    def locate(self, *path: str) -> str:
        """Return `file:line:column: dotted.path` of a field, for messages."""
        return self.document.root.locate(*path)

    def resolved(self) -> dict[str, Any]:
        """What the manifest says once defaults are filled in, less what changes no number (root, licences)."""
        return self._said(exclude_defaults=False)

    def _said(self, *, exclude_defaults: bool) -> dict[str, Any]:
        tasks = {
            name: spec.model_dump(mode="json", exclude=_UNHASHED, exclude_defaults=exclude_defaults)
            for name, spec in self.tasks.items()
        }
        mixture = self.mixture.model_dump(mode="json", exclude_defaults=exclude_defaults)
        return {"version": 1, "name": self.name, "tasks": tasks, "mixture": mixture}

    @property
    def digest(self) -> str:
        """SHA-256 of what differs from the defaults.

        Equal on every machine, wherever the data lie, however the file is laid out, and whatever fields come later.
        """
        content = json.dumps(self._said(exclude_defaults=True), ensure_ascii=True, separators=(",", ":"))
        return hashlib.sha256(content.encode()).hexdigest()

    def spec(self, name: str) -> TaskSpec:
        """Return one task's declaration.

        Raises:
            ManifestError: No such task, or it is disabled.
        """
        if name in self.tasks:
            return self.tasks[name]
        if name in self.disabled:
            raise ManifestError(f"{self.locate('tasks', name)}: the task is disabled. Remove enabled: false to use it.")
        known = ", ".join(self.tasks)
        raise ManifestError(f'{self.path}: no task "{name}". It has: {known}.{did_you_mean(name, self.tasks)}')


def load_manifest(path: Path) -> Manifest:
    """Read and check a manifest.

    Raises:
        ManifestError: With every problem of the file, each at `file:line:column: dotted.path`.
    """
    document = read_document(path, error=ManifestError, kind="manifest")
    document = _with_version_checked(document)
    root = _resolve_root(path, document)
    document = _with_defaults(document)
    content = build(document, _File, error=ManifestError)
    assert root is not None, "a wrong root is a problem that build() raises"
    return Manifest(
        path=path,
        name=content.name,
        root=root,
        tasks={name: task for name, task in content.tasks.items() if task.enabled},
        disabled=tuple(name for name, task in content.tasks.items() if not task.enabled),
        mixture=content.mixture,
        document=document,
    )


def _with_version_checked(document: Document) -> Document:
    """Stop at a manifest of another version: its other problems would only mislead."""
    version = document.root.child("version")
    if version is not None and version.value != 1 and isinstance(version.value, int | float):
        text = f"version {version.text} is not supported by this mpt (knows: 1). Upgrade mpt or write version: 1."
        raise ManifestError(f"{version.location}: {text}")
    return document


def _resolve_root(path: Path, document: Document) -> Path | None:
    """Return the data folder; a problem is noted in the document."""
    node = document.root.child("root")
    text = "." if node is None else node.value
    if not isinstance(text, str):
        return None  # the schema reports it
    where = str(path) if node is None else node.location
    variables = re.findall(r"\$\{(\w+)(:-[^}]*)?\}", text)
    unset = [name for name, default in variables if not default and name not in os.environ]
    if unset:
        document.problems.append(f"{where}: the environment variable {unset[0]} is not set. Set it to the data folder.")
        return None
    expanded = re.sub(r"\$\{(\w+)(?::-([^}]*))?\}", lambda it: os.environ.get(it[1]) or it[2] or "", text)
    root = (path.parent / expanded).resolve()
    if not root.is_dir():
        document.problems.append(f'{where}: root "{expanded}" is no folder (resolved to {root}). Correct it.')
        return None
    return root


def _with_defaults(document: Document) -> Document:
    """Give every task the fields of `defaults` that it does not set itself and that have a meaning for it.

    The merged values keep their place in the file, so that a wrong default is reported once, where it stands.
    """
    root = document.root
    assert isinstance(root.value, dict), "read_document() checks it"
    children = {key: child for key, child in root.value.items() if key != "defaults"}
    defaults, tasks = root.child("defaults"), root.child("tasks")
    if defaults is None:
        return document
    if not isinstance(defaults.value, dict):
        document.problems.append(f"{defaults.location}: expected a mapping of task fields.")
    else:
        document.problems.extend(_default_problems(defaults))
        if tasks is not None and isinstance(tasks.value, dict):
            merged = {name: _merged(task, defaults) for name, task in tasks.value.items()}
            children["tasks"] = replace(tasks, value=merged)
    return Document(root=replace(root, value=children), problems=document.problems)


def _default_problems(defaults: Node) -> list[str]:
    assert isinstance(defaults.value, dict), defaults
    never = {"files", "hub", "sha256", "citation"}
    known = [name for name in TaskSpec.model_fields if name not in never]
    return [
        f"{defaults.keys[key]}: {defaults.path}.{key}: belongs to one task and has no default. Move it there."
        if key in never
        else f'{defaults.keys[key]}: {defaults.path}.{key}: "{key}" is not a task field.{did_you_mean(key, known)}'
        for key in defaults.value
        if key not in known
    ]


def _merged(task: Node, defaults: Node) -> Node:
    if not isinstance(task.value, dict):
        return task
    assert isinstance(defaults.value, dict), defaults
    inherited = {key: child for key, child in defaults.value.items() if _applies(key, task, defaults)}
    keys = {**defaults.keys, **task.keys}
    return replace(task, value={**inherited, **task.value}, keys=keys)


def _applies(key: str, task: Node, defaults: Node) -> bool:
    """Tell whether a default has a meaning for a task; a field that the task sets itself is its own affair."""
    if key not in TaskSpec.model_fields:
        return False  # reported once, for the defaults themselves

    def said(name: str, otherwise: str = "") -> Any:
        node = task.child(name) or defaults.child(name)
        return node.value if node is not None else otherwise

    form, family = said("format", "conll"), said("family")
    kind = FAMILIES.get(family)
    if kind is None:
        return True  # reported for the family
    if not has_meaning(key, kind, form) or (key == "scheme" and not (kind.spans and form not in SPAN_FORMATS)):
        return False
    source = task.child("files") or task.child("hub")
    own = {"dev_fraction": ("dev",), "test_fraction": ("test",), "dev_by": ("dev", "test")}.get(key, ())
    return source is None or not own or any(source.child(split) is None for split in own)
