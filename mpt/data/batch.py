"""Windows to padded tensors."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64, Shaped
from torch import Tensor

from mpt.data.plan import greedy_cuts
from mpt.data.ragged import ranges
from mpt.data.tokenization import EncodedSplit


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Rows of word pieces and the places where words are scored.

    Attributes:
        input_ids_BS: Piece ids, specials and padding included.
        attention_mask_BS: True on pieces; None when no row is padded, which spares every layer the masking.
        words_M: Flat index (row * S + column) of each word's scoring piece, rows in order.
        labels_M: Label id of each of these words; None for text without labels.
        trunk_depth: Lower layers whose outputs are at hand; 0 when none are.
        trunk_BSH: These outputs, zero on padding; None when none are.
    """

    input_ids_BS: Int64[Tensor, "B S"]
    attention_mask_BS: Bool[Tensor, "B S"] | None
    words_M: Int64[Tensor, " M"]
    labels_M: Int64[Tensor, " M"] | None
    trunk_depth: int = 0
    trunk_BSH: Float[Tensor, "B S H"] | None = None

    @property
    def num_pieces(self) -> int:
        """Real word pieces, padding not counted."""
        mask = self.attention_mask_BS
        return self.input_ids_BS.numel() if mask is None else int(mask.sum())

    def to(self, device: torch.device) -> "Batch":
        """The same batch on another device."""
        return Batch(
            input_ids_BS=self.input_ids_BS.to(device),
            attention_mask_BS=None if self.attention_mask_BS is None else self.attention_mask_BS.to(device),
            words_M=self.words_M.to(device),
            labels_M=None if self.labels_M is None else self.labels_M.to(device),
            trunk_depth=self.trunk_depth,
            trunk_BSH=None if self.trunk_BSH is None else self.trunk_BSH.to(device),
        )


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
    return Batch(
        input_ids_BS=torch.from_numpy(ids),
        attention_mask_BS=None if mask.all() else torch.from_numpy(mask),
        words_M=torch.from_numpy(rows * longest + split.positions[words]),
        labels_M=None if split.labels is None else torch.from_numpy(split.labels[words].astype(np.int64)),
        trunk_depth=0 if split.trunk is None else split.trunk.depth,
        trunk_BSH=None if split.trunk is None else _padded(split.trunk.values, pieces, mask),
    )


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
