"""How a file of sentences is laid out; the text of any data file, read and written, and what is wrong in it.

Nothing is sniffed: a layout is declared, readers hold the file to it, and every departure is collected with its line,
so that one run of a reader shows all that is wrong in a file.
"""

import codecs
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from mpt.base.errors import DataError, did_you_mean
from mpt.base.files import replace_durable
from mpt.data.tags import Repair, Scheme

Format = Literal["conll", "conllu", "props", "jsonl", "jsonl_spans", "parquet", "snips", "rasa", "text"]

Edits = dict[int, Callable[[str], str]]
"""What becomes of lines of a file, by number."""

SPAN_FORMATS = ("props", "jsonl_spans", "snips", "rasa")
"""Formats that mark spans by brackets or character offsets and have no tags."""

MAX_FILE_BYTES = 1 << 30
"""A file is read in one piece; a larger one is most likely not a labelled data set."""

MAX_PROBLEMS = 20
"""Problems of one file that are printed; the others are counted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceFormat:
    """The layout of one data file.

    Attributes:
        format: conll (one word a line, blank line between sentences), conllu (CoNLL-U, ten columns), props (as conll,
            with a column of brackets for each predicate), jsonl (an object a line with words and tags), jsonl_spans (an
            object a line with text and character spans), snips and rasa (their JSON documents), parquet (a row with
            words and tags), text (a sentence a line, no tags).
        scheme: Scheme of the tags in the file. Formats that mark spans have none and ignore it.
        word_column: Column of the word in conll and props, counted from 0 or, if negative, from the end. In conllu the
            word is always FORM.
        tag_column: Column of the tag in conll and conllu, there also by name (`upos`, `xpos`). None: the file carries
            no tags.
        predicate_column: Column of props that holds "-" where a word is no predicate.
        argument_column: First of the columns of props with a predicate's arguments. None: they are not read.
        trailing_columns: Columns of props behind them.
        delimiter: What separates columns of conll and props: `tab`, `space` (exactly one), `whitespace` (a run of
            spaces and tabs) or one character. Quotes are plain characters.
        comment_prefix: Lines of conll and props that begin with it are no words. None: no line is a comment.
        docstart: Lines of conll and props that begin with this word mark a document; they are no words either.
        encoding: A codec of Python, or `utf-8-surrogatepass` for UTF-8 with surrogate pairs in it (CESU-8), which are
            joined into the characters that they stand for. A byte order mark is ignored.
        repair: What to do with ill-formed tags, see `mpt.data.tags.to_bio`.
        words_field: Field of the words in jsonl.
        tags_field: Field of the tags in jsonl. None: the file carries no tags.
        predicate_field: Field of jsonl with the index of the predicate. None: sentences have none.
        text_field: Field of the text in jsonl_spans.
        spans_field: Field of the spans in jsonl_spans. None: the file carries no tags; then those of snips and rasa are
            not read either.
    """

    format: Format
    scheme: Scheme = "raw"
    word_column: int | str = 0
    tag_column: int | str | None = None
    predicate_column: int = 0
    argument_column: int | None = None
    trailing_columns: int = 0
    delimiter: str = "whitespace"
    comment_prefix: str | None = None
    docstart: str | None = None
    encoding: str = "utf-8"
    repair: Repair = "error"
    words_field: str = "tokens"
    tags_field: str | None = "tags"
    predicate_field: str | None = None
    text_field: str = "text"
    spans_field: str | None = "spans"

    @property
    def tag_scheme(self) -> Scheme:
        """Scheme of the tags that a reader of this format yields; character spans become BIO2 right away."""
        return "iob2" if self.format in SPAN_FORMATS else self.scheme

    @property
    def has_predicates(self) -> bool:
        """Whether tags are about a predicate."""
        return self.format == "props" or self.predicate_field is not None

    def without_gold(self) -> "SourceFormat":
        """Return the layout of the same file, its tags left unread, for prediction."""
        return replace(self, tag_column=None, argument_column=None, tags_field=None, spans_field=None)


@dataclass(frozen=True, slots=True, kw_only=True)
class RawSentence:
    """A sentence as a file has it, its tags still in the file's scheme.

    Attributes:
        words: The words.
        tags: One tag a word, or None.
        lines: Line of each word, counted from 1.
        text: The running text that the words were cut from; None where the file has words.
        document: Number of document marks seen before it; None where the source declares none.
        cuts: Words that were cut in two because a character span begins or ends inside them.
        predicate: Index of the word that the tags are about; None where none is marked.
    """

    words: tuple[str, ...]
    tags: tuple[str, ...] | None
    lines: tuple[int, ...]
    text: str | None = None
    document: int | None = None
    cuts: int = 0
    predicate: int | None = None


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

    def raise_any(self) -> None:
        """Raise what was collected; do nothing when that is nothing."""
        if self:
            raise self.error()

    def error(self) -> DataError:
        """Return all problems in the order of their lines, the first 20 in words."""
        shown = [text for _, text in sorted(self._found, key=lambda found: found[0])[:MAX_PROBLEMS]]
        if len(self._found) > MAX_PROBLEMS:
            shown.append(f"{self.path}: ... and {len(self._found) - MAX_PROBLEMS} more")
        return DataError(shown)


def quoted(text: str, limit: int = 100) -> str:
    """Show a piece of a file inside a message: escaped, quoted and not too long."""
    shown = text if len(text) <= limit else text[:limit] + "..."
    return '"' + shown.replace("\\", "\\\\").replace("\t", "\\t").replace("\n", "\\n").replace('"', '\\"') + '"'


def require_text(value: object, name: str) -> str:
    """A text that is not blank.

    Raises:
        DataError: The value is none; `name` is what messages call it.
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
    """Read a file, its byte order mark removed and surrogate pairs joined.

    Raises:
        DataError: The file is missing, empty, too large, or does not hold text in that encoding.
    """
    text = decode(read_bytes(path), path=path, encoding=encoding).removeprefix("\ufeff")
    problems = Problems(path)
    if not text.strip():
        problems.add(0, "the file is empty; a data file holds at least one sentence")
    problems.raise_any()
    return join_surrogates(text) if encoding == "utf-8-surrogatepass" else text


def join_surrogates(text: str) -> str:
    """Join pairs of surrogates into the characters that they stand for; a half without its other stays."""
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "surrogatepass")


def read_bytes(path: Path) -> bytes:
    """Read a whole file.

    Raises:
        DataError: The file is missing, not a file, unreadable or larger than `MAX_FILE_BYTES`.
    """
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


def decode(data: bytes, *, path: Path, encoding: str) -> str:
    """Turn bytes into text, byte order mark included, so that `write_edited` gives the same bytes back.

    Raises:
        DataError: The encoding is unknown, or some bytes are not in it; names the place of each.
    """
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
    """Locate the first wrong byte of every line; of the file where a line feed is not one byte."""
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
    """Write a file whole or not at all; an older one is replaced.

    Raises:
        DataError: It cannot be written, or the text not in that encoding.
    """
    _write(path, _encoded(text, encoding))


def write_edited(path_in: Path, edits: Edits, path_out: Path, encoding: str) -> None:
    """Write a file with some lines changed; byte order mark, line ends and other lines stay as they are.

    Raises:
        DataError: See `write_text`; or the file cannot be written back byte for byte.
    """
    data = read_bytes(path_in)
    text = decode(data, path=path_in, encoding=encoding)
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
