"""`mpt validate`: read all that a manifest declares, and say what a run over it would be."""

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from textwrap import TextWrapper

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from mpt.base.errors import MptError, printable
from mpt.data.example import Example
from mpt.data.manifest.reading import Manifest, load_manifest
from mpt.data.manifest.task_spec import SPLITS, Split
from mpt.data.order.mixture import mixing_rates, repetition_limits
from mpt.data.overlaps import MIN_WORDS, Overlap, find_overlaps
from mpt.data.tasks import Task, load_tasks

LONG_WORDS = 400  # a sentence above is certain not to fit the 512 positions of most encoders in one window


@dataclass(frozen=True, slots=True, kw_only=True)
class MixtureRow:
    """One line of the mixture table.

    Attributes:
        sentences, words: Sentences (texts, questions) of each split that it has, and words in them.
        labels: Entity types, or tags where every word has one.
        rate: Share of the micro-batches.
        epochs: How often the run draws each sentence of train.
        limit: Epochs that it is held at; None when no limit takes effect.
        long_sentences: Those of more than `LONG_WORDS` words, over all splits.
        longest, longest_words: `file:line` of the longest sentence, and its length in words.
    """

    name: str
    family: str
    metric: str
    sentences: Mapping[Split, int]
    words: Mapping[Split, int]
    labels: int
    rate: float
    epochs: float
    limit: float | None
    long_sentences: int
    longest: str
    longest_words: int
    license: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ManifestReport:
    """What a manifest holds.

    Attributes:
        path, root: The manifest, and its data folder; the files named below are relative to that.
        digest: SHA-256 of what it resolves to.
        total_words, passes: Words that the run of the table draws, and as a multiple of all words of all train splits.
        overlaps: Sentences that occur in several places.
        notices: What loading the tasks did, and what deserves a look.
    """

    path: str
    root: str
    name: str
    digest: str
    passes: float
    total_words: int
    tasks: Sequence[MixtureRow]
    overlaps: Sequence[Overlap]
    notices: Sequence[str]


def run_validate(path: Path, passes: float, console: Console, *, as_json: bool = False) -> int:
    """Print the report, or every problem to stderr; return 0, or 2 when the manifest or its data are wrong."""
    try:
        report = validate(load_manifest(path), passes=passes)
    except MptError as error:
        print(error, file=sys.stderr)
        print(f"{printable(str(path))} is not valid: correct the problems above.", file=sys.stderr)
        return 2
    if as_json:
        console.file.write(json.dumps(asdict(report), indent=2) + "\n")
    else:
        console.print(render(report, width=console.width if console.is_terminal else None), soft_wrap=True)
    return 0


def validate(manifest: Manifest, *, passes: float = 10.0) -> ManifestReport:
    """Read every split of every enabled task and describe the mixture in a run of `passes` over all train splits.

    Raises:
        MptError: With the problems of all tasks and all files.
    """
    tasks, notices = load_tasks(manifest, splits=SPLITS)
    sizes = {task.name: _words(task.splits["train"]) for task in tasks}
    own_limits = {task.name: task.spec.max_epochs for task in tasks}
    weights = {task.name: task.spec.rate for task in tasks if task.spec.rate is not None}
    total = passes * sum(sizes.values())
    rates = mixing_rates(manifest.mixture, sizes, total=total, max_epochs=own_limits, rates=weights)
    wanted = mixing_rates(manifest.mixture, sizes, rates=weights)
    short = partial(_below, manifest.root)
    limits = repetition_limits(manifest.mixture, own_limits)
    held = {name: limits[name] if rates[name] < wanted[name] * (1 - 1e-6) else None for name in sizes}
    rows = [
        _row(manifest.root, task, rate=rates[name], epochs=rates[name] * total / sizes[name], limit=held[name])
        for name, task in zip(sizes, tasks, strict=True)
    ]
    return ManifestReport(
        path=str(manifest.path),
        root=str(manifest.root),
        name=manifest.name,
        digest=manifest.digest,
        passes=passes,
        total_words=round(total),
        tasks=rows,
        overlaps=[replace(it, first=short(it.first), other_first=short(it.other_first)) for it in find_overlaps(tasks)],
        notices=[*notices, *_observations(manifest, rows)],
    )


def render(report: ManifestReport, *, width: int | None = None) -> RenderableType:
    """Return the report for a terminal of some width, or with whole lines for a pipe (None)."""
    heading = f"{report.name} ({report.path}), digest {report.digest[:12]}"
    assumed = (
        f"share: of the micro-batches. epochs: how often a run over {report.total_words:,} words ({report.passes:g} "
        f"passes over all train splits) sees each training sentence."
    )
    parts: list[RenderableType] = [*_lines([heading], width, style="bold"), _table(report.tasks)]
    parts += _lines([assumed], width)
    if any(row.limit is not None for row in report.tasks):
        parts += _lines(["*: held at its repetition limit; the other tasks share what that frees."], width)
    title = f"Sentences in several places (compared without case and punctuation, from {MIN_WORDS} words)"
    overlaps = [_overlap_line(overlap) for overlap in report.overlaps]
    for heading, lines in (("Notices", report.notices), (title, overlaps), ("Licences", _licences(report.tasks))):
        if lines:
            parts += [Text(), *_lines([heading], width, style="bold"), *_lines(lines, width, indent="  ")]
    return Group(*parts)


def _row(root: Path, task: Task, *, rate: float, epochs: float, limit: float | None) -> MixtureRow:
    sentences = [sentence for split in task.splits.values() for sentence in split]
    longest = max(sentences, key=lambda sentence: len(sentence.words))
    return MixtureRow(
        name=task.name,
        family=task.spec.family,
        metric=task.spec.metric,
        sentences={split: len(examples) for split, examples in task.splits.items()},
        words={split: _words(examples) for split, examples in task.splits.items()},
        labels=len({task.spec.kind.label_of(tag) for tag in task.labels} - {None}),
        rate=rate,
        epochs=epochs,
        limit=limit,
        long_sentences=sum(len(sentence.words) > LONG_WORDS for sentence in sentences),
        longest=_below(root, longest.where),
        longest_words=len(longest.words),
        license=task.spec.license,
    )


def _below(root: Path, where: str) -> str:
    """Shorten `file:line` to the path below root."""
    return where.removeprefix(f"{root}/")


def _words(sentences: Sequence[Example]) -> int:
    return sum(len(sentence.words) for sentence in sentences)


def _observations(manifest: Manifest, rows: Sequence[MixtureRow]) -> list[str]:
    found = [f"{name}: disabled, not read." for name in manifest.disabled]
    for row in rows:
        if "test" not in row.sentences:
            found.append(f"{row.name}: has no test split.")
        most = max(manifest.tasks[row.name].shots, default=0)
        if most > row.sentences["train"]:
            found.append(
                f"{row.name}: shots {most} is more than train has ({row.sentences['train']:,}); transfer refuses it."
            )
        if row.long_sentences:
            kind = manifest.tasks[row.name].kind
            cut = "What a backbone has no room for is cut."
            fate = "Overlapping windows cover them; nothing is lost." if kind.windowed else cut
            found.append(
                f"{row.name}: {kind.noun}s of more than {LONG_WORDS} words: {row.long_sentences}, the longest has "
                f"{row.longest_words} ({row.longest}). {fate}"
            )
    families = list(dict.fromkeys(row.family for row in rows))
    if len(families) > 1:
        found.append(f"families {', '.join(families)} are mixed; MPT-2 as published stays inside one family.")
    return found


def _table(rows: Sequence[MixtureRow]) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("task", no_wrap=True)
    for column in (*SPLITS, "labels", "words/sent.", "share", "epochs"):
        table.add_column(column, justify="right", no_wrap=True)
    for row in rows:
        mean = row.words["train"] / row.sentences["train"]
        counts = [f"{row.sentences[split]:,}" if split in row.sentences else "-" for split in SPLITS]
        epochs = f"{row.epochs:.1f}" + ("" if row.limit is None else "*")
        table.add_row(row.name, *counts, str(row.labels), f"{mean:.1f}", f"{row.rate:.1%}", epochs)
    return table


def _lines(lines: Sequence[str], width: int | None, *, indent: str = "", style: str = "") -> list[Text]:
    shown = [indent + printable(line) for line in lines]
    if width is not None:
        wrapper = TextWrapper(width, subsequent_indent=indent * 2, break_long_words=False, break_on_hyphens=False)
        shown = map(wrapper.fill, shown)
    return [Text(line, style=style) for line in shown]


def _overlap_line(overlap: Overlap) -> str:
    many = overlap.count > 1
    share = f"{overlap.count:,} of {overlap.of:,} {overlap.split} sentences ({overlap.count / overlap.of:.1%})"
    first = f"first: {overlap.first}, {overlap.other_first}"
    if (overlap.task, overlap.split) == (overlap.other_task, overlap.other_split):
        return f"{overlap.task}: {share} {'repeat' if many else 'repeats'} an earlier one ({first})"
    other = overlap.other_split if overlap.task == overlap.other_task else f"{overlap.other_task} {overlap.other_split}"
    return f"{overlap.task}: {share} {'are' if many else 'is'} in {other}, too ({first})"


def _licences(rows: Sequence[MixtureRow]) -> list[str]:
    by_licence: dict[str, list[str]] = {}
    for row in rows:
        by_licence.setdefault(row.license or "none declared", []).append(row.name)
    return [f"{licence}: {', '.join(names)}" for licence, names in by_licence.items()]
