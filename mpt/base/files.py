"""Durable files: what is published is complete, on disk and identified by its SHA-256.

A folder is published in one rename: its files are written to a temporary folder beside the target, flushed to disk and
read back before the name appears. A reader therefore sees a whole folder or none.
"""

import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

TEMPORARY = ".tmp-"
TRASH = ".trash-"


def sha256_file(path: Path) -> str:
    """SHA-256 of a file's bytes, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_durable(path: Path, content: bytes) -> None:
    """Write a new file and flush it to disk."""
    with path.open("xb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def to_json(value: Any) -> bytes:
    """JSON as mpt writes it: readable, in the given order, no NaN."""
    return (json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode()


def replace_durable(path: Path, content: bytes) -> None:
    """Write a file so that readers see the old or the new content, never a part."""
    temporary = path.with_name(f"{TEMPORARY}{path.name}-{secrets.token_hex(4)}")
    try:
        write_durable(temporary, content)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    sync_folder(path.parent)


@contextmanager
def published_folder(target: Path) -> Iterator[Path]:
    """Fill the yielded folder; it becomes `target` when the block ends, and vanishes when it fails.

    Raises:
        FileExistsError: `target` exists; nothing published is ever overwritten.
    """
    if target.exists():
        raise FileExistsError(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f"{TEMPORARY}{target.name}-{secrets.token_hex(4)}")
    temporary.mkdir()
    try:
        yield temporary
        sync_folder(temporary)
        temporary.rename(target)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    sync_folder(target.parent)


def remove_folder(folder: Path) -> None:
    """Delete a published folder: it loses its name first, so that a half-deleted one is never listed."""
    trash = folder.with_name(f"{TRASH}{folder.name}-{secrets.token_hex(4)}")
    folder.rename(trash)
    shutil.rmtree(trash, ignore_errors=True)


def remove_leftovers(folder: Path) -> None:
    """Delete what a killed process left half written or half deleted in `folder`; nobody else may be writing there."""
    for leftover in [*folder.glob(f"{TEMPORARY}*"), *folder.glob(f"{TRASH}*")]:
        if leftover.is_dir():
            shutil.rmtree(leftover)
        else:
            leftover.unlink()


def sync_folder(folder: Path) -> None:
    """Flush a folder's list of names to disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
