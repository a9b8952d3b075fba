"""Windows to padded tensors."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Bool, Int64
from torch import Tensor
from torch.nn import functional

from mpt.data.ragged import ranges
from mpt.data.windows import EncodedSplit


@dataclass(frozen=True, slots=True, kw_only=True)
class RowGroup:
    """Rows of a batch that follow each other and have the same slot and tasks.

    Attributes:
        slot: Whose task state they are computed with.
        tasks: Whose heads score their words: one, or several that share the slot.
        rows, words: Their number, and that of the words to score in them.
    """

    slot: int
    tasks: tuple[str, ...]
    rows: int
    words: int


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Rows of word pieces and the places where words are scored.

    Attributes:
        input_ids_BS: Piece ids, specials and padding included.
        attention_mask_BS: True on pieces; None when no row is padded, which spares every layer the masking.
        words_M: Flat index (row * S + column) of each word's scoring piece, the first of several, rows in order.
        widths_M: Pieces of each word whose states are averaged; None where one stands for the word.
        labels_M: Label id of each of these words, or where scores are normalised over words, a bit for each column
            that the word is right in; None for text without labels.
        groups_M: Number of the window, or example, over whose words a column of scores is normalised; None where each
            word's own labels are normalised over.
        segments_BS: Segment (token type) of each piece; None when all are in the first.
        rows: Slot and tasks of every row; empty for a text that nobody scores.
    """

    input_ids_BS: Int64[Tensor, "B S"]
    attention_mask_BS: Bool[Tensor, "B S"] | None
    words_M: Int64[Tensor, " M"]
    labels_M: Int64[Tensor, " M"] | None
    widths_M: Int64[Tensor, " M"] | None = None
    groups_M: Int64[Tensor, " M"] | None = None
    segments_BS: Int64[Tensor, "B S"] | None = None
    rows: tuple[RowGroup, ...] = ()

    @property
    def slots(self) -> list[int]:
        """Slot of each row."""
        return [group.slot for group in self.rows for _ in range(group.rows)]

    @property
    def num_pieces(self) -> int:
        """Real word pieces, padding not counted."""
        mask = self.attention_mask_BS
        return self.input_ids_BS.numel() if mask is None else int(mask.sum())

    def to(self, device: torch.device) -> "Batch":
        """The same batch on another device."""
        tensors = {name: value.to(device) for name, value in vars(self).items() if isinstance(value, Tensor)}
        return replace(self, **tensors)


def collate(
    split: EncodedSplit, windows: Int64[np.ndarray, " rows"], *, pad: int, tasks: Sequence[str] = (), slot: int = 0
) -> Batch:
    """Windows of a split, filled up with the piece `pad` to the longest of them; without tasks nobody scores them."""
    lengths = split.pieces_of(windows)
    longest = int(lengths.max())
    columns = np.arange(longest)
    mask = columns < lengths[:, None]
    ids = np.full((len(windows), longest), pad, dtype=np.int64)
    pieces = ranges(split.piece_starts[windows], lengths)
    ids[mask] = split.pieces[pieces]
    word_counts = split.words_of(windows)
    words = ranges(split.word_starts[windows], word_counts)
    rows = np.repeat(np.arange(len(windows)), word_counts)
    segments = None
    if split.segments is not None:
        segments = np.zeros_like(ids)
        segments[mask] = split.segments[pieces]
    return Batch(
        input_ids_BS=torch.from_numpy(ids),
        attention_mask_BS=None if mask.all() else torch.from_numpy(mask),
        words_M=torch.from_numpy(rows * longest + split.positions[words]),
        labels_M=None if split.labels is None else torch.from_numpy(split.labels[words].astype(np.int64)),
        widths_M=None if split.widths is None else torch.from_numpy(split.widths[words].astype(np.int64)),
        groups_M=_groups(split, windows[rows]),
        segments_BS=None if segments is None else torch.from_numpy(segments),
        rows=(RowGroup(slot=slot, tasks=tuple(tasks), rows=len(windows), words=len(words)),) if tasks else (),
    )


def mixed(batches: Sequence[Batch], *, pad: int) -> Batch:
    """Batches of several slots and tasks as one, their rows in the same order; what is right is left aside."""
    longest = max(batch.input_ids_BS.shape[1] for batch in batches)
    segmented = any(batch.segments_BS is not None for batch in batches)
    segments = [_or_all(it.segments_BS, it, 0) for it in batches]
    widths = [torch.ones_like(it.words_M) if it.widths_M is None else it.widths_M for it in batches]
    first_rows = np.cumsum([0, *(len(batch.input_ids_BS) for batch in batches)])
    masks = [_or_all(it.attention_mask_BS, it, 1).bool() for it in batches]
    mask = torch.cat([_widened(own, longest, False) for own in masks])
    return Batch(
        input_ids_BS=torch.cat([_widened(batch.input_ids_BS, longest, pad) for batch in batches]),
        attention_mask_BS=None if bool(mask.all()) else mask,
        words_M=torch.cat([_moved(it, int(row), longest) for it, row in zip(batches, first_rows, strict=False)]),
        labels_M=None,
        widths_M=torch.cat(widths) if any(batch.widths_M is not None for batch in batches) else None,
        segments_BS=torch.cat([_widened(own, longest, 0) for own in segments]) if segmented else None,
        rows=tuple(group for batch in batches for group in batch.rows),
    )


def _or_all(values_BS: Tensor | None, batch: Batch, value: int) -> Tensor:
    """Values of a batch's pieces, or where it has none one value for all."""
    return torch.full_like(batch.input_ids_BS, value) if values_BS is None else values_BS


def _widened(values_BS: Tensor, columns: int, value: int) -> Tensor:
    return functional.pad(values_BS, (0, columns - values_BS.shape[1]), value=value)


def _moved(batch: Batch, row: int, columns: int) -> Int64[Tensor, " M"]:
    """Flat indices of a batch's words among wider rows, from a row on."""
    own = batch.input_ids_BS.shape[1]
    return (batch.words_M // own + row) * columns + batch.words_M % own


def _groups(split: EncodedSplit, windows: Int64[np.ndarray, " words"]) -> Int64[Tensor, " M"] | None:
    """Number the units that words are part of, in the order of the batch."""
    if not split.one_right:
        return None
    units = split.units_of(windows)
    return torch.from_numpy(np.cumsum(np.diff(units, prepend=units[:1]) != 0))


def word_rows(split: EncodedSplit, windows: Int64[np.ndarray, " rows"]) -> Int64[np.ndarray, " M"]:
    """Index among the split's words of each word that a batch of these windows scores, in the batch's order."""
    return ranges(split.word_starts[windows], split.words_of(windows))
