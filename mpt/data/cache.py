"""Tasks as word pieces on disk: a text is read and tokenised once, whatever the number of runs over it.

An entry is one task. It is a function of the task's files (their SHA-256), of its declaration, of the tokenizer and of
the code that reads and tokenises, so nothing has to be emptied when one of them changes. What a run holds of it is
mapped into memory: pages that training touches, shared by the processes of a machine.

Of a streamed task every file of train is an entry by itself, opened when its turn comes: nothing but the size of a file
limits how much is held at once, so a task may have any number of files.
"""

import hashlib
import json
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, is_dataclass, replace
from functools import cache, partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int
from safetensors import safe_open
from safetensors.numpy import save

from mpt.base.disk_cache import DiskCache
from mpt.base.errors import DataError, every
from mpt.base.files import write_durable
from mpt.data.encoded import EncodedTask, Shards, ShardSize, encode_task, size_of
from mpt.data.families.tokenization import WordPieces
from mpt.data.manifest.files import find_files
from mpt.data.manifest.reading import Manifest
from mpt.data.manifest.source_spec import Files
from mpt.data.manifest.task_spec import SPLITS, Split, TaskSpec
from mpt.data.tasks import Task, chosen_names, load_task, task_files
from mpt.data.windows import EncodedSplit, Passages, Places

TEXT = "text.safetensors"
FACTS = "facts"
UNREAD = {"license", "citation", "sha256", "enabled", "shots", "max_epochs", "rate", "loss_weight"}
UNREAD |= {"max_answer", "no_answer_above"}
"""Fields of a declaration that change nothing of what is read."""

NOTICES_SHOWN = 5  # of a streamed task, which may have thousands of files

Read = Callable[[Manifest, str, Sequence[Split]], tuple[EncodedTask, list[str]]]
"""Reads and encodes splits of a task, or finds them in the cache."""

_Arrays = dict[str, Int[np.ndarray, " n"]]


def text_cache(folder: Path, max_bytes: int) -> DiskCache:
    """The cache of this kind in a folder."""
    return DiskCache(
        folder=folder,
        max_bytes=max_bytes,
        name="text cache",
        content="a task's word pieces",
        instead="every start reads and tokenises the text anew",
        setting="backbone.text_cache_gib",
    )


def read_tasks(
    manifest: Manifest,
    word_pieces: WordPieces,
    *,
    names: Sequence[str] | None = None,
    splits: Sequence[Split] = ("train", "dev"),
    kept: DiskCache | None = None,
) -> tuple[list[EncodedTask], list[str]]:
    """Load tasks of a manifest as word pieces, one after the other: only one is ever held as sentences.

    Where tasks are `kept`, they are tokenised once. See `mpt.data.tasks.load_tasks` for all else.

    Raises:
        MptError: With the problems of all tasks and all files.
    """
    how = {} if kept is None else _how(word_pieces)

    def encoded(manifest: Manifest, name: str, splits: Sequence[Split]) -> tuple[EncodedTask, list[str]]:
        task, notices = load_task(manifest, name, splits=splits)
        encoded, said = encode_task(task, word_pieces)
        return encoded, notices + said

    def read_from(manifest: Manifest, name: str, splits: Sequence[Split]) -> tuple[EncodedTask, list[str]]:
        read = encoded if kept is None else partial(_kept, encoded=encoded, kept=kept, how=how)
        return read(manifest, name, splits)

    def read(name: str) -> tuple[EncodedTask, list[str]]:
        if manifest.spec(name).streamed:
            return _streamed(manifest, name, splits, read_from)
        return read_from(manifest, name, splits)

    found = every(read, chosen_names(manifest, names))
    return [task for task, _ in found], list(dict.fromkeys(notice for _, said in found for notice in said))


def _streamed(manifest: Manifest, name: str, splits: Sequence[Split], read: Read) -> tuple[EncodedTask, list[str]]:
    """A streamed task: each file of train is read once, alone, to know what is in it; other splits are held."""

    def alone(paths: Sequence[str]) -> tuple[EncodedTask, list[str]]:
        """Some files as if they were all of the task's train."""
        spec = manifest.spec(name).model_copy(update={"files": Files(train=tuple(paths)), "streamed": False})
        return read(replace(manifest, tasks={name: spec}), name, ["train"])

    def measured(path: str) -> tuple[Task, ShardSize, list[str]]:
        encoded, said = alone([path])
        return encoded.task, size_of(encoded.splits["train"]), said

    def opened(number: int) -> EncodedSplit:
        again, _ = alone([shards[number]])
        if again.task.digests != {shards[number]: digests[shards[number]]}:
            raise DataError(
                f"{manifest.root / shards[number]}: the file has changed since the run began. Put the old one back and "
                "go on with --resume auto, or start a new run"
            )
        return again.splits["train"]

    files = find_files(manifest, name, ["train", *(split for split in splits if split != "train")])
    shards = list(files.pop("train"))
    found = every(measured, shards)
    notices = [notice for *_, said in found for notice in said]
    if len(notices) > NOTICES_SHOWN:
        notices = [*notices[:NOTICES_SHOWN], f"{name}: ... and {len(notices) - NOTICES_SHOWN:,} more notices of files."]
    others = every(lambda split: alone(list(files[split])), list(files))
    tasks = [task for task, *_ in found] + [other.task for other, _ in others]
    digests = {path: digest for task in tasks for path, digest in task.digests.items()}
    held: dict[Split, EncodedSplit] = {
        split: other.splits["train"] for split, (other, _) in zip(files, others, strict=True)
    }
    task = replace(tasks[0], spec=manifest.spec(name), digests=digests)
    encoded = EncodedTask(task=task, splits=held, shards=Shards([size for _, size, _ in found], opened))
    return encoded, notices + [notice for _, said in others for notice in said]


def _kept(
    manifest: Manifest, name: str, splits: Sequence[Split], encoded: Read, kept: DiskCache, how: Mapping[str, Any]
) -> tuple[EncodedTask, list[str]]:
    """The task of an entry, made now if need be."""
    _, digests = task_files(manifest, name, splits)
    # The root is part of it because places and notices name files.
    about = {
        **how,
        "task": name,
        "root": str(manifest.root),
        "spec": manifest.spec(name).model_dump(mode="json", exclude=UNREAD),
        "splits": [split for split in SPLITS if split in splits],
        "files": [list(pair) for pair in digests.items()],
    }
    read = partial(_read, name=name, spec=manifest.spec(name), digests=digests)
    found, troubles = kept.find(about, read)
    if found is not None:
        return found[0], found[1] + troubles
    task, notices = encoded(manifest, name, splits)
    if task_files(manifest, name, splits)[1] == digests:  # nobody wrote to a file since it was hashed
        content = _content(task, notices)
        entry, said = kept.add(about, len(content), lambda folder: write_durable(folder / TEXT, content), read)
        troubles += said
        if entry is not None:
            task = entry[0]
    return task, [*notices, *troubles]


def _how(word_pieces: WordPieces) -> dict[str, Any]:
    """What the word pieces of every task are a function of, beside the task."""
    tokenizer, settings = word_pieces.tokenizer, [field.name for field in fields(word_pieces)]
    return {
        "code_sha256": _code_digest(),
        "python": platform.python_version(),
        "versions": {package: version(package) for package in ("tokenizers", "datasets")},
        "tokenizer_sha256": hashlib.sha256(tokenizer.to_str().encode()).hexdigest(),
        "encode_special_tokens": tokenizer.encode_special_tokens,
        "word_pieces": {name: getattr(word_pieces, name) for name in settings if name != "tokenizer"},
    }


@cache
def _code_digest() -> str:
    """SHA-256 of the modules beside and below: a correction of a reader must not meet what it would not have read."""
    digest = hashlib.sha256()
    here = Path(__file__).parent
    for path in sorted(here.rglob("*.py")):
        digest.update(path.relative_to(here).as_posix().encode() + b"\0" + hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def _content(task: EncodedTask, notices: Sequence[str]) -> bytes:
    """A task's arrays as a safetensors file; what else there is to know as one more, the bytes of a JSON document."""
    arrays: _Arrays = {}
    splits = {name: _taken_apart(split, name, arrays) for name, split in task.splits.items()}
    facts = {"labels": task.task.labels, "notices": notices, "splits": splits}
    return save(arrays | {FACTS: np.frombuffer(json.dumps(facts).encode(), dtype=np.uint8)})


def _taken_apart(value: Any, name: str, arrays: _Arrays) -> Any:
    """A value less its arrays, which go to the others under the names of their fields."""
    if is_dataclass(value):
        return {it.name: _taken_apart(getattr(value, it.name), f"{name}.{it.name}", arrays) for it in fields(value)}
    if not isinstance(value, np.ndarray):
        return value
    arrays[name] = value
    return None


def _read(folder: Path, *, name: str, spec: TaskSpec, digests: dict[str, str]) -> tuple[EncodedTask, list[str]]:
    """Map an entry's arrays, which the file's tensors share their memory with."""
    with safe_open(folder / TEXT, framework="pt") as file:
        arrays: _Arrays = {key: file.get_tensor(key).numpy() for key in file.keys()}  # noqa: SIM118 (no mapping)
    facts = json.loads(arrays[FACTS].tobytes())
    task = Task(name=name, spec=spec, labels=tuple(facts["labels"]), digests=digests)
    splits = {split: _split(told, split, arrays) for split, told in facts["splits"].items()}
    return EncodedTask(task=task, splits=splits), facts["notices"]


def _split(told: dict[str, Any], name: str, arrays: _Arrays) -> EncodedSplit:
    places, passages = (_fields(told[part], f"{name}.{part}", arrays) for part in ("places", "passages"))
    told |= {"places": Places(**places), "passages": Passages(**passages) if passages else None}
    return EncodedSplit(**_fields(told, name, arrays))


def _fields(told: Mapping[str, Any] | None, name: str, arrays: _Arrays) -> dict[str, Any]:
    """What `_taken_apart` made of an object, with its arrays; nothing of nothing."""
    return {field: arrays.get(f"{name}.{field}", _frozen(value)) for field, value in (told or {}).items()}


def _frozen(value: Any) -> Any:
    """Lists of a JSON document as tuples."""
    return tuple(map(_frozen, value)) if isinstance(value, list) else value
