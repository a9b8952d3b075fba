"""What stands around the texts of an input: a backbone's special pieces, and the words of a template."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Int32

from mpt.base.errors import DataError
from mpt.data.families.tokenization import WordPieces
from mpt.data.manifest.family_specs import TextSpec
from mpt.data.manifest.task_spec import TaskSpec
from mpt.data.manifest.template import MASK, PAIR, TEXT, parts_of

LEAST_TEXT = 8  # word pieces; a template that leaves fewer says more than the text


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
    fixed = (word_pieces.prefix, *between, word_pieces.suffix)
    return Frame(
        fixed=fixed,
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
