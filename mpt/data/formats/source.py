"""How a file of sentences is laid out; the text of any data file, read and written, and what is wrong in it.

Nothing is sniffed: a layout is declared, readers hold the file to it, and every departure is collected with its line,
so that one run of a reader shows all that is wrong in a file.
"""

import codecs
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, TypeAlias

from mpt.base.errors import DataError, did_you_mean, placed
from mpt.base.files import replace_durable
from mpt.data.tags import Repair, Scheme

Format = Literal["conll", "conllu", "props", "jsonl", "jsonl_spans", "parquet", "snips", "rasa", "text"]
"""conll: one word a line, blank line between sentences. conllu: CoNLL-U, ten columns. props: as conll, with a column of
brackets for each predicate. jsonl: an object a line with words and tags. jsonl_spans: an object a line with text and
character spans. parquet: a row with words and tags. snips, rasa: their JSON documents. text: a sentence a line.
"""

Tags: TypeAlias = Sequence[Sequence[str]]
"""Tags of each sentence."""

Edits = dict[int, Callable[[str], str]]
"""What becomes of lines of a file, by number."""

SPAN_FORMATS = ("props", "jsonl_spans", "snips", "rasa")
"""Formats that mark spans by brackets or character offsets and have no tags."""

MAX_FILE_BYTES = 1 << 30  # a file is read in one piece; a larger one is most likely not a labelled data set
MAX_PROBLEMS = 20  # of one file that are printed; the others are counted


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceFormat:
    """The layout of one data file of sentences.

    Columns are counted from 0 or, if negative, from the end. Formats that mark spans have no scheme and ignore it.
    """

    format: Format
    scheme: Scheme = "raw"  # of the tags in the file
    word_column: int | str = 0  # of conll and props; in conllu the word is always FORM
    tag_column: int | str | None = None  # of conll and conllu, there also by name (upos); None: there are no tags
    predicate_column: int = 0  # of props; "-" where a word is no predicate
    argument_column: int | None = None  # of props, the first with a predicate's arguments; None: they are not read
    trailing_columns: int = 0  # of props, behind the arguments
    delimiter: str = "whitespace"  # of conll and props, or `tab`, `space` (exactly one), or one character
    comment_prefix: str | None = None  # of lines of conll and props that are no words; None: no line is a comment
    docstart: str | None = None  # word that begins lines of conll and props that mark a document and are no words
    encoding: str = "utf-8"  # a codec, or utf-8-surrogatepass (CESU-8: surrogate pairs in UTF-8, which are joined)
    repair: Repair = "error"  # see `mpt.data.tags.to_bio`
    words_field: str = "tokens"  # of jsonl and parquet
    tags_field: str | None = "tags"  # of jsonl and parquet; None: there are no tags
    predicate_field: str | None = None  # of jsonl, with the predicate's index; None: sentences have none
    text_field: str = "text"  # of jsonl_spans
    spans_field: str | None = "spans"  # of jsonl_spans; None: there are no tags, in snips and rasa as well

    @property
    def tag_scheme(self) -> Scheme:
        """Scheme of the tags that a reader of this format yields; character spans become BIO2 right away."""
        return "iob2" if self.format in SPAN_FORMATS else self.scheme

    @property
    def has_predicates(self) -> bool:
        """Whether tags are about a predicate."""
        return self.format == "props" or self.predicate_field is not None

    def without_gold(self) -> "SourceFormat":
        """The layout of the same file, its tags left unread, for prediction."""
        return replace(self, tag_column=None, argument_column=None, tags_field=None, spans_field=None)


@dataclass(frozen=True, slots=True, kw_only=True)
class RawSentence:
    """A sentence as a file has it, its tags still in the file's scheme."""

    words: tuple[str, ...]
    tags: tuple[str, ...] | None
    lines: tuple[int, ...]  # of each word, counted from 1
    text: str | None = None  # that the words were cut from; None where the file has words
    document: int | None = None  # how many document marks come before it; None where the source declares none
    cuts: int = 0  # words that were cut in two because a character span begins or ends inside them
    predicate: int | None = None  # index of the word that the tags are about; None where none is marked


class Problems:
    """What is wrong in one file, collected to be raised at once."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._found: list[tuple[int, str]] = []

    def __bool__(self) -> bool:
        return bool(self._found)

    def add(self, line: int, problem: str, *, column: int | None = None) -> None:
        """Note a problem at a line (0 for the whole file) and, where it helps, a column, both counted from 1."""
        place = "" if line == 0 else f":{line}" if column is None else f":{line}:{column}"
        self._found.append((line, f"{self.path}{place}: {problem}"))

    @contextmanager
    def noting(self, line: int, place: str = "") -> Iterator[None]:
        """Note what is raised inside as problems of a line, and of a place in it."""
        try:
            yield
        except DataError as error:
            for problem in placed(error, place).problems:
                self.add(line, problem)

    def raise_any(self) -> None:
        """Raise what was collected; do nothing when that is nothing."""
        if self:
            raise self.error()

    def error(self) -> DataError:
        """All problems in the order of their lines, the first 20 in words."""
        shown = [text for _, text in sorted(self._found, key=lambda found: found[0])[:MAX_PROBLEMS]]
        if len(self._found) > MAX_PROBLEMS:
            shown.append(f"{self.path}: ... and {len(self._found) - MAX_PROBLEMS} more")
        return DataError(shown)


def quoted(text: str, limit: int = 100) -> str:
    """Show a piece of a file inside a message: escaped, quoted and not too long."""
    shown = text if len(text) <= limit else text[:limit] + "..."
    return '"' + shown.replace("\\", "\\\\").replace("\t", "\\t").replace("\n", "\\n").replace('"', '\\"') + '"'


def require_text(value: object, name: str) -> str:
    """A text that is not blank; `name` is what messages call it.

    Raises:
        DataError: The value is none.
    """
    if not isinstance(value, str):
        raise DataError(f"{name} must be a text, got {quoted(json.dumps(value))}")
    if not value.strip():
        raise DataError(f"{name} is empty")
    if holds_half(value):
        raise DataError(f"{name} holds half of a surrogate pair, which is no character: {quoted(value)}")
    return value


def holds_half(text: str) -> bool:
    """Whether half of a surrogate pair is in it (from CESU-8 or JSON escapes), which no tokenizer takes."""
    return any("\ud800" <= char <= "\udfff" for char in text)


def read_text(path: Path, encoding: str) -> str:
    """The text of a file, its byte order mark removed and surrogate pairs joined.

    Raises:
        DataError: The file is missing, empty, too large, or does not hold text in that encoding.
    """
    text = _decode(_read_bytes(path), path=path, encoding=encoding).removeprefix("\ufeff")
    if not text.strip():
        raise DataError(f"{path}: the file is empty; a data file holds at least one sentence")
    return join_surrogates(text) if encoding == "utf-8-surrogatepass" else text


def join_surrogates(text: str) -> str:
    """Join pairs of surrogates into the characters that they stand for; a half without its other stays."""
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "surrogatepass")


def _read_bytes(path: Path) -> bytes:
    if not path.is_file():
        names = [sibling.name for sibling in path.parent.iterdir()] if path.parent.is_dir() else []
        raise DataError(f"{path}: no such file.{did_you_mean(path.name, names)}")
    size = path.stat().st_size
    if size > MAX_FILE_BYTES:
        raise DataError(f"{path}: {size} bytes; a data file has at most {MAX_FILE_BYTES}. Split it and list the parts.")
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error


def _decode(data: bytes, *, path: Path, encoding: str) -> str:
    """Text with its byte order mark, so that `write_edited` gives the same bytes back."""
    codec, errors = _codec(encoding)
    try:
        return data.decode(codec, errors)
    except LookupError as error:
        raise DataError(f'{path}: encoding "{encoding}" is not a text encoding that Python knows') from error
    except UnicodeDecodeError:
        raise _undecodable(data, path, encoding) from None


def split_lines(text: str) -> list[str]:
    """Cut text at line feeds and nowhere else; a carriage return before one belongs to the line end.

    `str.splitlines` would also cut at U+0085 and U+2028, which occur inside words.
    """
    return [line.removesuffix("\r") for line in text.split("\n")]


def _codec(encoding: str) -> tuple[str, str]:
    if encoding == "utf-8-surrogatepass":
        return "utf-8", "surrogatepass"
    try:
        name = codecs.lookup(encoding).name
    except LookupError:
        return encoding, "strict"
    return ("utf-8" if name == "utf-8-sig" else name), "strict"


def _undecodable(data: bytes, path: Path, encoding: str) -> DataError:
    """The first wrong byte of every line; of the file where a line feed is not one byte."""
    codec, errors = _codec(encoding)
    problems = Problems(path)
    offset = 0
    for number, line in enumerate([data] if codec.startswith(("utf-16", "utf-32")) else data.split(b"\n"), 1):
        try:
            line.decode(codec, errors)
        except UnicodeDecodeError as error:
            at = offset + error.start
            shown = f"byte 0x{data[at]:02x} (offset {at}) is not {encoding}. {_encoding_hint(data, at, encoding)}"
            problems.add(number, shown, column=error.start + 1)
        offset += len(line) + 1
    return problems.error()


def _encoding_hint(data: bytes, at: int, encoding: str) -> str:
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "The file begins like UTF-16: set encoding: utf-16"
    if data[at] == 0xED and encoding != "utf-8-surrogatepass":
        return "If it is half of a surrogate pair (CESU-8), set encoding: utf-8-surrogatepass"
    return "If the file is latin-1, set encoding: latin-1"


def refuse_input(path_in: Path, path_out: Path) -> None:
    """Refuse to write predictions over the file that they are for."""
    if path_out.exists() and path_out.samefile(path_in):
        raise DataError(f"{path_out}: is the input file. Write the predictions to another file")


def write_text(path: Path, text: str, encoding: str = "utf-8") -> None:
    """Write a file whole or not at all, in place of an older one; a DataError where that or the encoding fails."""
    _write(path, _encoded(text, encoding))


def write_edited(path_in: Path, edits: Edits, path_out: Path, encoding: str) -> None:
    """Write a file with some lines changed; byte order mark, line ends and other lines stay as they are.

    Raises:
        DataError: See `write_text`; or the file cannot be written back byte for byte.
    """
    data = _read_bytes(path_in)
    text = _decode(data, path=path_in, encoding=encoding)
    if _encoded(text, encoding) != data:
        raise DataError(f"{path_in}: cannot be written back byte for byte in {encoding}. Convert it to utf-8")
    mark = "\ufeff" if text.startswith("\ufeff") else ""
    lines = text.removeprefix(mark).split("\n")
    for number, edit in edits.items():
        line = lines[number - 1]
        body = line.removesuffix("\r")
        lines[number - 1] = edit(body) + line[len(body) :]
    _write(path_out, _encoded(mark + "\n".join(lines), encoding))


def _encoded(text: str, encoding: str) -> bytes:
    try:
        return text.encode(*_codec(encoding))
    except UnicodeEncodeError as error:
        shown = quoted(text[error.start : error.end])
        raise DataError(f"{shown} cannot be written in {encoding}, the encoding of the input file") from None


def _write(path: Path, data: bytes) -> None:
    try:
        replace_durable(path, data)
    except OSError as error:
        raise DataError(f"{path}: cannot be written: {error.strerror}") from error
