"""Dev splits and few-shot samples that depend on the sentences' words alone.

A sentence is chosen by a hash of its words, never by its place in a file or by a random generator's state. So a choice
is the same on every machine and Python version, survives a re-ordered file, and a sample of 50 lies inside the sample
of 100 with the same seed.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Hashable, Iterable, Sequence

from mpt.base.errors import DataError
from mpt.data.example import Example


def content_hash(words: Iterable[str], *salt: object) -> bytes:
    """Return 16 bytes that name a sequence of words; another salt gives an independent name."""
    content = json.dumps([list(words), *salt], ensure_ascii=True, separators=(",", ":"))
    return hashlib.blake2b(content.encode(), digest_size=16).digest()


def comparable(words: Iterable[str]) -> tuple[str, ...]:
    """Return what two sentences are compared by: their words in lower case, less those without a letter or digit."""
    lowered = [word.lower() for word in words]
    return tuple(word for word in lowered if any(map(str.isalnum, word))) or tuple(lowered)


def sample_sentences(sentences: Sequence[Example], count: int, *, seed: int) -> list[Example]:
    """Draw sentences without replacement, kept in their given order; see `sample_indices`."""
    return [sentences[index] for index in sample_indices(sentences, count, seed=seed)]


def sample_indices(sentences: Sequence[Example], count: int, *, seed: int) -> list[int]:
    """Draw places of sentences without replacement, each equally likely over seeds, in ascending order.

    A sentence that occurs k times counts k times.

    Raises:
        DataError: There are fewer sentences than asked for.
    """
    if not 0 < count <= len(sentences):
        raise DataError(f"asked for {count} sentences, there are {len(sentences)}. Ask for 1 to {len(sentences)}.")
    seen: Counter[tuple[str, ...]] = Counter()
    ranked: list[tuple[bytes, int]] = []
    for index, sentence in enumerate(sentences):
        seen[sentence.words] += 1
        ranked.append((content_hash(sentence.words, "sample", seed, seen[sentence.words]), index))
    return sorted(index for _, index in sorted(ranked)[:count])


def split_dev(
    sentences: Sequence[Example], fraction: float, *, by_document: bool = False
) -> tuple[list[Example], list[Example]]:
    """Divide sentences into train and dev, keeping comparable ones (or whole documents) on one side.

    Groups are taken for dev in the order of their hash while that brings dev nearer to its fraction, in (0, 1), of the
    sentences. Documents are few and of uneven size, so that theirs is met only roughly.

    Returns:
        Train and dev, each in the given order, neither of them empty.

    Raises:
        DataError: There is one group only.
    """
    keys = _document_keys(sentences) if by_document else [content_hash(comparable(it.words), "dev") for it in sentences]
    sizes = Counter(keys)
    if len(sizes) < 2:
        kind = "document" if by_document else "different sentence"
        told = f"holds one {kind}, so no dev split can be taken from it. Give a dev file."
        raise DataError(f"{sentences[0].path}: {told}")
    target = fraction * len(sentences)
    chosen: set[Hashable] = set()
    taken = 0
    for key in sorted(sizes):
        if abs(taken + sizes[key] - target) < abs(taken - target) and len(chosen) < len(sizes) - 1:
            chosen.add(key)
            taken += sizes[key]
    chosen = chosen or {min(sizes, key=lambda key: (sizes[key], key))}
    train = [it for it, key in zip(sentences, keys, strict=True) if key not in chosen]
    dev = [it for it, key in zip(sentences, keys, strict=True) if key in chosen]
    return train, dev


def _document_keys(sentences: Sequence[Example]) -> list[bytes]:
    """Name each sentence's document by the words of the whole document."""
    words: dict[tuple[str, int | None], list[str]] = {}
    for sentence in sentences:
        words.setdefault((sentence.path, sentence.document), []).extend(sentence.words)
    names = {document: content_hash(content, "dev") for document, content in words.items()}
    return [names[sentence.path, sentence.document] for sentence in sentences]
