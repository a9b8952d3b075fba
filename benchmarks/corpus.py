"""What every arm reads: a slice of bc5cdr and one of wnut17 as one task, or synthetic sentences of their lengths.

Both data sets lie in the data folder (`MPT_DATA`, else the default of data_manifests/open_ner.yaml). The task has the
labels of both; its dev slice is from bc5cdr.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, zip_longest
from pathlib import Path

import numpy as np
from jaxtyping import Shaped

from mpt.base.seeding import permutation, uniforms
from mpt.data.example import Sentence, sentences_of
from mpt.data.families.tokenization import WordPieces, encode
from mpt.data.manifest.format_specs import task_spec
from mpt.data.manifest.reading import load_manifest
from mpt.data.manifest.task_spec import Split
from mpt.data.tasks import Task, load_task

ROOT = Path(__file__).parents[1]
MANIFEST = ROOT / "data_manifests" / "open_ner.yaml"
DEFAULT_DATA = ROOT.parent / "shared" / "data"
FILES = ("bc5cdr/train.tsv", "bc5cdr/dev.tsv", "wnut17/train.conll")
DEV_SENTENCES = 500
SHORTEST = 3  # word pieces of a sentence of one word, specials included

LENGTHS = {
    "bc5cdr": "2 10 13 15 16 18 19 20 21 22 23 24 25 27 28 29 30 31 32 34 35 36 38 40 42 44 46 49 53 58 64 75 237",
    "wnut17": "2 8 10 13 15 16 18 19 20 21 23 24 25 26 27 28 29 30 31 33 34 35 36 37 38 39 41 42 44 45 48 52 73",
}
"""Word pieces of a training sentence, specials left out: 33 evenly spaced quantiles, by MiniLM's tokenizer."""

PLAIN = "the in of a and was with for to study house night people week morning school game team company street child"
PLACES = "london paris france river"
"""Words of synthetic sentences; each is one word piece of an English BERT, so lengths come out as drawn."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Corpus:
    """The task of the benchmark.

    Attributes:
        task: Its training and dev slices.
        origin: Where the sentences are from, in words.
        pieces: Word pieces of the training slice, specials included.
    """

    task: Task
    origin: str
    pieces: int


def read_corpus(word_pieces: WordPieces, *, pieces: int) -> Corpus:
    """Take slices with about as many word pieces as asked for, or all there are.

    Raises:
        MptError: The data files are there and are not what the manifest declares.
    """
    origin, sources, dev, kinds = _sources()
    train, count = _slice(sources, word_pieces, pieces)
    splits: dict[Split, tuple[Sentence, ...]] = {
        "train": tuple(train),
        "dev": tuple(_shuffled(dev, "dev")[:DEV_SENTENCES]),
    }
    return Corpus(task=_task(kinds, splits), origin=f"{origin}, {len(train):,} sentences", pieces=count)


def read_task(*, sentences: int) -> tuple[Task, str]:
    """A task with so many sentences to predict as its test split, or all there are, and where they are from.

    Raises:
        MptError: The data files are there and are not what the manifest declares.
    """
    origin, sources, _, kinds = _sources()
    task = _task(kinds, {"test": tuple(_mixed(sources)[:sentences])})
    return task, f"{origin}, {len(task.splits['test']):,} sentences"


def _sources() -> tuple[str, list[Sequence[Sentence]], Sequence[Sentence], list[str]]:
    """In words, where the sentences are from; those of both sets, dev sentences, entity types."""
    folder = Path(os.environ.get("MPT_DATA") or DEFAULT_DATA)
    missing = [name for name in FILES if not (folder / name).is_file()]
    if missing:
        origin = f"synthetic sentences with the lengths of bc5cdr and wnut17 ({missing[0]} is not in {folder})"
        return origin, *_synthetic()
    return "a slice of bc5cdr and one of wnut17", *_real()


def _task(kinds: Sequence[str], splits: Mapping[Split, tuple[Sentence, ...]]) -> Task:
    files = {"train": FILES[0], "dev": FILES[1]}
    declared = {"family": "ner", "files": files, "columns": {"word": 0, "tag": 1}, "scheme": "iob2"}
    spec = task_spec(declared)
    return Task(
        name="bc5cdr_wnut17",
        labels=spec.kind.tags(kinds),
        splits=splits,
        digests={},
        spec=spec,
    )


def _real() -> tuple[list[Sequence[Sentence]], Sequence[Sentence], list[str]]:
    """Training sentences of both sets, dev sentences of bc5cdr, and the entity types of both."""
    manifest = load_manifest(MANIFEST)
    first, _ = load_task(manifest, "bc5cdr")
    second, _ = load_task(manifest, "wnut17", splits=("train",))
    tags = chain(first.labels, second.labels)
    kinds = list(dict.fromkeys(tag[2:] for tag in tags if tag != "O"))
    train = [sentences_of(first.splits["train"]), sentences_of(second.splits["train"])]
    return list(train), sentences_of(first.splits["dev"]), kinds


def _synthetic() -> tuple[list[Sequence[Sentence]], Sequence[Sentence], list[str]]:
    """As many sentences as the sets have; every place name is an entity."""
    sources: list[Sequence[Sentence]] = [
        synthetic_sentences("bc5cdr", "train", 4560),
        synthetic_sentences("wnut17", "train", 3394),
    ]
    return sources, synthetic_sentences("bc5cdr", "dev", DEV_SENTENCES), ["place"]


def synthetic_sentences(source: str, split: str, count: int) -> list[Sentence]:
    """Sentences of random words with the lengths of a corpus; place names are tagged.

    Args:
        source: Corpus of `LENGTHS`.
        split: Names the draw together with the corpus.
        count: How many.
    """
    quantiles = np.array(LENGTHS[source].split(), dtype=np.float64)
    places = uniforms(0, "lengths", source, split, count=count) * (len(quantiles) - 1)
    lengths = np.rint(np.interp(places, np.arange(len(quantiles)), quantiles)).astype(int)
    drawn = words_of_one_piece(f"{source} {split}", int(lengths.sum()))
    sentences = np.split(drawn, np.cumsum(lengths)[:-1])
    entities = set(PLACES.split())
    return [
        Sentence(
            words=tuple(sentence.tolist()),
            tags=tuple("B-place" if word in entities else "O" for word in sentence.tolist()),
            path=f"synthetic {source} {split}",
            lines=(number,) * len(sentence),
        )
        for number, sentence in enumerate(sentences, start=1)
    ]


def words_of_one_piece(purpose: str, count: int) -> Shaped[np.ndarray, " count"]:
    """Random words, place names among them; the purpose names the draw."""
    words = np.array((PLAIN + " " + PLACES).split())
    return words[(uniforms(0, "words", purpose, count=count) * len(words)).astype(int)]


def _slice(sources: Sequence[Sequence[Sentence]], word_pieces: WordPieces, pieces: int) -> tuple[list[Sentence], int]:
    """Sentences of the sources in turn until they have `pieces` word pieces, and how many they have."""
    mixed = _mixed(sources)[: pieces // SHORTEST + 1]  # more are not needed
    encoded, _ = encode(mixed, word_pieces, None)
    totals = encoded.piece_starts[encoded.windows_of[1:]]
    count = min(int(np.searchsorted(totals, pieces)) + 1, len(mixed))
    return mixed[:count], int(totals[count - 1])


def _mixed(sources: Sequence[Sequence[Sentence]]) -> list[Sentence]:
    """All sentences, in random order, of the sources in turn."""
    orders = [_shuffled(source, f"train {number}") for number, source in enumerate(sources)]
    return [sentence for pair in zip_longest(*orders) for sentence in pair if sentence is not None]


def _shuffled(sentences: Sequence[Sentence], purpose: str) -> list[Sentence]:
    return [sentences[i] for i in permutation(0, "benchmark", purpose, count=len(sentences)).tolist()]
