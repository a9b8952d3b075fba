"""Errors that a user can cause, and how several of them are reported at once.

Every message has five parts in one or two lines: where (file:line, field path or task), what is wrong, what was
expected, what was found and what to do. `mpt` and the pipelines print the message without a traceback and exit with
status 2; everything else is a bug and keeps its traceback.
"""

from collections.abc import Callable, Iterable, Sequence
from difflib import get_close_matches
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


class MptError(ValueError):
    """A user's input or environment is wrong.

    Args:
        problems: One message, or several that were found in one go. Control characters of the input are escaped, so
            that a label or a path cannot write to the terminal.

    Attributes:
        rank: The process that tells it, where several train together and they have agreed; None where they have not.
    """

    rank: int | None = None

    def __init__(self, problems: str | Sequence[str]) -> None:
        self.problems = [problems] if isinstance(problems, str) else list(problems)
        assert self.problems, "an error needs a message"
        super().__init__("\n".join(printable(problem) for problem in self.problems))


class ConfigError(MptError):
    """A run configuration is malformed or contradicts itself."""


class ManifestError(MptError):
    """A data manifest is malformed or contradicts itself."""


class DataError(MptError):
    """A data file does not hold what the manifest declares."""


class BackboneError(MptError):
    """A backbone cannot be loaded, or cannot be prompted."""


class CheckpointError(MptError):
    """A checkpoint is damaged, incomplete or was made for something else."""


class TrainingError(MptError):
    """Training cannot go on."""


class DivergedError(TrainingError):
    """A loss or a gradient is not finite: the same on every rank."""


class LaunchError(MptError):
    """The processes of a run do not fit together, or have lost each other."""


class PeerError(Exception):
    """Another rank has failed, and tells it itself; `status` is its exit status."""

    def __init__(self, rank: int, told: str, status: int) -> None:
        self.rank, self.status = rank, status
        super().__init__(f"rank {rank} failed: {told}")


class Preempted(Exception):
    """Training ended for a signal (its number), after some steps and with everything saved."""

    def __init__(self, step: int, signal: int) -> None:
        self.step, self.signal = step, signal
        super().__init__(f"stopped by signal {signal} after step {step}")


def merged(errors: Sequence[MptError]) -> MptError:
    """Join several errors into one that lists all their problems, each once."""
    problems = list(dict.fromkeys(problem for error in errors for problem in error.problems))
    return (type(errors[0]) if len(set(map(type, errors))) == 1 else DataError)(problems)


def placed(error: MptError, place: str) -> DataError:
    """Put a place in front of every problem; "" is none."""
    return DataError([f"{place}: {problem}" if place else problem for problem in error.problems])


def every(work: Callable[[Item], Result], items: Iterable[Item]) -> list[Result]:
    """`work` of every item, in order; all are tried, and what is wrong with any of them is raised at once."""
    results: list[Result] = []
    errors: list[MptError] = []
    for item in items:
        try:
            results.append(work(item))
        except MptError as error:
            errors.append(error)
    if errors:
        raise merged(errors)
    return results


def printable(text: str) -> str:
    """Escape control characters other than line feed, so that data cannot steer a terminal."""
    return "".join(char if char == "\n" or char.isprintable() else repr(char)[1:-1] for char in text)


def first_line(error: Exception) -> str:
    """What an error of a library says first, or what it is when it says nothing."""
    return next(iter(str(error).splitlines()), type(error).__name__)


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return ` Did you mean "x"?` for the nearest known word, or nothing when none is near."""
    nearest = get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f' Did you mean "{nearest[0]}"?' if nearest else ""
