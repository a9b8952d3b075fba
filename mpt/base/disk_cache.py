"""What was computed before, kept on disk: named by what it is a function of, verified whenever it is used.

An entry is a folder of files. It is written elsewhere and renamed, so that several processes may share a cache and a
crash leaves nothing that is taken for an entry. A cache that cannot be used costs time, never a result.
"""

import hashlib
import json
import os
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from mpt.base.files import TEMPORARY, TRASH, published_folder, remove_folder, sha256_file, to_json, write_durable

ENTRY = "entry.json"
STALE_SECONDS = 24 * 3600  # a temporary folder older than this belongs to nobody

T = TypeVar("T")
About = Mapping[str, Any]
"""Everything that an entry's content is a function of, as JSON."""


def default_folder(kind: str) -> Path:
    """The folder of one kind of entries in `MPT_CACHE`, or in the user's cache folder."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("MPT_CACHE") or Path(base) / "mpt") / kind


@dataclass(frozen=True, slots=True, kw_only=True)
class DiskCache:
    """A bounded folder of entries of one kind.

    Attributes:
        folder: Where the entries are; made when it is missing.
        max_bytes: Size of all entries together; the longest unused make room for new ones.
        name, content, instead, setting: For notices: what the cache is called, what an entry is called in the plural,
            what happens without one, and the setting behind `max_bytes`.
    """

    folder: Path
    max_bytes: int
    name: str
    content: str
    instead: str
    setting: str

    def find(self, about: About, read: Callable[[Path], T]) -> tuple[T | None, list[str]]:
        """Look an entry up by what it is a function of, and open the files of its folder.

        Returns:
            What `read` made of it, or None when there is no such entry, it is damaged (then it is removed) or the cache
            cannot be used, and notices that say so.
        """
        path = self._path(about)
        try:
            if path.exists() and not _is_whole(path, about):
                _discard(path)
                return None, [f"{path}: this entry of the {self.name} is damaged; it is computed anew."]
            if not path.exists():
                return None, []
            os.utime(path / ENTRY)
            return read(path), []
        except OSError as error:
            return None, [self._unusable(error)]

    def add(
        self, about: About, size: int, write: Callable[[Path], None], read: Callable[[Path], T]
    ) -> tuple[T | None, list[str]]:
        """Make an entry of `size` bytes, whose files are written into a folder, flushed to disk and opened.

        Another process may be first, which is as good.

        Returns:
            What `read` made of it, or None when it cannot be kept, and notices that say why.
        """
        if size > self.max_bytes:
            many, few = (f"{value / 2**20:,.0f} MiB" for value in (size, self.max_bytes))
            told = (
                f"{self.content}, {many}, exceed the cache's {few}; {self.instead}. Raise {self.setting} to keep them."
            )
            return None, [f"{self.folder}: {told}"]
        path = self._path(about)
        try:
            self._make_room(size)
            _publish(path, about, write)
            return read(path), []
        except OSError as error:
            return None, [self._unusable(error)]

    def _path(self, about: About) -> Path:
        return self.folder / hashlib.sha256(to_json(about)).hexdigest()

    def _make_room(self, needed: int) -> None:
        """Remove what nobody writes any more, then the longest unused entries until the new one fits."""
        if not self.folder.is_dir():
            return
        entries: list[tuple[float, int, Path]] = []
        for path in self.folder.iterdir():
            with suppress(FileNotFoundError):  # another process has published or removed it meanwhile
                age = time.time() - path.stat().st_mtime
                if path.name.startswith((TEMPORARY, TRASH)):
                    if age > STALE_SECONDS:
                        remove_folder(path)
                elif (path / ENTRY).is_file():
                    size = sum(file.stat().st_size for file in path.iterdir())
                    entries.append(((path / ENTRY).stat().st_mtime, size, path))
        total = sum(size for _, size, _ in entries)
        for _, size, path in sorted(entries):
            if total + needed <= self.max_bytes:
                break
            _discard(path)
            total -= size

    def _unusable(self, error: OSError) -> str:
        return f"{self.folder}: the {self.name} cannot be used ({error.strerror or error}); {self.instead}."


def _discard(path: Path) -> None:
    """Remove an entry, unless another process was first."""
    with suppress(FileNotFoundError):
        remove_folder(path)


def _publish(path: Path, about: About, write: Callable[[Path], None]) -> None:
    try:
        with published_folder(path) as temporary:
            write(temporary)
            digests = {file.name: sha256_file(file) for file in sorted(temporary.iterdir())}
            write_durable(temporary / ENTRY, to_json({**about, "sha256": digests}))
    except OSError:
        if not path.exists():
            raise


def _is_whole(path: Path, about: About) -> bool:
    try:
        entry = json.loads((path / ENTRY).read_bytes())
    except (FileNotFoundError, ValueError):
        return False
    digests = entry.pop("sha256", None) if isinstance(entry, dict) else None
    if entry != json.loads(to_json(about)) or not isinstance(digests, dict):
        return False
    return all((path / name).is_file() and sha256_file(path / name) == digest for name, digest in digests.items())
