"""Outputs of the frozen trunk on disk: computed once for a text, verified whenever they are used.

An entry is a folder named by what its content is a function of: backbone, depth, positions, type, versions of the
libraries and the word pieces themselves. It is written elsewhere and renamed, so that several processes may share a
cache and a crash leaves nothing that is taken for an entry. A cache that cannot be used costs time, never a result.
"""

import hashlib
import json
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from jaxtyping import Float
from torch import Tensor

from mpt.data.batch import Batch, collate, evaluation_batches
from mpt.data.tokenization import EncodedSplit, TrunkStates
from mpt.files import TEMPORARY, TRASH, published_folder, remove_folder, sha256_file, to_json, write_durable
from mpt.model.backbone import Backbone
from mpt.model.tagger import shifted_positions

FORMAT_VERSION = 1
STATES, ENTRY = "states.bin", "entry.json"
TOKENS = 4096  # positions of a batch, padding included
STALE_SECONDS = 24 * 3600  # a temporary folder older than this belongs to nobody
BITS = {torch.bfloat16: np.uint16, torch.float32: np.float32}


def default_folder() -> Path:
    """`MPT_CACHE`, or the user's cache folder."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("MPT_CACHE") or Path(base) / "mpt") / "trunk"


def trunk_states(backbone: Backbone, batch: Batch, depth: int, *, prompt_length: int) -> Float[Tensor, "B S H"]:
    """Outputs of the lowest `depth` layers for a batch; the layers above do not run."""
    trunk = backbone.trunk
    assert trunk is not None, "the caller has looked"
    inputs = {"input_ids": batch.input_ids_BS, "attention_mask": batch.attention_mask_BS}
    if backbone.shifted:
        inputs["position_ids"] = shifted_positions(backbone, batch, prompt_length)
    backbone.injection.prompts = [None] * backbone.num_layers
    trunk.depth, trunk.capturing = depth, True
    try:
        backbone.model(**inputs)
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
        path = self.folder / hashlib.sha256(to_json(about)).hexdigest()
        notices: list[str] = []
        try:
            if path.exists() and not _is_whole(path, about):
                notices.append(f"{path}: this entry of the trunk cache is damaged; it is computed anew.")
                remove_folder(path)
            if not path.exists():
                needed = len(split.pieces) * backbone.hidden_size * BITS[backbone.dtype]().itemsize
                if needed > self.max_bytes:
                    return None, [*notices, self._too_large(needed)]
                self._make_room(needed)
                self._write(path, about, backbone, split, depth, prompt_length)
            os.utime(path / ENTRY)
            values = np.memmap(path / STATES, dtype=BITS[backbone.dtype], mode="r").reshape(-1, backbone.hidden_size)
        except OSError as error:
            problem = f"{self.folder}: the trunk cache cannot be used ({error.strerror or error})"
            return None, [*notices, f"{problem}; the lower layers are computed in every step instead."]
        return TrunkStates(depth=depth, values=values), notices

    def _write(
        self, path: Path, about: dict[str, Any], backbone: Backbone, split: EncodedSplit, depth: int, prompt_length: int
    ) -> None:
        """Compute an entry and publish it; another process may be first, which is as good."""
        try:
            with published_folder(path) as temporary:
                with (temporary / STATES).open("xb") as file:
                    for window, values in _computed(backbone, split, depth, prompt_length):
                        file.seek(int(split.piece_starts[window]) * values.strides[0])
                        file.write(values.tobytes())
                    file.flush()
                    os.fsync(file.fileno())
                digest = sha256_file(temporary / STATES)
                write_durable(temporary / ENTRY, to_json({**about, "states_sha256": digest}))
        except OSError:
            if not path.exists():
                raise

    def _make_room(self, needed: int) -> None:
        """Remove what nobody writes any more, then the longest unused entries until the new one fits."""
        if not self.folder.is_dir():
            return
        entries: list[tuple[float, int, Path]] = []
        for path in self.folder.iterdir():
            age = time.time() - path.stat().st_mtime
            if path.name.startswith((TEMPORARY, TRASH)):
                if age > STALE_SECONDS:
                    remove_folder(path)
            elif (path / ENTRY).is_file():
                size = sum(file.stat().st_size for file in path.iterdir())
                entries.append(((path / ENTRY).stat().st_mtime, size, path))
        total = sum(size for _, size, _ in entries)
        for _, size, path in sorted(entries):
            if total + needed <= self.max_bytes:
                break
            remove_folder(path)
            total -= size

    def _too_large(self, needed: int) -> str:
        return (
            f"{self.folder}: the trunk's outputs, {needed / 2**20:,.0f} MiB, exceed the cache's "
            f"{self.max_bytes / 2**20:,.0f} MiB; the lower layers are computed in every step instead. Raise "
            "backbone.trunk_cache_gib to keep them."
        )


def _about(backbone: Backbone, split: EncodedSplit, depth: int, prompt_length: int) -> dict[str, Any]:
    """Everything that an entry's content is a function of."""
    pieces = hashlib.sha256(split.piece_starts.tobytes())
    pieces.update(split.pieces.tobytes())
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


def _is_whole(path: Path, about: dict[str, Any]) -> bool:
    try:
        entry = json.loads((path / ENTRY).read_bytes())
    except (FileNotFoundError, ValueError):
        return False
    digest = entry.pop("states_sha256", None) if isinstance(entry, dict) else None
    return entry == about and (path / STATES).is_file() and sha256_file(path / STATES) == digest


def _computed(
    backbone: Backbone, split: EncodedSplit, depth: int, prompt_length: int
) -> Iterator[tuple[int, Float[np.ndarray, "pieces H"]]]:
    """Window and its pieces' outputs, as bits, for all windows."""
    with torch.inference_mode():
        for windows in evaluation_batches(split, np.arange(len(split)), tokens=TOKENS):
            batch = collate(split, windows, pad=backbone.word_pieces.pad).to(backbone.device)
            states = trunk_states(backbone, batch, depth, prompt_length=prompt_length)
            bits = states.cpu().view(torch.uint16).numpy() if states.dtype == torch.bfloat16 else states.cpu().numpy()
            for row, window in enumerate(windows.tolist()):
                yield window, bits[row, : int(split.piece_starts[window + 1] - split.piece_starts[window])]
