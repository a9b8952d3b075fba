"""A task state merged into its backbone: an ordinary model folder, on which small states are trained as on any other.

Weights are taken from the backbone's own files, whatever type it was opened in; changed in float32 and saved in
float32. All else in these files stays under its name, such as the head of the language model, so that verbalizers go
on working.
"""

from collections.abc import Mapping
from pathlib import Path

import safetensors.torch
from safetensors import safe_open
from torch import Tensor
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME

from mpt.base.errors import CheckpointError
from mpt.base.files import published_folder, to_json, write_durable
from mpt.model.backbone.identity import locate
from mpt.model.backbone.sharding import require_all_sources, weight_files
from mpt.model.state.merged import merged_weights
from mpt.serving.saved import SavedModel
from mpt.training.checkpoint import SEAL, read_json

ORIGIN = "merged_from.json"
TOKENIZER = ("tokenizer*.json", "vocab.*", "merges.txt", "*.model", "special_tokens_map.json", "added_tokens.json")


def export_backbone(saved: SavedModel, out: Path) -> None:
    """Write a folder with the backbone's model, merged with the task state, its tokenizer, and where it comes from.

    Args:
        saved: A model opened on one process.
        out: Folder to make.

    Raises:
        CheckpointError: A part of the state is nothing that weights can do; `out` exists, or cannot be made.
        BackboneError: The backbone's files store weights in pieces.
    """
    _require_merges(saved)
    backbone = saved.scorer.backbone
    identity = backbone.identity
    folder = locate(identity.reference, identity.revision)
    sources = require_all_sources(backbone.model, folder, identity.reference)
    changed = merged_weights(saved.state, lambda name: _read(*sources[name]), backbone.linears)
    by_source = {sources[name]: value for name, value in changed.items()}
    config = read_json(folder / "config.json")
    config.pop("torch_dtype", None)
    try:
        with published_folder(out) as made:
            sizes = [_rewrite(path, made / path.name, by_source) for path in weight_files(folder)]
            if len(sizes) > 1:
                index = read_json(folder / SAFE_WEIGHTS_INDEX_NAME)
                index["metadata"] = {**index.get("metadata", {}), "total_size": sum(sizes)}
                write_durable(made / SAFE_WEIGHTS_INDEX_NAME, to_json(index))
            write_durable(made / "config.json", to_json({**config, "dtype": "float32"}))
            write_durable(made / ORIGIN, to_json(_origin(saved)))
            for path in sorted({path for pattern in TOKENIZER for path in folder.glob(pattern)}):
                write_durable(made / path.name, path.read_bytes())
    except OSError as error:
        reason = error.strerror or "it exists"
        raise CheckpointError(f"{out}: cannot make this folder: {reason}. Give another") from error


def _require_merges(saved: SavedModel) -> None:
    parts = saved.state.parts
    beside = [kind for kind, part in parts.items() if not part.merges]
    if beside or not parts:
        whole, why = " and ".join(parts) or "nothing", f", since {' and '.join(beside)} acts beside them" * bool(beside)
        raise CheckpointError(
            f"{saved.folder}: a task state of {whole} cannot be merged into weights{why}, expected low_rank or weights "
            "alone. Train with one of their methods, or use the checkpoint with mpt as it is"
        )


def _read(path: Path, key: str) -> Tensor:
    with safe_open(path, framework="pt") as file:
        return file.get_tensor(key).float()


def _rewrite(path: Path, target: Path, changed: Mapping[tuple[Path, str], Tensor]) -> int:
    """Write a file of weights anew, numbers in float32, and return the size of its tensors in bytes."""
    with safe_open(path, framework="pt") as file:
        own = {key: changed.get((path, key), file.get_tensor(key)) for key in file.keys()}  # noqa: SIM118 (no mapping)
    tensors = {key: (it.float() if it.is_floating_point() else it).cpu().contiguous() for key, it in own.items()}
    write_durable(target, safetensors.torch.save(tensors, metadata={"format": "pt"}))
    return sum(tensor.nbytes for tensor in tensors.values())


def _origin(saved: SavedModel) -> dict[str, object]:
    identity = saved.checkpoint.identity
    return {
        "run": str(saved.folder),
        "checkpoint_sha256": read_json(saved.folder / SEAL)["sha256"],
        "step": saved.checkpoint.step,
        "stage": identity["stage"],
        "method": identity.get("method"),
        "state": identity["state"],
        "tasks": list(identity["tasks"]),
        "backbone": saved.scorer.backbone.identity.to_json(),
        "dtype": "float32",
    }
