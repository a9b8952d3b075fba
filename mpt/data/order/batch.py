"""Windows to padded tensors."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64, Shaped
from torch import Tensor

from mpt.data.order.plan import greedy_cuts
from mpt.data.ragged import ranges
from mpt.data.windows import EncodedSplit


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
        trunk_depth: Lower layers whose outputs are at hand; 0 when none are.
        trunk_BSH: These outputs, zero on padding; None when none are.
    """

    input_ids_BS: Int64[Tensor, "B S"]
    attention_mask_BS: Bool[Tensor, "B S"] | None
    words_M: Int64[Tensor, " M"]
    labels_M: Int64[Tensor, " M"] | None
    widths_M: Int64[Tensor, " M"] | None = None
    groups_M: Int64[Tensor, " M"] | None = None
    segments_BS: Int64[Tensor, "B S"] | None = None
    trunk_depth: int = 0
    trunk_BSH: Float[Tensor, "B S H"] | None = None

    @property
    def num_pieces(self) -> int:
        """Real word pieces, padding not counted."""
        mask = self.attention_mask_BS
        return self.input_ids_BS.numel() if mask is None else int(mask.sum())

    def to(self, device: torch.device) -> "Batch":
        """The same batch on another device."""
        tensors = {name: value.to(device) for name, value in vars(self).items() if isinstance(value, Tensor)}
        return replace(self, **tensors)


def collate(split: EncodedSplit, windows: Int64[np.ndarray, " rows"], *, pad: int) -> Batch:
    """Pad the windows to the longest of them."""
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
        trunk_depth=0 if split.trunk is None else split.trunk.depth,
        trunk_BSH=None if split.trunk is None else _padded(split.trunk.values, pieces, mask),
    )


def _groups(split: EncodedSplit, windows: Int64[np.ndarray, " words"]) -> Int64[Tensor, " M"] | None:
    """Number the units that words are part of, in the order of the batch."""
    if not split.one_right:
        return None
    units = split.units_of(windows)
    return torch.from_numpy(np.cumsum(np.diff(units, prepend=units[:1]) != 0))


def _padded(
    values: Shaped[np.ndarray, "pieces H"], pieces: Int64[np.ndarray, " n"], mask: Bool[np.ndarray, "B S"]
) -> Float[Tensor, "B S H"]:
    """Rows of kept trunk outputs in their places, zeros elsewhere."""
    padded = np.zeros((*mask.shape, values.shape[1]), dtype=values.dtype)
    padded[mask] = values[pieces]
    tensor = torch.from_numpy(padded)
    return tensor.view(torch.bfloat16) if tensor.dtype == torch.uint16 else tensor


def evaluation_batches(
    split: EncodedSplit, windows: Int64[np.ndarray, " n"], *, tokens: int
) -> Iterator[Int64[np.ndarray, " rows"]]:
    """The windows once each, longest last, in groups of at most `tokens` padded positions."""
    lengths = split.pieces_of(windows)
    order = np.argsort(lengths, kind="stable")
    yield from np.split(windows[order], greedy_cuts(lengths[order], tokens))


def word_rows(split: EncodedSplit, windows: Int64[np.ndarray, " rows"]) -> Int64[np.ndarray, " M"]:
    """Index among the split's words of each word that a batch of these windows scores, in the batch's order."""
    return ranges(split.word_starts[windows], split.words_of(windows))
