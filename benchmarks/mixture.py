"""A mixture of invented sentences of any size, for measurements of everything that comes before the first step."""

from pathlib import Path

import numpy as np

WORDS = 50_000
"""Different words; as in text, the n-th most frequent is n times as rare as the first."""

SHORTEST, LONGEST = 5, 35  # words of a sentence
ENTITIES = 0.1  # share of the words
DEV_SHARE = 100  # a task has so many times fewer dev sentences than training sentences

HEAD = """version: 1
name: startup
root: .
defaults: {family: ner, format: conll, delimiter: tab, columns: {word: 0, tag: 1}, scheme: iob2}
tasks:
"""
TASK = "  task{0}: {{files: {{train: task{0}.tsv, dev: task{0}.dev.tsv}}}}\n"


def write_mixture(folder: Path, *, tasks: int, sentences: int) -> Path:
    """Write column files and a manifest.

    Args:
        folder: Where to; it exists.
        tasks: Tasks of the mixture.
        sentences: Training sentences of all tasks together.

    Returns:
        The manifest.
    """
    generator = np.random.Generator(np.random.Philox(0))
    letters = np.array(list("etaoinshrdlucmfwypvbgk"))
    lengths = generator.integers(2, 11, size=WORDS)
    vocabulary = np.array(["".join(generator.choice(letters, size=length)) for length in lengths])
    for task in range(tasks):
        count = sentences // tasks
        for name, size in ((f"task{task}.tsv", count), (f"task{task}.dev.tsv", max(1, count // DEV_SHARE))):
            (folder / name).write_text(_columns(generator, vocabulary, size), encoding="ascii")
    manifest = folder / "mixture.yaml"
    manifest.write_text(HEAD + "".join(TASK.format(task) for task in range(tasks)), encoding="ascii")
    return manifest


def _columns(generator: np.random.Generator, vocabulary: np.ndarray, sentences: int) -> str:
    """So many sentences as words and BIO2 tags."""
    lengths = generator.integers(SHORTEST, LONGEST + 1, size=sentences)
    frequencies = 1 / np.arange(1, len(vocabulary) + 1)
    drawn = generator.choice(len(vocabulary), size=lengths.sum(), p=frequencies / frequencies.sum())
    tags = np.where(generator.random(size=lengths.sum()) < ENTITIES, "B-thing", "O")
    lines = [f"{word}\t{tag}\n" for word, tag in zip(vocabulary[drawn].tolist(), tags.tolist(), strict=True)]
    ends = np.cumsum(lengths).tolist()
    return "\n".join("".join(lines[end - length : end]) for end, length in zip(ends, lengths.tolist(), strict=True))
