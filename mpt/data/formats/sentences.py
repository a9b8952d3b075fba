"""Files of sentences: one table of their formats, gold tags checked and brought to BIO2, predictions written back.

Everything that is wrong in a file is found before any of it is used, and raised at once with `file:line`. Where a file
is written, gold is replaced and never stands beside predictions, so that neither is taken for the other.
"""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mpt.base.errors import DataError, did_you_mean
from mpt.data.example import Sentence
from mpt.data.formats.columns import column_edits, read_columns
from mpt.data.formats.jsonlines import object_edits, read_jsonl, read_jsonl_spans
from mpt.data.formats.props import check_predicates, props_edits, read_props
from mpt.data.formats.slots import read_lines, read_rasa, read_snips, running_objects
from mpt.data.formats.source import (
    Edits,
    Problems,
    RawSentence,
    SourceFormat,
    Tags,
    holds_half,
    read_text,
    refuse_input,
    write_edited,
    write_text,
)
from mpt.data.formats.tables import read_parquet
from mpt.data.formats.words import find_words
from mpt.data.tags import check_tags, fitting_schemes, to_bio, undeclared_tags

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class SentenceFormat:
    """What reads the sentences of a file, and what says how its lines change with predictions.

    What is wrong in the file goes to the problems. Without `edits`, predictions are written as objects of their own, or
    not at all.
    """

    read: Callable[[Path, SourceFormat, Problems], Iterator[RawSentence]]
    edits: Callable[[Path, SourceFormat, Sequence[Sentence], Tags], Edits] | None = None
    written: bool = True


def _text(
    read: Callable[[str, SourceFormat, Problems], Iterator[RawSentence]],
    edits: Callable[[Path, SourceFormat, Sequence[Sentence], Tags], Edits] | None = None,
) -> SentenceFormat:
    def read_path(path: Path, source: SourceFormat, problems: Problems) -> Iterator[RawSentence]:
        return read(read_text(path, source.encoding), source, problems)

    return SentenceFormat(read=read_path, edits=edits)


SENTENCE_FORMATS: Mapping[str, SentenceFormat] = {
    "conll": _text(read_columns, column_edits),
    "conllu": _text(read_columns, column_edits),
    "props": _text(read_props, props_edits),
    "jsonl": _text(read_jsonl, object_edits),
    "jsonl_spans": _text(read_jsonl_spans, object_edits),
    "parquet": SentenceFormat(read=read_parquet, written=False),
    "snips": _text(read_snips),
    "rasa": _text(read_rasa),
    "text": _text(read_lines),
}


def read_sentences(path: Path, source: SourceFormat) -> list[Sentence]:
    """Read all sentences of a file, in its order.

    Returns:
        Sentences with BIO2 tags where the scheme is one of spans, the file's own tags where it is raw, None where the
        source carries no tags. `document` stays 0 when a declared `docstart` never occurs. Where sentences have
        predicates, one a predicate; a sentence without any is there once.

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


def write_predictions(
    path_in: Path, source: SourceFormat, sentences: Sequence[Sentence], tags: Tags, path_out: Path
) -> None:
    """Write the predictions for all sentences of a file, whole or not at all.

    Args:
        path_in: The file that the sentences were read from. It is not changed.
        source: Its layout. `tag_column`, `argument_column`, `tags_field` or `spans_field` say what is replaced; None
            appends a column, or a field `tags` or `spans`. Tags are written in `scheme`; io merges entities of one type
            that touch.
        sentences: All sentences of the file, in order, as `read_sentences` gave them.
        tags: Predicted tags of each sentence: BIO2, or raw tags where the scheme is raw.
        path_out: Where to write; an older file is replaced.

    Raises:
        DataError: The output is the input, the sentences are not those of the file, a tag cannot stand in a column, or
            the file would get a second tag column.
    """
    assert len(sentences) == len(tags), f"{len(tags)} predictions for {len(sentences)} sentences"
    for sentence, predicted in zip(sentences, tags, strict=True):
        assert len(sentence.words) == len(predicted), f"{sentence.where}: {len(predicted)} tags"
    refuse_input(path_in, path_out)
    problems = Problems(path_in)
    raw = _read(path_in, source.without_gold(), problems)
    problems.raise_any()
    _check_same(path_in, raw, sentences)
    form = _format_of(source)
    assert form.written, f"predictions are not written as {source.format}"
    if form.edits is not None:
        write_edited(path_in, form.edits(path_in, source, sentences, tags), path_out, source.encoding)
    else:
        write_text(path_out, running_objects(path_in, source, raw, sentences, tags))


def _format_of(source: SourceFormat) -> SentenceFormat:
    if source.format not in SENTENCE_FORMATS:
        known, near = ", ".join(SENTENCE_FORMATS), did_you_mean(source.format, SENTENCE_FORMATS)
        raise DataError(f'format "{source.format}" is not one of {known}.{near}')
    return SENTENCE_FORMATS[source.format]


def _read(path: Path, source: SourceFormat, problems: Problems) -> list[RawSentence]:
    raw = list(_format_of(source).read(path, source, problems))
    if not raw and not problems:
        problems.add(0, "no sentence in this file")
    for sentence in raw:
        for word, line in zip(sentence.words, sentence.lines, strict=True):
            if not word.isascii() and holds_half(word):
                problems.add(line, f"{word!r} holds half of a surrogate pair, which is no character")
    return raw


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
    repair = "begin" if source.repair == "error" else source.repair  # was checked already
    tags = None if sentence.tags is None else to_bio(sentence.tags, source.tag_scheme, repair)
    same = {name: getattr(sentence, name) for name in ("words", "lines", "document", "predicate")}
    return Sentence(**same, tags=tags, path=path)


def _check_same(path: Path, raw: Sequence[RawSentence], sentences: Sequence[Sentence]) -> None:
    """Refuse sentences that are not those of the file, so that no tag lands beside another word."""
    if len(raw) != len(sentences):
        raise DataError(f"{path}: holds {len(raw)} sentences, predictions are for {len(sentences)}. Predict it again")
    for found, sentence in zip(raw, sentences, strict=True):
        cut = found.text is not None and find_words(found.text, sentence.words) is not None
        same = found.words == sentence.words if found.text is None else cut
        if not same or found.lines[0] != sentence.lines[0]:
            raise DataError(f"{path}:{found.lines[0]}: the words are not those that were predicted. Predict it again")
