"""Data files of a task: found below the manifest's root and nowhere else, and identified by their SHA-256."""

import hashlib
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from itertools import islice
from pathlib import Path

from mpt.base.errors import DataError, ManifestError
from mpt.data.manifest.reading import Manifest
from mpt.data.manifest.task_spec import Split

_MAX_CANDIDATES = 5000  # files that are looked at for a suggestion


def find_files(manifest: Manifest, name: str, splits: Sequence[Split]) -> dict[Split, dict[str, Path]]:
    """Find the files of some splits of a task that has files.

    Returns:
        For each split its files in declared order, those of a glob sorted: path relative to root, with "/", to path.
        A split without files is left out.

    Raises:
        ManifestError: A file that does not exist or lies outside root, a glob without a match, or a file that occurs
            twice. Lists every problem.
    """
    files = manifest.spec(name).files
    assert files is not None, f"task {name} reads from the Hub"
    problems: list[str] = []
    found: dict[Split, dict[str, Path]] = {}
    owners: dict[Path, str] = {}
    for split in splits:
        entries: tuple[str, ...] = getattr(files, split)
        where = manifest.locate("tasks", name, "files", split)
        for entry in entries:
            for path in _matches(manifest, entry, where, problems):
                relative = path.relative_to(manifest.root).as_posix()
                if path in owners:
                    problems.append(f"{where}: {relative} is given twice, in {owners[path]} and {split}.")
                owners[path] = split
                found.setdefault(split, {})[relative] = path
    if problems:
        raise ManifestError(problems)
    return found


def verify_digests(manifest: Manifest, name: str, files: Mapping[Split, Mapping[str, Path]]) -> dict[str, str]:
    """Compute the SHA-256 of a task's files and hold it against the manifest, where that declares any.

    Returns:
        Relative path to 64 hex digits, in the order of the files.

    Raises:
        DataError: A file differs from its declared hash, or has none although others have. Lists every problem.
    """
    declared = manifest.spec(name).sha256
    where = manifest.locate("tasks", name, "sha256")
    digests: dict[str, str] = {}
    problems: list[str] = []
    for relative, path in (item for split in files.values() for item in split.items()):
        with path.open("rb") as stream:
            digest = digests[relative] = hashlib.file_digest(stream, "sha256").hexdigest()
        if not declared or declared.get(relative) == digest:
            continue
        if relative in declared:
            told = f"SHA-256 is {digest}, the manifest says {declared[relative]}: the data changed"
            problems.append(f"{path}: {told}. Get the declared version, or correct {where}.")
        else:
            problems.append(f"{where}: no hash for a file that the task reads. Add {relative}: {digest}")
    if problems:
        raise DataError(problems)
    return digests


def _matches(manifest: Manifest, entry: str, where: str, problems: list[str]) -> list[Path]:
    literal = manifest.root / entry
    if literal.exists() or not any(char in entry for char in "*?["):
        paths = [literal] if literal.is_file() else []
    else:
        paths = sorted(path for path in manifest.root.glob(entry) if path.is_file())
    if not paths:
        kind = "is a folder" if literal.is_dir() else "not found"
        problems.append(f'{where}: "{entry}" {kind} in {manifest.root}.{_nearby(manifest.root, entry)}')
    outside = [path for path in paths if not path.resolve().is_relative_to(manifest.root)]
    for path in outside:
        problems.append(f'{where}: "{entry}" is a link that leaves root ({path.resolve()}). Copy it, or move root.')
    return [path for path in paths if path not in outside]


def _nearby(root: Path, entry: str) -> str:
    """Suggest files with a similar path, first those of the same folder."""
    folder = (root / entry).parent
    around = folder if folder.is_dir() and folder != root else root
    known = [it.relative_to(root).as_posix() for it in islice(around.rglob("*"), _MAX_CANDIDATES) if it.is_file()]
    near = get_close_matches(entry, known, n=3, cutoff=0.75)
    return f" Nearby: {', '.join(near)}." if near else ""
