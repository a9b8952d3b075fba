"""A frozen backbone spread over the ranks: every rank keeps a share of each layer and borrows the rest when it runs.

Weights are read one unit (a layer, the embeddings) at a time, and each unit is shared out before the next one is read,
so that no process ever holds the whole backbone. What a share is, and how a layer is put together for its forward and
backward pass, is the engine's business: DeepSpeed's ZeRO-3 or PyTorch's FSDP2, see `mpt.training.engines`.
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import init_empty_weights
from safetensors import safe_open
from torch import nn
from transformers import AutoModel, PreTrainedConfig
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import WeightConverter, WeightRenaming, rename_source_key
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME

from mpt.base.errors import BackboneError
from mpt.model.backbone.deberta import cast_biases

READ = ("rel_embeddings",)
"""Parts whose weights a model reads without calling them (DeBERTa), so that engines would not put them together; they
stay with the whole model."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sharding:
    """How an engine spreads a backbone.

    Attributes:
        shard: Keep this rank's share of a unit whose weights are in place on the device.
        finish: Make the whole model, all of its units shared out, ready to run.
    """

    shard: Callable[[nn.Module], None]
    finish: Callable[[nn.Module], None]


def load_sharded(
    folder: Path,
    config: PreTrainedConfig,
    *,
    reference: str,
    dtype: torch.dtype,
    attention: str,
    device: torch.device | str,
    sharding: Sharding,
) -> tuple[Any, str, int]:
    """Load a backbone from a folder straight to the ranks.

    Args:
        folder: Holds the safetensors files.
        config: Of the model.
        reference: What the user calls the backbone, for messages.
        dtype: Type of the weights.
        attention: Name of the attention function in transformers' registry.
        device: Where this rank computes.
        sharding: How the weights are spread.

    Returns:
        The model, frozen and ready to run on all ranks together, the name of its class, which engines change, and the
        number of its parameters.

    Raises:
        BackboneError: Weights are missing, have another shape, or are stored in a form that transformers would have to
            put together from several.
    """
    with init_empty_weights(include_buffers=False):
        model: Any = AutoModel.from_config(config, dtype=dtype, attn_implementation=attention, trust_remote_code=False)
        cast_biases(model, dtype)
    if getattr(model, "pooler", None) is not None:
        model.pooler = None
    model.eval().requires_grad_(False)
    for name, buffer in list(model.named_buffers()):
        owner, _, leaf = name.rpartition(".")
        model.get_submodule(owner)._buffers[leaf] = buffer.to(device)
    architecture, num_parameters = type(model).__name__, sum(parameter.numel() for parameter in model.parameters())
    sources = require_all_sources(model, folder, reference)
    for prefix, unit in [*_units(model), ("", model)]:
        fill(unit, prefix, sources, reference=reference, device=device)
        if unit is not model:
            sharding.shard(unit)
    sharding.finish(model)
    return model, architecture, num_parameters


def _units(module: nn.Module, prefix: str = "") -> Iterator[tuple[str, nn.Module]]:
    """Name and module of every part that is shared out at once: each layer of a list, else what holds no list."""
    for name, child in module.named_children():
        path = f"{prefix}{name}."
        if isinstance(child, nn.ModuleList):
            yield from ((f"{path}{index}.", layer) for index, layer in enumerate(child))
        elif any(isinstance(inner, nn.ModuleList) for inner in child.modules()):
            yield from _units(child, path)
            if next(child.parameters(recurse=False), None) is not None:
                yield path, child
        elif name not in READ and next(child.parameters(), None) is not None:
            yield path, child


def find_sources(model: Any, folder: Path, reference: str) -> dict[str, tuple[Path, str]]:
    """File and name in it of every weight that is there, by its name in the model, matched as transformers does."""
    mapping = get_model_conversion_mapping(model)
    renamings = [entry for entry in mapping if isinstance(entry, WeightRenaming)]
    converters = [entry for entry in mapping if isinstance(entry, WeightConverter)]
    wanted = model.state_dict()
    sources: dict[str, tuple[Path, str]] = {}
    for path in weight_files(folder):
        with safe_open(path, framework="pt") as file:
            for key in file.keys():  # noqa: SIM118 (no mapping)
                name, joined = rename_source_key(key, renamings, converters, model.base_model_prefix, wanted)
                if joined is not None and name in wanted:
                    raise BackboneError(
                        f'backbone "{reference}": {path.name} stores {name} in pieces, which cannot be read one at a '
                        "time. Save it anew with transformers' save_pretrained, or do without what reads it so: an "
                        "engine that shards the backbone, mpt export --format backbone"
                    )
                if name in wanted:
                    sources[name] = (path, key)
    return sources


def require_all_sources(model: Any, folder: Path, reference: str) -> dict[str, tuple[Path, str]]:
    """The same, none missing."""
    sources = find_sources(model, folder, reference)
    missing = sorted(name for name, _ in model.named_parameters() if name not in sources)
    if missing:
        raise BackboneError(
            f'backbone "{reference}": {len(missing)} weights are not in its files and would be random '
            f"(first: {missing[0]})"
        )
    return sources


def weight_files(folder: Path) -> list[Path]:
    """The files that transformers would read: one, or those of an index."""
    index = folder / SAFE_WEIGHTS_INDEX_NAME
    if (folder / SAFE_WEIGHTS_NAME).is_file() or not index.is_file():
        return [folder / SAFE_WEIGHTS_NAME]
    return sorted({folder / name for name in json.loads(index.read_bytes())["weight_map"].values()})


def fill(
    unit: nn.Module,
    prefix: str,
    sources: dict[str, tuple[Path, str]],
    *,
    reference: str,
    device: torch.device | str,
) -> None:
    """Read the weights of a unit that are not there yet; files are opened one at a time."""
    empty = {name: parameter for name, parameter in unit.named_parameters() if parameter.is_meta}
    by_file: dict[Path, list[str]] = {}
    for name in empty:
        by_file.setdefault(sources[prefix + name][0], []).append(name)
    for path, names in by_file.items():
        with safe_open(path, framework="pt") as file:
            for name in names:
                value = file.get_tensor(sources[prefix + name][1])
                if value.shape != empty[name].shape:
                    raise BackboneError(
                        f'backbone "{reference}": weights have another shape than its config.json says (first: '
                        f"{prefix}{name} has {tuple(value.shape)}, expected {tuple(empty[name].shape)}). The files do "
                        "not belong together; get them again"
                    )
                owner, _, leaf = name.rpartition(".")
                # A copy of its own: what the file's memory map gives would keep the whole file.
                weight = torch.empty_like(empty[name], device=device).copy_(value)
                setattr(unit.get_submodule(owner), leaf, nn.Parameter(weight, requires_grad=False))
