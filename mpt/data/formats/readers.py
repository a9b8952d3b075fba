"""Data files as sentences: dispatch by format, gold tags checked and brought to BIO2.

Everything that is wrong in a file is found before any of it is used, and raised at once with `file:line`.
"""

import logging
from collections.abc import Callable, Iterator
from pathlib import Path

from mpt.base.errors import DataError, did_you_mean
from mpt.data.example import Sentence
from mpt.data.formats.columns import read_columns
from mpt.data.formats.jsonlines import read_jsonl, read_jsonl_spans
from mpt.data.formats.parquet import read_parquet
from mpt.data.formats.props import check_predicates, read_props
from mpt.data.formats.slots import read_rasa, read_snips
from mpt.data.formats.source import Problems, RawSentence, SourceFormat, read_text, split_lines
from mpt.data.formats.words import tag_words
from mpt.data.tags import check_tags, fitting_schemes, to_bio, undeclared_tags

__all__ = ["SourceFormat", "read_sentences"]

_log = logging.getLogger(__name__)


def _read_plain(text: str, source: SourceFormat, problems: Problems) -> Iterator[RawSentence]:
    """Yield a sentence for each line that is not blank."""
    for number, line in enumerate(split_lines(text), 1):
        sentence = tag_words(line, None, number, problems) if line.strip() else None
        if sentence is not None:
            yield sentence


_READERS = {
    "conll": read_columns,
    "conllu": read_columns,
    "props": read_props,
    "jsonl": read_jsonl,
    "jsonl_spans": read_jsonl_spans,
    "snips": read_snips,
    "rasa": read_rasa,
    "text": _read_plain,
}


def read_sentences(path: Path, source: SourceFormat) -> list[Sentence]:
    """Read all sentences of a file, in its order.

    Args:
        path: The file.
        source: Its layout.

    Returns:
        Sentences with BIO2 tags where the scheme is one of spans, the file's own tags where it is raw, None where the
        source carries no tags. `document` counts the document marks seen before a
        sentence, so that it stays 0 when a declared `docstart` never occurs. Where sentences have predicates, one a
        predicate; a sentence without any is there once.

    Raises:
        DataError: The file is missing, undecodable, malformed or not what `source` declares; lists every problem with
            `file:line`, the first 20 in words.
    """
    problems = Problems(path)
    raw = _read(path, source, problems)
    _check_gold(raw, source, problems)
    if source.has_predicates and not problems:
        check_predicates(raw, problems)
    problems.raise_any()
    if cuts := sum(sentence.cuts for sentence in raw):
        _log.info("%s: words cut in two where an entity begins or ends inside them: %d", path, cuts)
    return [_finish(sentence, source, str(path)) for sentence in raw]


def read_untagged(path: Path, source: SourceFormat) -> list[RawSentence]:
    """Read the sentences of a file with their running text and without their tags.

    Raises:
        DataError: As `read_sentences`.
    """
    problems = Problems(path)
    raw = _read(path, source.without_tags(), problems)
    problems.raise_any()
    return raw


def _read(path: Path, source: SourceFormat, problems: Problems) -> list[RawSentence]:
    if source.format == "parquet":
        raw = list(read_parquet(path, source, problems))
    else:
        raw = list(_reader(source)(read_text(path, source.encoding), source, problems))
    if not raw and not problems:
        problems.add(0, "no sentence in this file")
    _check_words(raw, problems)
    return raw


def _reader(source: SourceFormat) -> Callable[[str, SourceFormat, Problems], Iterator[RawSentence]]:
    if source.format not in _READERS:
        known, near = ", ".join(_READERS), did_you_mean(source.format, _READERS)
        raise DataError(f'format "{source.format}" is not one of {known}.{near}')
    return _READERS[source.format]


def _check_words(raw: list[RawSentence], problems: Problems) -> None:
    """Refuse halves of surrogate pairs (from CESU-8 or JSON escapes), which no tokenizer takes."""
    for sentence in raw:
        if "".join(sentence.words).isascii():
            continue
        for word, line in zip(sentence.words, sentence.lines, strict=True):
            if any("\ud800" <= char <= "\udfff" for char in word):
                problems.add(line, f"{word!r} holds half of a surrogate pair, which is no character")


def _check_gold(raw: list[RawSentence], source: SourceFormat, problems: Problems) -> None:
    scheme = source.tag_scheme
    check = check_tags if source.repair == "error" or scheme == "raw" else undeclared_tags
    tagged = [(sentence, sentence.tags) for sentence in raw if sentence.tags is not None]
    found = [(sentence.lines[index], problem) for sentence, tags in tagged for index, problem in check(tags, scheme)]
    fitting = fitting_schemes(tags for _, tags in tagged) if found and scheme != "raw" else []
    if fitting:
        line, problem = found[0]
        many = f"{len(found)} tags do not fit it" if len(found) > 1 else "1 tag does not fit it"
        fits = f"Every tag fits {' and '.join(fitting)}: set scheme: {fitting[0]}"
        problems.add(0, f"declared {scheme}, but {many} (first: line {line}, {problem}). {fits}")
        return
    for line, problem in found:
        hint = "" if "is not one of" in problem or scheme == "raw" else ". Fix the line or set repair: begin or drop"
        problems.add(line, problem + hint)


def _finish(sentence: RawSentence, source: SourceFormat, path: str) -> Sentence:
    tags, scheme = sentence.tags, source.tag_scheme
    if tags is not None:
        tags = to_bio(tags, scheme, "begin" if source.repair == "error" else source.repair)  # was checked already
    return Sentence(
        words=sentence.words,
        tags=tags,
        path=path,
        lines=sentence.lines,
        document=sentence.document,
        predicate=sentence.predicate,
    )
