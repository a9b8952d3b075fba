"""Manifests: a strict YAML file that declares tasks and how they are mixed.

Every problem of the file is reported at once, with its position. Reading a manifest touches no data file; the files
are found, hashed and read when a task is loaded (`mpt.data.tasks`).
"""

import hashlib
import json
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from mpt.base.errors import ManifestError, did_you_mean
from mpt.base.strict_yaml import FieldErrors, Settings, build
from mpt.base.yaml_tree import Document, Node, read_document
from mpt.data.families.family import FAMILIES, FamilyName
from mpt.data.manifest.format_specs import DEFAULT_FORMAT, SPECS, AnySpec, nonsense
from mpt.data.manifest.task_spec import ORDER, Mixture, Name, TaskName, TaskSpec

_UNHASHED = {"license", "citation", "enabled"}  # they change no number


class _File(Settings):
    """The whole file, defaults already merged into the tasks."""

    version: Literal[1]
    name: Name
    root: str = "."
    tasks: Annotated[dict[TaskName, AnySpec], Field(min_length=1)]
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
    """A manifest that holds what it must."""

    path: Path  # the file it was read from
    name: str
    root: Path  # absolute, symbolic links resolved; all data files lie below it
    tasks: Mapping[str, TaskSpec]  # those that are enabled, in the file's order
    disabled: tuple[str, ...]  # names of the others
    mixture: Mixture
    document: Document = field(repr=False, compare=False)

    def locate(self, *path: str) -> str:
        """Return `file:line:column: dotted.path` of a field, for messages."""
        return self.document.root.locate(*path)

    def resolved(self, *, exclude_defaults: bool = False) -> dict[str, Any]:
        """What the manifest says, defaults filled in or left out, less what changes no number (root, licences)."""
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
        content = json.dumps(self.resolved(exclude_defaults=True), ensure_ascii=True, separators=(",", ":"))
        return hashlib.sha256(content.encode()).hexdigest()

    def spec(self, name: str) -> TaskSpec:
        """One task's declaration.

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
    _check_version(document)
    root = _resolve_root(path, document)
    document = _with_tasks(_with_defaults(document), lambda task: _sound(task, document.problems))
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


def _check_version(document: Document) -> None:
    """Stop at a manifest of another version: its other problems would only mislead."""
    version = document.root.child("version")
    if version is not None and version.value != 1 and isinstance(version.value, int | float):
        text = f"version {version.text} is not supported by this mpt (knows: 1). Upgrade mpt or write version: 1."
        raise ManifestError(f"{version.location}: {text}")


def _resolve_root(path: Path, document: Document) -> Path | None:
    """The data folder; a problem is noted in the document."""
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
    defaults = root.child("defaults")
    if defaults is None:
        return document
    without = replace(root, value={key: child for key, child in root.value.items() if key != "defaults"})
    document = replace(document, root=without)
    if not isinstance(defaults.value, dict):
        document.problems.append(f"{defaults.location}: expected a mapping of task fields.")
        return document
    document.problems.extend(_default_problems(defaults))
    return _with_tasks(document, lambda task: _merged(task, defaults))


def _with_tasks(document: Document, change: Callable[[Node], Node]) -> Document:
    """The document with every task changed that is a mapping; the schema reports others."""
    root, tasks = document.root, document.root.child("tasks")
    if tasks is None or not isinstance(tasks.value, dict) or not isinstance(root.value, dict):
        return document
    changed = {name: change(it) if isinstance(it.value, dict) else it for name, it in tasks.value.items()}
    return replace(document, root=replace(root, value={**root.value, "tasks": replace(tasks, value=changed)}))


def _default_problems(defaults: Node) -> list[str]:
    assert isinstance(defaults.value, dict)
    never = {"files", "hub", "sha256", "citation"}
    known = [name for name in ORDER if name not in never]
    return [
        f"{defaults.keys[key]}: {defaults.path}.{key}: belongs to one task and has no default. Move it there."
        if key in never
        else f'{defaults.keys[key]}: {defaults.path}.{key}: "{key}" is not a task field.{did_you_mean(key, known)}'
        for key in defaults.value
        if key not in known
    ]


def _merged(task: Node, defaults: Node) -> Node:
    assert isinstance(defaults.value, dict) and isinstance(task.value, dict)
    inherited = {key: child for key, child in defaults.value.items() if _applies(key, task, defaults)}
    return replace(task, value={**inherited, **task.value}, keys={**defaults.keys, **task.keys})


def _applies(key: str, task: Node, defaults: Node) -> bool:
    """Tell whether a default has a meaning for a task; a field that the task sets itself is its own affair."""
    if key not in ORDER:
        return False  # reported once, for the defaults themselves
    form, family = _kind_of(task, defaults)
    if family is None:
        return True  # reported for the family
    if form is not None and (key not in SPECS[form].model_fields or nonsense(key, family, form)):
        return False
    if key == "scheme" and not FAMILIES[family].spans:
        return False
    source = task.child("files") or task.child("hub")
    own = {"dev_fraction": ("dev",), "test_fraction": ("test",), "dev_by": ("dev", "test")}.get(key, ())
    return source is None or not own or any(source.child(split) is None for split in own)


def _kind_of(*nodes: Node) -> tuple[str | None, FamilyName | None]:
    """Format and family that the first of some nodes declares; None where there is none of this name."""
    form, family = (
        next((child.value for node in nodes if (child := node.child(name)) is not None), otherwise)
        for name, otherwise in (("format", DEFAULT_FORMAT), ("family", None))
    )
    return next((it for it in SPECS if it == form), None), next((it for it in FAMILIES if it == family), None)


def _sound(task: Node, problems: list[str]) -> Node:
    """The task with its format named, less fields that say nothing in it, each a problem where it stands."""
    assert isinstance(task.value, dict)
    form, family = _kind_of(task)
    kept = dict(task.value)
    for key, child in task.value.items():
        reason = nonsense(key, family, form) if family and form and key in ORDER else None
        if reason is not None:
            problems.append(f"{child.location}: {reason}")
        if reason is not None or (form and key in ORDER and key not in SPECS[form].model_fields):
            del kept[key]
    kept.setdefault("format", Node(value=DEFAULT_FORMAT, where=task.where, path=f"{task.path}.format"))
    return replace(task, value=kept)
