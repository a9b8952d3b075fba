"""Outputs of the frozen trunk on disk: computed once for a text.

An entry of this cache is a function of backbone, depth, positions, type, versions of the libraries and the word pieces
themselves.
"""

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from jaxtyping import Float
from torch import Tensor

from mpt.base.disk_cache import ENTRY, DiskCache
from mpt.base.disk_cache import default_folder as cache_folder
from mpt.data.order.batch import Batch, collate, evaluation_batches
from mpt.data.windows import EncodedSplit, TrunkStates
from mpt.model.backbone.backbone import Backbone
from mpt.model.scorer import shifted_positions, text_inputs

__all__ = ["ENTRY", "STATES", "TrunkCache", "default_folder", "trunk_states"]

FORMAT_VERSION = 2
STATES = "states.bin"
TOKENS = 4096  # positions of a batch, padding included
BITS = {torch.bfloat16: np.uint16, torch.float32: np.float32}


def default_folder() -> Path:
    """Where trunk outputs are kept, unless told."""
    return cache_folder("trunk")


def trunk_states(backbone: Backbone, batch: Batch, depth: int, *, prompt_length: int) -> Float[Tensor, "B S H"]:
    """Outputs of the lowest `depth` layers for a batch; the layers above do not run."""
    trunk = backbone.trunk
    assert trunk is not None, "the caller has looked"
    inputs = text_inputs(batch)
    if backbone.shifted:
        inputs["position_ids"] = shifted_positions(backbone, batch, prompt_length)
    backbone.injection.prompts = [None] * backbone.num_layers
    trunk.depth, trunk.capturing = depth, True
    try:
        backbone(inputs)
    finally:
        trunk.capturing = False
    assert trunk.captured is not None, "some layer is above the trunk"
    captured, trunk.captured = trunk.captured, None
    return captured


@dataclass(frozen=True, slots=True, kw_only=True)
class TrunkCache:
    """A bounded folder of trunk outputs.

    Attributes:
        folder: Where the entries are; made when it is missing.
        max_bytes: Size of all entries together; the longest unused make room for new ones.
    """

    folder: Path
    max_bytes: int

    def states(
        self, backbone: Backbone, split: EncodedSplit, depth: int, *, prompt_length: int
    ) -> tuple[TrunkStates | None, list[str]]:
        """Outputs of the lowest `depth` layers for every piece of a split, from disk or computed now.

        Args:
            backbone: Has a trunk.
            split: The text.
            depth: Layers of the trunk, at least 1.
            prompt_length: Virtual tokens; they move the text where positions are shifted.

        Returns:
            The outputs, or None when they cannot be kept, and notices that say why.
        """
        about = _about(backbone, split, depth, prompt_length)
        cache = DiskCache(
            folder=self.folder,
            max_bytes=self.max_bytes,
            name="trunk cache",
            content="the trunk's outputs",
            instead="the lower layers are computed in every step instead",
            setting="backbone.trunk_cache_gib",
        )

        def read(path: Path) -> TrunkStates:
            values = np.memmap(path / STATES, dtype=BITS[backbone.dtype], mode="r")
            return TrunkStates(depth=depth, values=values.reshape(-1, backbone.hidden_size))

        def write(path: Path) -> None:
            _write(path / STATES, backbone, split, depth, prompt_length)

        states, notices = cache.find(about, read)
        if states is None:
            size = len(split.pieces) * backbone.hidden_size * BITS[backbone.dtype]().itemsize
            states, said = cache.add(about, size, write, read)
            notices += said
        return states, list(dict.fromkeys(notices))


def _write(path: Path, backbone: Backbone, split: EncodedSplit, depth: int, prompt_length: int) -> None:
    """Compute the outputs into a file."""
    with path.open("xb") as file:
        for window, values in _computed(backbone, split, depth, prompt_length):
            file.seek(int(split.piece_starts[window]) * values.strides[0])
            file.write(values.tobytes())
        file.flush()
        os.fsync(file.fileno())


def _about(backbone: Backbone, split: EncodedSplit, depth: int, prompt_length: int) -> dict[str, Any]:
    """Everything that an entry's content is a function of."""
    pieces = hashlib.sha256(split.piece_starts.tobytes())
    pieces.update(split.pieces.tobytes())
    if split.segments is not None:
        pieces.update(split.segments.tobytes())
    return {
        "version": FORMAT_VERSION,
        "architecture": backbone.identity.architecture,
        "weights_sha256": backbone.identity.weights_sha256,
        "dtype": str(backbone.dtype).removeprefix("torch."),
        "device": backbone.device.type,
        "depth": depth,
        "shift": prompt_length if backbone.shifted else 0,
        "pieces_sha256": pieces.hexdigest(),
        "num_pieces": len(split.pieces),
        "hidden_size": backbone.hidden_size,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }


def _computed(
    backbone: Backbone, split: EncodedSplit, depth: int, prompt_length: int
) -> Iterator[tuple[int, Float[np.ndarray, "pieces H"]]]:
    """Window and its pieces' outputs, as bits, for all windows."""
    with torch.no_grad():
        for windows in evaluation_batches(split, np.arange(len(split)), tokens=TOKENS):
            batch = collate(split, windows, pad=backbone.word_pieces.pad).to(backbone.device)
            states = trunk_states(backbone, batch, depth, prompt_length=prompt_length)
            bits = states.cpu().view(torch.uint16).numpy() if states.dtype == torch.bfloat16 else states.cpu().numpy()
            for row, window in enumerate(windows.tolist()):
                yield window, bits[row, : int(split.piece_starts[window + 1] - split.piece_starts[window])]
