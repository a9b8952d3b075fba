"""The command line: `mpt validate`, `pretrain`, `transfer`, `evaluate`, `predict` and `quickstart`.

A user's error is printed without a traceback and ends with status 2; an interrupt ends with 130. Anything else is a bug
and keeps its traceback. torch is imported by the commands that need it, so that `mpt validate` starts at once.
"""

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from mpt.errors import MptError

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False)

Overrides = Annotated[
    list[str], typer.Option("--set", metavar="KEY=VALUE", help="Change one setting, e.g. training.seed=1.")
]
Config = Annotated[Path, typer.Option("--config", help="Configuration file of the run.")]


@app.command()
def validate(
    manifest: Annotated[Path, typer.Argument(help="Manifest to check.")],
    passes: Annotated[
        float, typer.Option(help="Length of the run for the epochs column, in passes over all tasks.")
    ] = 10,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
) -> None:
    """Check a manifest and all its files, and print the mixture. Needs no backbone."""
    from mpt.data.validate import run_validate

    raise typer.Exit(run_validate(manifest, passes=passes, as_json=as_json, console=_console()))


@app.command()
def pretrain(
    config: Config,
    out: Annotated[Path | None, typer.Option(help="Run folder; runs/NAME-OF-CONFIG when not given.")] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on from the newest checkpoint of the run folder.")
    ] = False,
    overrides: Overrides = [],  # noqa: B006 (typer copies it)
) -> None:
    """Pretrain one shared prompt on a mixture of tasks."""
    from mpt.config import load_pretrain_settings
    from mpt.stages.pretrain import pretrain as run

    folder = out or Path("runs") / config.stem
    run(load_pretrain_settings(config, overrides), folder, resume=resume, console=_console())


def _console() -> Console:
    # Without a terminal rich would fold at 80 columns, which breaks tables in logs.
    return Console() if sys.stdout.isatty() else Console(width=120)


def main(command: Callable[[], object] = app) -> None:
    """Run a command and turn errors into messages and exit statuses."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    try:
        command()
    except MptError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("interrupted; a run goes on from its newest checkpoint with --resume", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    main()
