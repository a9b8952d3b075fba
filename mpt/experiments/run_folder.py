"""The folder of a run, or of the results of several: made once, whole, and found again by `--resume`."""

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from mpt.base.errors import ConfigError
from mpt.base.files import published_folder, write_durable

Resume = Literal["never", "auto", "must"]
"""Whether to go on with a run folder: no, it must not be there; if there is one; yes, it must be there."""


def open_run_folder(folder: Path, contents: Mapping[str, bytes], *, resume: Resume) -> None:
    """Make a run folder with what the run was given, or find the one that was made for the same run.

    Raises:
        ConfigError: It exists, or does not, against what `resume` says; it was made from something else; it cannot be
            made.
    """
    if not folder.is_dir() or not any(folder.iterdir()):
        if resume == "must":
            raise ConfigError(f"{folder}: nothing to resume, there is no such run. Start it with --resume auto or none")
        _publish(folder, contents)
        return
    if resume == "never":
        raise ConfigError(f"{folder}: this run folder exists. Continue it with --resume auto, or give another --out")
    if missing := [name for name in contents if not (folder / name).is_file()]:
        raise ConfigError(f"{folder}: nothing to resume, {', '.join(missing)} not found. Give another --out")
    if changed := [name for name, content in contents.items() if (folder / name).read_bytes() != content]:
        raise ConfigError(
            f"{folder}: cannot resume, this call differs from the one that made the folder in {', '.join(changed)}. "
            "Give the same settings, manifest and checkpoint, or another --out"
        )


def _publish(folder: Path, contents: Mapping[str, bytes]) -> None:
    """Make a run folder that has all of its contents from the moment it has its name."""
    try:
        if folder.is_dir():
            folder.rmdir()  # empty: whoever gave --out has made it
        with published_folder(folder) as temporary:
            for name, content in contents.items():
                write_durable(temporary / name, content)
    except OSError as error:
        reason = error.strerror or "File exists"
        raise ConfigError(f"{folder}: cannot make this folder: {reason}. Give another --out") from error


def make_folder(folder: Path) -> None:
    """Make a folder that a user named with --out.

    Raises:
        ConfigError: A file is in its way, or it may not be made there.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"{folder}: cannot make this folder: {error.strerror}. Give another --out") from error
