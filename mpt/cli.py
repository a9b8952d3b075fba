"""The command line: `mpt validate`, `pretrain`, `transfer`, `compare`, `evaluate`, `predict`, and so on.

A user's error is printed without a traceback and ends with status 2; a signal ends with 128 and its number (130 for
Ctrl-C, 143 for SIGTERM). Anything else is a bug and keeps its traceback. torch is imported by the commands that need
it, so that `mpt validate` starts at once.
"""

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Literal, NoReturn

import typer
from rich.console import Console

from mpt.base.errors import ConfigError, MptError, PeerError, Preempted, did_you_mean
from mpt.base.signals import follow_launcher

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False)

Overrides = Annotated[
    list[str], typer.Option("--set", metavar="KEY=VALUE", help="Change one setting, e.g. training.seed=1.")
]
Resume = Literal["never", "auto", "must"]
Dtype = Annotated[
    Literal["auto", "bfloat16", "float32"],
    typer.Option(help="Type of the backbone; auto: as trained, or float32 where bfloat16 is only emulated."),
]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N; auto is a GPU if there is one.")]
Model = Annotated[Path, typer.Argument(help="Run folder or checkpoint.")]
More = Annotated[
    list[Path],
    typer.Option("--with", help="Another run or checkpoint over the same backbone; repeat it for several."),
]
Moved = Annotated[str | None, typer.Option(help="Where the backbone lies now, when it has moved.")]
Finished = Annotated[
    Resume, typer.Option(help="Keep the finished runs of the results folder: if it is there, or it must be.")
]


@app.command()
def validate(
    manifest: Annotated[Path, typer.Argument(help="Manifest to check.")],
    passes: Annotated[
        float, typer.Option(min=0.001, help="Length of the run for the epochs column, in passes over all tasks.")
    ] = 10,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
) -> None:
    """Check a manifest and all its files, and print the mixture. Needs no backbone."""
    from mpt.data.validate import run_validate

    raise typer.Exit(run_validate(manifest, passes=passes, as_json=as_json, console=terminal()))


@app.command()
def pretrain(
    config: Annotated[Path, typer.Option("--config", help="Configuration file of the run.")],
    out: Annotated[Path | None, typer.Option(help="Run folder; runs/NAME-OF-CONFIG when not given.")] = None,
    resume: Annotated[
        Resume, typer.Option(help="Go on from the newest checkpoint of the run folder: if there is one, or it must be.")
    ] = "never",
    overrides: Overrides = [],  # noqa: B006 (typer copies it)
) -> None:
    """Pretrain one shared prompt on a mixture of tasks."""
    from mpt.experiments.settings import load_pretrain_settings

    settings = load_pretrain_settings(config, overrides)  # a mistake is told before torch is loaded
    from mpt.experiments.pretrain import pretrain as run

    run(settings, out or Path("runs") / config.stem, resume=resume, console=terminal())


@app.command()
def transfer(
    init_from: Annotated[Path, typer.Option("--init-from", help="Pretraining run folder or checkpoint.")],
    manifest: Annotated[Path, typer.Option(help="Manifest with the target tasks.")],
    config: Annotated[Path | None, typer.Option(help="Configuration; the defaults when not given.")] = None,
    task: Annotated[list[str], typer.Option(help="Target task; repeat it for several. All when not given.")] = [],  # noqa: B006
    shots: Annotated[str, typer.Option(help="Training sentences drawn for each run, e.g. 100 or 100,200.")] = "",
    seeds: Annotated[str, typer.Option(help="Seeds, one run each, e.g. 0,1,2.")] = "",
    baseline: Annotated[
        str | None, typer.Option(help="Baselines with commas (README has all); empty for none.")
    ] = None,
    head: Annotated[str | None, typer.Option(help="fresh, by-label or from:TASK.")] = None,
    out: Annotated[Path | None, typer.Option(help="Results folder; runs/transfer_MANIFEST when not given.")] = None,
    resume: Finished = "never",
    backbone: Moved = None,
    overrides: Overrides = [],  # noqa: B006
) -> None:
    """Transfer a pretrained prompt to single tasks and compare it with baselines."""
    from mpt.experiments.settings import load_transfer_settings

    flags = [f"seeds={_numbers(seeds, '--seeds', least=0)}"] if seeds else []
    flags += [f"head={head}"] if head is not None else []
    flags += [f"baselines=[{baseline}]"] if baseline is not None else []
    settings, counts = load_transfer_settings(config, [*overrides, *flags]), _numbers(shots, "--shots")
    from mpt.experiments.transfer import transfer as run

    run(
        settings,
        init_from,
        manifest,
        out or Path("runs") / f"transfer_{manifest.stem}",
        tasks=task,
        shots=counts,
        resume=resume,
        backbone=backbone,
        console=terminal(),
    )


@app.command()
def compare(
    config: Annotated[Path, typer.Option(help="Configuration of the comparison.")],
    out: Annotated[Path | None, typer.Option(help="Results folder; runs/compare_CONFIG when not given.")] = None,
    resume: Finished = "never",
    overrides: Overrides = [],  # noqa: B006
) -> None:
    """Compare methods on tasks over seeds: tables and a figure, a row at a time."""
    from mpt.experiments.settings import load_compare_settings

    rows = load_compare_settings(config, overrides)
    from mpt.experiments.compare import compare as run

    run(rows, out or Path("runs") / f"compare_{config.stem}", resume=resume, console=terminal())


@app.command()
def evaluate(
    model: Model,
    manifest: Annotated[Path, typer.Option(help="Manifest with the data.")],
    task: Annotated[list[str], typer.Option(help="Task; repeat it for several. All that match when not given.")] = [],  # noqa: B006
    split: Annotated[str, typer.Option(help="dev or test.")] = "test",
    out: Annotated[Path | None, typer.Option(help="Folder for the report as JSON and Markdown.")] = None,
    against: Annotated[Path | None, typer.Option(help="Another model to compare with on the same sentences.")] = None,
    more: More = [],  # noqa: B006
    backbone: Moved = None,
    dtype: Dtype = "auto",
    device: Device = "auto",
) -> None:
    """Score a trained model on a split, with figures for each type and kinds of errors."""
    from mpt.data.manifest.task_spec import SPLITS
    from mpt.experiments.evaluate import evaluate as run

    if split not in SPLITS:
        raise ConfigError(f'--split "{split}" is not one of {", ".join(SPLITS)}.{did_you_mean(split, SPLITS)}')
    run(
        model,
        manifest,
        tasks=task,
        split=split,  # type: ignore[arg-type]
        out=out,
        backbone=backbone,
        against=against,
        more=more,
        dtype=dtype,
        device=device,
        console=terminal(),
    )


@app.command()
def predict(
    model: Model,
    text: Annotated[Path, typer.Argument(metavar="INPUT", help="File to tag.")],
    out: Annotated[Path, typer.Option(help="File to write.")],
    task: Annotated[list[str], typer.Option(help="Task to predict; repeat it for several. All when not given.")] = [],  # noqa: B006
    more: More = [],  # noqa: B006
    layout: Annotated[
        str | None,
        typer.Option(
            "--format",
            help="text, conll, conllu, props, jsonl, jsonl_spans, snips, rasa, csv, squad or record; if none, as the "
            "training data.",
        ),
    ] = None,
    word_column: Annotated[int, typer.Option(help="With conll: column of the word, from 0.")] = 0,
    tag_column: Annotated[int | None, typer.Option(help="With conll: column to replace; appended if none.")] = None,
    delimiter: Annotated[str, typer.Option(help="With conll: tab, space, whitespace or one character.")] = "whitespace",
    no_answer_above: Annotated[
        float | None, typer.Option(help="Of questions that may have no answer: by how much that must score higher.")
    ] = None,
    backbone: Moved = None,
    dtype: Dtype = "auto",
    device: Device = "auto",
) -> None:
    """Predict for a file and write it back in its own form: columns, CSV, JSON lines, or JSON lines for plain text.

    Several tasks are predicted in one pass over the text, and each has a file: OUT with its name before the ending.
    """
    from mpt.serving.layout import input_layout
    from mpt.serving.predictor import Predictor, predict_files
    from mpt.serving.saved import find_device, open_bank

    console = terminal()
    bank = open_bank([model, *more], reference=backbone, dtype=dtype, device=find_device(device))
    names = task or list(bank.tasks)
    predictors = [Predictor(bank.model(name), name, no_answer_above=no_answer_above) for name in names]
    columns = {"word_column": word_column, "tag_column": tag_column, "delimiter": delimiter}
    layouts = [input_layout(predictor, layout, **columns) for predictor in predictors]
    outs = [out] if len(names) == 1 else [out.with_name(f"{out.stem}.{name}{out.suffix}") for name in names]
    counts, notices = predict_files(predictors, text, layouts, outs)
    for notice in [*bank.notices, *notices]:
        console.print(f"note: {notice}", highlight=False, markup=False, soft_wrap=True)
    for predictor, size, path in zip(predictors, counts, outs, strict=True):
        done = f"{size} {predictor.spec.kind.noun}s of {text}, predictions of {predictor.task}: {path}"
        console.print(done, highlight=False, soft_wrap=True)


@app.command()
def export(
    model: Model,
    out: Annotated[Path, typer.Argument(help="Folder to make.")],
    layout: Annotated[
        Literal["peft", "backbone"],
        typer.Option("--format", help="An adapter of PEFT, or a backbone with the task state merged into it."),
    ] = "peft",
    task: Annotated[
        str | None, typer.Option(help="With peft: the task whose head is written, when the model has several.")
    ] = None,
    backbone: Moved = None,
    dtype: Dtype = "auto",
    device: Device = "auto",
) -> None:
    """Write a task state for others: with a head as an adapter of PEFT, or as a backbone with merged weights."""
    if layout == "backbone" and task is not None:
        raise ConfigError(f"--task {task}: a backbone has no head, expected --format peft. Leave --task out")
    from mpt.serving.merged_backbone import export_backbone
    from mpt.serving.peft_adapter import export_peft
    from mpt.serving.saved import find_device, open_saved

    saved = open_saved(model, reference=backbone, dtype=dtype, device=find_device(device))
    name = "all" if layout == "backbone" else saved.only_task() if task is None else task
    if layout == "peft":
        export_peft(saved, name, out)
    else:
        export_backbone(saved, out)
    terminal().print(f"{saved.folder}, task {name}: {out} ({layout})", highlight=False, soft_wrap=True)


@app.command("import")
def import_(
    layout: Annotated[Literal["peft"], typer.Argument(metavar="FORMAT", help="Whose adapter it is: peft.")],
    folder: Annotated[Path, typer.Argument(help="Folder of the adapter.")],
    out: Annotated[Path, typer.Argument(help="Run folder to make.")],
    manifest: Annotated[Path, typer.Option(help="Manifest with the task of the adapter's head.")],
    task: Annotated[str | None, typer.Option(help="The task, when the manifest has several.")] = None,
    labels: Annotated[
        str, typer.Option(help="Names of the head's rows with commas between; those beside the adapter if not given.")
    ] = "",
    backbone: Annotated[str | None, typer.Option(help="The backbone; the one that the adapter names if none.")] = None,
    revision: Annotated[str | None, typer.Option(help="Commit of the backbone, when it is a hub id.")] = None,
    dtype: Annotated[Literal["bfloat16", "float32"], typer.Option(help="Type of the backbone.")] = "float32",
) -> None:
    """Make a checkpoint of an adapter of PEFT: prefix tuning or LoRA, for token classification."""
    from mpt.serving.import_peft import import_peft

    made = import_peft(
        folder,
        out,
        manifest_path=manifest,
        task=task,
        labels=[label.strip() for label in labels.split(",")] if labels else [],
        reference=backbone,
        revision=revision,
        dtype=dtype,
        console=terminal(),
    )
    terminal().print(f"{folder} ({layout}): {made}", highlight=False, soft_wrap=True)


def _numbers(text: str, option: str, *, least: int = 1) -> list[int]:
    parts = [part.strip() for part in text.split(",")] if text else []
    if any(not part.isdecimal() or int(part) < least for part in parts):
        raise ConfigError(f'{option} "{text}": expected whole numbers from {least} with commas between, e.g. 100,200')
    return [int(part) for part in parts]


def terminal() -> Console:
    """Where commands tell people things."""
    # Without a terminal rich would fold at 80 columns, which breaks tables in logs.
    return Console() if sys.stdout.isatty() else Console(width=120)


def main(command: Callable[[], object] = app) -> None:
    """Run a command and turn errors into messages and exit statuses."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    # oneDNN keeps compiled products for 1,024 shapes, and sentences come in many: hundreds of MiB for no speed.
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "64")
    follow_launcher()
    first = os.environ.get("LOCAL_RANK", "0") == "0"  # what all ranks have found is told once
    try:
        command()
    except MptError as error:
        if first or error.rank is not None:
            print(f"error: {f'rank {error.rank}: ' if error.rank else ''}{error}", file=sys.stderr)
        _end(2)
    except PeerError as error:
        _end(error.status)
    except SystemExit as done:  # how typer ends a command, also one that succeeded
        if not _one_of_several() or not isinstance(done.code, int):
            raise
        _end(done.code)
    except Preempted as error:
        _end(128 + error.signal)
    except KeyboardInterrupt:
        if first:
            print("interrupted; a run goes on from its newest checkpoint with --resume auto", file=sys.stderr)
        _end(130)
    except Exception as error:
        if not _one_of_several():
            raise
        sys.excepthook(type(error), error, error.__traceback__)
        _end(1)


def _one_of_several() -> bool:
    return int(os.environ.get("WORLD_SIZE") or 1) > 1


def _end(status: int) -> NoReturn:
    """Exit; as one of several ranks without tidying up, which may abort or hang when another rank is gone."""
    if _one_of_several():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    sys.exit(status)


if __name__ == "__main__":
    main()
