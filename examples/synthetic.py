"""Write an openly synthetic mixture and a target task, small enough to pretrain and transfer within minutes.

Three tasks (travel bookings, a news desk, clinic notes) form the mixture; the target, customer support, stands outside.
They share kinds of entities under other names: a person is a passenger, a PER, a clinician, a customer or an agent.
Words are held apart by split, so that a model has to read the context, and every fifth sentence frame occurs in dev and
test only. The bytes depend on the arguments alone: on no global state, platform or Python version.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from random import Random

from grammar import FRAMES, OPEN, RULES
from mpt.base.errors import DataError

TARGET = "support"
SPLITS = ("train", "dev", "test")
SHARES = {"train": (0.0, 0.6), "dev": (0.6, 0.75), "test": (0.75, 1.0)}
"""Which part of each list of open-class words a split draws from."""

README = """Synthetic data written by mpt. People, companies, products and drugs are invented; no sentence was observed.
It shows how mpt works and says nothing about how well it works on text that people wrote.

mixture.yaml  travel, newsdesk and clinic: tasks to pretrain prompts on
target.yaml   support: a task to transfer to; staff are tagged Agent, customers Customer, bystanders not at all

Entities of dev and test are mostly unseen in train, and a fifth of the sentence frames is.
"""

MANIFEST = """# Synthetic data: invented sentences, see README.txt.
version: 1
name: synthetic-{name}
root: .
defaults:
  format: conll
  delimiter: tab
  columns: {{word: 0, tag: 1}}
  scheme: iob2
  family: ner
  labels: auto
  license: CC0-1.0
tasks:
{tasks}
mixture:
  strategy: temperature
  temperature: 2.0
"""
TASK = "  {task}:\n    files: {{train: {task}/train.tsv, dev: {task}/dev.tsv, test: {task}/test.tsv}}"

PARTS = re.compile(r"<(?P<name>\w+)(:(?P<type>\w+))?>|\((?P<options>[^()]*)\)|[^\s<>()]+")

Row = tuple[str, str]
"""A word and its BIO2 tag."""


def write_synthetic(folder: Path, *, sentences: int = 400, seed: int = 0) -> Path:
    """Write `mixture.yaml`, `target.yaml` and the files that they name.

    Args:
        folder: Made if need be. May hold an earlier result, which is replaced, and nothing else.
        sentences: Train sentences of each task. Dev has a quarter and test half as many.
        seed: Equal arguments give equal bytes.

    Returns:
        `folder`.

    Raises:
        DataError: The folder holds something else, or the grammar has too few sentences.
    """
    _check_folder(folder)
    if sentences < 1:
        raise DataError(f"sentences is {sentences}, expected 1 or more train sentences a task.")
    drawn = {task: _task(task, sentences, seed) for task in FRAMES}
    # First, so that a run that is killed here leaves a folder that the next run recognises as ours.
    _write(folder / "README.txt", README)
    for task, splits in drawn.items():
        for split, rows in splits.items():
            _write(folder / task / f"{split}.tsv", "\n".join(map(_columns, rows)))
    for name, tasks in {"mixture": [task for task in FRAMES if task != TARGET], "target": [TARGET]}.items():
        text = MANIFEST.format(name=name, tasks="\n".join(TASK.format(task=task) for task in tasks))
        _write(folder / f"{name}.yaml", text)
    return folder


def _check_folder(folder: Path) -> None:
    """Refuse to write over anything that was not written here."""
    if folder.exists() and not folder.is_dir():
        raise DataError(f"{folder} is a file, expected a folder or nothing. Name another folder.")
    ours = {"mixture.yaml", "target.yaml", "README.txt", *FRAMES}
    found = {path.name for path in folder.iterdir()} if folder.exists() else set()
    readme = folder / "README.txt"
    if found - ours or (found and not (readme.is_file() and readme.read_bytes() == README.encode())):
        raise DataError(f"{folder} holds other files: {', '.join(sorted(found)[:5])}. Name an empty or a new folder.")


def _columns(rows: Sequence[Row]) -> str:
    return "".join(f"{word}\t{tag}\n" for word, tag in rows)


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode())


def _task(task: str, sentences: int, seed: int) -> dict[str, list[list[Row]]]:
    """Draw the sentences of every split; no two sentences of a task are the same."""
    frames = [" ".join(line.split()) for line in FRAMES[task].strip().splitlines()]
    seen: set[tuple[str, ...]] = set()
    drawn: dict[str, list[list[Row]]] = {}
    for split, number in {"train": sentences, "dev": -(-sentences // 4), "test": -(-sentences // 2)}.items():
        rng = Random(f"{seed}/{task}/{split}")
        known = [frame for index, frame in enumerate(frames) if split != "train" or index % 5 < 4]
        draw = partial(_sentence, known, _words(split, seed), rng)
        drawn[split] = _distinct(draw, number, seen, f"{task} {split}")
    return drawn


def _words(split: str, seed: int) -> dict[str, list[str]]:
    """Return what every name stands for: the split's share of the open classes, and all alternatives of the rules."""
    low, high = SHARES[split]
    words = {name: _entries(rule, "|") for name, rule in RULES.items()}
    for name, listed in OPEN.items():
        entries = _shuffled(_entries(listed, "|" if "|" in listed else None), Random(f"{seed}/{name}"))
        words[name] = entries[round(low * len(entries)) : round(high * len(entries))]
    return words


def _entries(listed: str, separator: str | None) -> list[str]:
    return [" ".join(entry.split()) for entry in listed.split(separator)]


def _distinct(draw: Callable[[], list[Row]], number: int, seen: set[tuple[str, ...]], what: str) -> list[list[Row]]:
    """Draw until there are enough sentences that were not seen, and add them to `seen`."""
    drawn: list[list[Row]] = []
    for _ in range(20 * number + 1_000):
        if len(drawn) == number:
            return drawn
        rows = draw()
        words = tuple(word for word, _ in rows)
        if words not in seen:
            seen.add(words)
            drawn.append(rows)
    raise DataError(f"{what}: the grammar gave {len(drawn)} different sentences, asked for {number}. Ask for fewer.")


def _sentence(frames: Sequence[str], words: Mapping[str, Sequence[str]], rng: Random) -> list[Row]:
    return _expand(_pick(frames, rng), words, rng)


def _expand(text: str, words: Mapping[str, Sequence[str]], rng: Random) -> list[Row]:
    """Replace the names and alternatives of a frame or rule by words, and label the words of typed names."""
    rows: list[Row] = []
    for part in PARTS.finditer(text):
        if part["options"] is not None:
            rows += _expand(_pick(part["options"].split("|"), rng), words, rng)
        elif part["name"]:
            inner = _expand(_pick(words[part["name"]], rng), words, rng)
            rows += _labelled(inner, part["type"]) if part["type"] else inner
        else:
            rows.append((part[0], "O"))
    return rows


def _labelled(rows: Sequence[Row], kind: str) -> list[Row]:
    return [(word, f"{'I' if index else 'B'}-{kind}") for index, (word, _) in enumerate(rows)]


# Of the generator's methods only random() is promised to give the same numbers in every Python version.
def _pick(items: Sequence[str], rng: Random) -> str:
    return items[int(rng.random() * len(items))]


def _shuffled(items: Sequence[str], rng: Random) -> list[str]:
    return [item for _, item in sorted((rng.random(), item) for item in items)]
