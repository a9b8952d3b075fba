"""Whole texts to word pieces: one window for each input, scored at one piece.

The piece is the first special one ([CLS]), which has seen all of the text, the last piece where the backbone is causal,
or a template's gap ([MASK]). A text that does not fit is cut at its end, that of a pair at the longer one's; what
stands around texts, a backbone's special pieces and the words of a template, is never cut.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Int32, Int64

from mpt.base.errors import DataError
from mpt.data.example import Example, TextExample
from mpt.data.families.decode import decode_choices
from mpt.data.families.task_family import Scores, TaskFamily, gold_labels
from mpt.data.families.tokenization import WordPieces, capped, noticed
from mpt.data.manifest.family_specs import TextSpec
from mpt.data.manifest.task_spec import TaskSpec
from mpt.data.manifest.template import MASK, PAIR, TEXT, parts_of
from mpt.data.ragged import bounds_of, joined, starts_of
from mpt.data.windows import EncodedSplit, places_of

LEAST_TEXT = 8  # word pieces; a template that leaves fewer says more than the text


class TextFamily(TaskFamily):
    """A text, or a pair of texts, has one label."""

    alternatives: ClassVar[bool] = False

    def encode(
        self, examples: Sequence[Example], word_pieces: WordPieces, labels: Sequence[str] | None
    ) -> tuple[EncodedSplit, list[str]]:
        """One window for each input; see `encode_texts`."""
        return encode_texts(
            [example for example in examples if isinstance(example, TextExample)],
            word_pieces,
            labels,
            alternatives=self.alternatives,
            long=self.spec.long_policy,
            template=self.spec.cloze,
        )


class ChoiceFamily(TextFamily):
    """One of several texts is right."""

    alternatives = True

    def gold(self, split: EncodedSplit, examples: Sequence[int], labels: Sequence[str]) -> list[tuple[str, ...]]:
        """The number of the right choice, counted from 0."""
        return [(str(int(right.argmax())),) for right in gold_labels(split, examples)]

    def decode(
        self, scores: Scores, split: EncodedSplit, examples: Int64[np.ndarray, " n"], labels: Sequence[str]
    ) -> list[list[str]]:
        """The number of the best choice."""
        return decode_choices(scores)


def encode_texts(
    examples: Sequence[TextExample],
    word_pieces: WordPieces,
    labels: Sequence[str] | None,
    *,
    alternatives: bool = False,
    long: str = "cut",
    template: str | None = None,
) -> tuple[EncodedSplit, list[str]]:
    """Tokenise texts, whose labels are all in `labels`; None leaves aside what is right.

    The inputs of an example may be `alternatives`, of which one is right. An input that does not fit is shortened, or
    with `long` "error" refused. Without a template the tokenizer's special pieces stand around texts.

    Returns:
        The windows, and notices for the user.

    Raises:
        DataError: `long` is "error" and an input does not fit; all of them are named, as file:line.
    """
    inputs = [(example, texts) for example in examples for texts in example.inputs]
    frames = {
        count: plain_frame(word_pieces, count) if template is None else template_frame(template, word_pieces)
        for count in {len(texts) for _, texts in inputs}
    }
    framed = [(example, frame, frame.spaced(texts)) for example, texts in inputs for frame in [frames[len(texts)]]]
    known = _pieces_of({text for *_, texts in framed for text in texts}, word_pieces)
    filled: list[tuple[Int32[np.ndarray, " pieces"], Int32[np.ndarray, " pieces"], int]] = []
    cut: list[str] = []
    for example, frame, texts in framed:
        parts = [known[text] for text in texts]
        lengths = fitted([len(part) for part in parts], word_pieces.window - frame.num_fixed)
        if sum(lengths) < sum(map(len, parts)):
            cut.append(f"{example.where} ({sum(map(len, parts))} word pieces)")
        filled.append(frame.fill([part[:length] for part, length in zip(parts, lengths, strict=True)]))
    if cut and long == "error":
        told = f"longer than the {word_pieces.room} word pieces the backbone takes. Shorten it, or set long: cut"
        raise DataError(capped([f"{where}: {told}" for where in cut]))
    windows = [window for window, _, _ in filled]
    paired = any(len(texts) == 2 and frame.second_segment for _, frame, texts in framed)
    split = EncodedSplit(
        pieces=joined(windows),
        piece_starts=bounds_of(windows),
        segments=joined([second for _, second, _ in filled]).astype(np.uint8) if paired else None,
        positions=np.array([position for *_, position in filled], dtype=np.int32),
        word_starts=np.arange(len(windows) + 1),
        labels=None if labels is None else _label_ids(examples, labels, alternatives=alternatives),
        whole=alternatives,
        one_right=alternatives,
        windows_of=starts_of(np.array([len(example.inputs) for example in examples], dtype=np.int64)),
        places=places_of([(example.path, example.lines[0]) for example in examples]),
    )
    return split, noticed((cut, f"texts longer than {word_pieces.room} word pieces, cut at the end"))


def fitted(lengths: Sequence[int], room: int) -> list[int]:
    """Shorten the longer of one or two texts until both fit; equal lengths are shortened alike, the second first."""
    if len(lengths) == 1:
        return [min(lengths[0], room)]
    first, second = lengths
    if first + second > room:
        half = room // 2
        first = first if first <= half else room - min(second, half)
        second = room - first
    return [first, second]


def _pieces_of(texts: set[str], word_pieces: WordPieces) -> dict[str, Int32[np.ndarray, " pieces"]]:
    """Piece ids of each text; the unknown piece for one that the tokenizer turns into nothing."""
    ordered = sorted(texts)
    encodings = word_pieces.tokenizer.encode_batch_fast(ordered, add_special_tokens=False)
    nothing = [] if word_pieces.unknown is None else [word_pieces.unknown]
    pieces = [np.array(encoding.ids or nothing, dtype=np.int32) for encoding in encodings]
    return dict(zip(ordered, pieces, strict=True))


def _label_ids(
    examples: Sequence[TextExample], labels: Sequence[str], *, alternatives: bool
) -> Int32[np.ndarray, " words"]:
    """The label of each text, or for each choice whether it is the right one."""
    if not alternatives:
        ids = {label: number for number, label in enumerate(labels)}
        return np.array([ids[(example.tags or ("",))[0]] for example in examples], dtype=np.int32)
    right = [(int((example.tags or ("",))[0]), len(example.inputs)) for example in examples]
    return np.array([choice == answer for answer, count in right for choice in range(count)], dtype=np.int32)


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """Pieces around texts, which are never cut.

    Attributes:
        fixed: Piece ids before each text, in the order of the input, and after the last.
        order: Number of the text behind each of them but the last.
        spaces: What is put before each text, by its number: the space that a template has there.
        scored: The piece that is scored: (index in `fixed`, number in it); number -1 is the one before it.
        second_segment: Segment of the second text of a plain pair, and of what follows it.
    """

    fixed: tuple[tuple[int, ...], ...]
    order: tuple[int, ...]
    spaces: tuple[str, ...]
    scored: tuple[int, int]
    second_segment: int = 0

    def spaced(self, texts: Sequence[str]) -> list[str]:
        """The texts as they stand in the frame."""
        return [space + text for space, text in zip(self.spaces, texts, strict=True)]

    @property
    def num_fixed(self) -> int:
        """Pieces that are not of a text."""
        return sum(map(len, self.fixed))

    def fill(
        self, texts: Sequence[Int32[np.ndarray, " pieces"]]
    ) -> tuple[Int32[np.ndarray, " pieces"], Int32[np.ndarray, " pieces"], int]:
        """An input: its piece ids, their segments, and the column that is scored."""
        parts = [np.array(self.fixed[0], dtype=np.int32)]
        for number, behind in zip(self.order, self.fixed[1:], strict=True):
            parts += [texts[number], np.array(behind, dtype=np.int32)]
        pieces = np.concatenate(parts).astype(np.int32)
        segments = np.zeros(len(pieces), dtype=np.int32)
        if len(texts) == 2:
            segments[len(pieces) - len(parts[-1]) - len(parts[-2]) :] = self.second_segment
        index, offset = self.scored
        return pieces, segments, sum(map(len, parts[: 2 * index])) + offset


def plain_frame(word_pieces: WordPieces, count: int) -> Frame:
    """One or two texts as the tokenizer puts them, scored at the first piece, or at the last of a causal backbone."""
    between = (word_pieces.between,) if count == 2 else ()
    return Frame(
        fixed=(word_pieces.prefix, *between, word_pieces.suffix),
        order=tuple(range(count)),
        spaces=("",) * count,
        scored=(count, len(word_pieces.suffix) - 1) if word_pieces.last_piece else (0, 0),
        second_segment=word_pieces.second_segment,
    )


def template_frame(template: str, word_pieces: WordPieces) -> Frame:
    """One or two texts within a template's words, all in the first segment, scored at the mask.

    Every part is tokenised by itself, with the space before it and without the one behind it, which goes to the next
    part: as byte-level tokenizers have it. A mask takes in the space before it.
    """
    assert word_pieces.mask is not None, "checked with the words"
    fixed, order, scored = [[*word_pieces.prefix]], list[int](), (0, 0)
    spaces, space = dict[int, str](), ""
    for part in parts_of(template):
        if part == MASK:
            scored = (len(fixed) - 1, len(fixed[-1]))
            fixed[-1].append(word_pieces.mask)
        elif part in (TEXT, PAIR):
            order.append(int(part == PAIR))
            spaces[order[-1]] = space
            fixed.append([])
        elif words := part.rstrip():
            fixed[-1] += _tokenised(words, word_pieces).ids
        space = part[len(part.rstrip()) :]
    fixed[-1] += word_pieces.suffix
    return Frame(
        fixed=tuple(map(tuple, fixed)),
        order=tuple(order),
        spaces=tuple(spaces[number] for number in sorted(spaces)),
        scored=scored,
    )


def label_pieces(spec: TaskSpec, word_pieces: WordPieces, *, task: str) -> dict[str, int]:
    """The piece id of every label's word, as it is behind what the template has before the mask.

    Raises:
        DataError: The backbone has no mask piece, a word is not one piece of it, two words are the same piece, or the
            template leaves too little room for texts.
    """
    assert isinstance(spec, TextSpec) and spec.cloze is not None, "the task has a verbalizer"
    where = f'task "{task}"'
    if word_pieces.mask is None:
        raise DataError(
            f"{where}: verbalizer needs a backbone with a mask piece, and this one's tokenizer has none: it was not "
            "trained to fill gaps. Choose a masked language model, or remove verbalizer and template"
        )
    spaced = spec.cloze[: spec.cloze.index(MASK)][-1:].isspace()
    found: dict[str, int] = {}
    problems: list[str] = []
    for label, word in spec.verbalizer.items():
        encoding = _tokenised((word_pieces.before_word if spaced else "") + word, word_pieces)
        if len(encoding.ids) != 1 or encoding.ids[0] == word_pieces.unknown:
            made = ", ".join(encoding.tokens) or "nothing"
            problems.append(
                f'{where}: verbalizer.{label}: the backbone\'s tokenizer must know "{word}" as one piece, got '
                f"{len(encoding.ids)}: {made}. Give another word"
            )
        elif encoding.ids[0] in found.values():
            problems.append(
                f'{where}: verbalizer.{label}: "{word}" is the same piece as another label\'s word: '
                f"{encoding.tokens[0]}. Give another word"
            )
        else:
            found[label] = encoding.ids[0]
    left = word_pieces.window - template_frame(spec.cloze, word_pieces).num_fixed
    if left < LEAST_TEXT:
        problems.append(
            f"{where}: template leaves {left} of the backbone's {word_pieces.window} word pieces to texts, fewer than "
            f"{LEAST_TEXT}. Shorten it"
        )
    if problems:
        raise DataError(problems)
    return found


def _tokenised(text: str, word_pieces: WordPieces) -> Any:
    return word_pieces.tokenizer.encode(text, add_special_tokens=False)
