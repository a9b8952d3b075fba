"""Whole texts to word pieces: one window for each input, scored at one piece.

The piece is the first special one ([CLS]), which has seen all of the text, the last piece where the backbone is causal,
or a template's gap ([MASK]). A text that does not fit is cut at its end, that of a pair at the longer one's.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Int32

from mpt.base.errors import DataError
from mpt.data.encoded import EncodedSplit, places_of
from mpt.data.example import TextExample
from mpt.data.families.family import SoftmaxOver
from mpt.data.families.frames import plain_frame, template_frame
from mpt.data.families.tokenization import NOTICES_SHOWN, WordPieces
from mpt.data.ragged import starts_of


def encode_texts(
    examples: Sequence[TextExample],
    word_pieces: WordPieces,
    labels: Sequence[str] | None,
    *,
    softmax_over: SoftmaxOver,
    long: str = "cut",
    template: str | None = None,
) -> tuple[EncodedSplit, list[str]]:
    """Tokenise texts.

    Args:
        examples: Examples whose labels are all in `labels`.
        word_pieces: The backbone's tokenizer.
        labels: The task's labels; None leaves aside what is right.
        softmax_over: "labels" for texts with a label, "example" for choices.
        long: "cut" shortens an input that does not fit, "error" refuses it.
        template: What the texts of an input are put into; None puts the tokenizer's special pieces around them.

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
    known = _tokenised({text for *_, texts in framed for text in texts}, word_pieces)
    filled: list[tuple[Int32[np.ndarray, " pieces"], Int32[np.ndarray, " pieces"], int]] = []
    cut: list[str] = []
    for example, frame, texts in framed:
        parts = [known[text] for text in texts]
        lengths = fitted([len(part) for part in parts], word_pieces.window - frame.num_fixed)
        if sum(lengths) < sum(map(len, parts)):
            cut.append(f"{example.where} ({sum(map(len, parts))} word pieces)")
        filled.append(frame.fill([part[:length] for part, length in zip(parts, lengths, strict=True)]))
    if cut and long == "error":
        raise DataError(_too_long(cut, word_pieces.room))
    windows = [window for window, _, _ in filled]
    paired = any(len(texts) == 2 and frame.second_segment for _, frame, texts in framed)
    split = EncodedSplit(
        pieces=_joined(windows),
        piece_starts=starts_of(np.array([len(window) for window in windows], dtype=np.int64)),
        segments=_joined([second for _, second, _ in filled]).astype(np.uint8) if paired else None,
        positions=np.array([position for *_, position in filled], dtype=np.int32),
        word_starts=np.arange(len(windows) + 1),
        labels=None if labels is None else _label_ids(examples, labels, softmax_over),
        softmax_over=softmax_over,
        windows_of=starts_of(np.array([len(example.inputs) for example in examples], dtype=np.int64)),
        places=places_of([(example.path, example.lines[0]) for example in examples]),
    )
    notice = f"texts longer than {word_pieces.room} word pieces, cut at the end: {len(cut):,}"
    return split, [f"{notice} (first: {', '.join(cut[:NOTICES_SHOWN])})"] if cut else []


def _too_long(cut: Sequence[str], room: int) -> list[str]:
    """Problems of inputs that do not fit, the first 20 in words."""
    told = [f"{where}: longer than the {room} word pieces the backbone takes" for where in cut[:20]]
    more = [f"... and {len(cut) - 20} more"] if len(cut) > 20 else []
    return [f"{problem}. Shorten it, or set long: cut" for problem in told] + more


def fitted(lengths: Sequence[int], room: int) -> list[int]:
    """Shorten the longer of one or two texts until both fit; equal lengths are shortened alike, the second first."""
    if len(lengths) == 1:
        return [min(lengths[0], room)]
    first, second = lengths
    if first + second <= room:
        return [first, second]
    half = room // 2
    if first <= half:
        return [first, room - first]
    if second <= half:
        return [room - second, second]
    return [room - half, half]


def _tokenised(texts: set[str], word_pieces: WordPieces) -> dict[str, Int32[np.ndarray, " pieces"]]:
    """Piece ids of each text; the unknown piece for one that the tokenizer turns into nothing."""
    ordered = sorted(texts)
    encodings = word_pieces.tokenizer.encode_batch_fast(ordered, add_special_tokens=False)
    nothing = [] if word_pieces.unknown is None else [word_pieces.unknown]
    return {
        text: np.array(encoding.ids or nothing, dtype=np.int32)
        for text, encoding in zip(ordered, encodings, strict=True)
    }


def _label_ids(
    examples: Sequence[TextExample], labels: Sequence[str], softmax_over: SoftmaxOver
) -> Int32[np.ndarray, " words"]:
    """The label of each text, or for each choice whether it is the right one."""
    if softmax_over == "labels":
        ids = {label: number for number, label in enumerate(labels)}
        return np.array([ids[(example.tags or ("",))[0]] for example in examples], dtype=np.int32)
    right = [(int((example.tags or ("",))[0]), len(example.inputs)) for example in examples]
    return np.array([choice == answer for answer, count in right for choice in range(count)], dtype=np.int32)


def _joined(rows: Sequence[Int32[np.ndarray, " n"]]) -> Int32[np.ndarray, " total"]:
    return np.concatenate(rows) if rows else np.zeros(0, dtype=np.int32)
