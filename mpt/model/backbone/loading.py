"""The weights of a language model: read from safetensors only, checked, frozen; no code of a repository ever runs."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModel
from transformers.utils import logging as transformers_logging

from mpt.base.errors import BackboneError, first_line
from mpt.model.backbone.attention import ATTENTION
from mpt.model.backbone.deberta import cast_biases
from mpt.model.backbone.sharding import Sharding, load_sharded
from mpt.model.backbone.stack import OWN_ATTENTION, WORKING


def load_model(
    folder: Path, reference: str, dtype: torch.dtype, device: torch.device | str, sharding: Sharding | None
) -> tuple[Any, str, int]:
    """The frozen model on its device, the name of its class, and the number of its parameters."""
    if not any(folder.glob("*.safetensors")):
        raise BackboneError(
            f'backbone "{reference}": {folder} holds no .safetensors file. Pickled weights are never loaded; convert '
            "them with transformers' save_pretrained"
        )
    level, bar = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
        _check_family(config, reference)
        if sharding is None:
            model = _load_whole(folder, config, reference, dtype, device)
            architecture, num_parameters = type(model).__name__, sum(weight.numel() for weight in model.parameters())
        else:
            model, architecture, num_parameters = load_sharded(
                folder,
                config,
                reference=reference,
                dtype=dtype,
                attention=ATTENTION,
                device=device,
                sharding=sharding,
            )
    except BackboneError:
        raise
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        if ATTENTION in str(error):  # looked up among a family's own ways, as Falcon does
            raise BackboneError(f'backbone "{reference}": {OWN_ATTENTION}. {WORKING}') from error
        raise BackboneError(f'backbone "{reference}": {first_line(error)}') from error
    finally:
        transformers_logging.set_verbosity(level)
        if bar:
            transformers_logging.enable_progress_bar()
    model.config.use_cache = False  # decoders would build a cache of keys that nothing reads
    return model, architecture, num_parameters


def _check_family(config: Any, reference: str) -> None:
    """Refuse what is no stack of layers over word pieces, before any weight is read."""
    if config.is_encoder_decoder:
        raise BackboneError(
            f'backbone "{reference}": {config.model_type} is an encoder-decoder, which has two stacks of layers, '
            f"and a deep prompt needs one. {WORKING}"
        )
    missing = [name for name in ("hidden_size", "max_position_embeddings") if not hasattr(config, name)]
    if missing:
        raise BackboneError(
            f'backbone "{reference}": the configuration of {config.model_type} has no {" and no ".join(missing)}: '
            f"it is more than a language model, or knows no longest text. {WORKING}"
        )


def _load_whole(folder: Path, config: Any, reference: str, dtype: torch.dtype, device: torch.device | str) -> Any:
    """All weights on this rank."""
    model, info = AutoModel.from_pretrained(
        folder,
        config=config,
        dtype=dtype,
        attn_implementation=ATTENTION,
        use_safetensors=True,
        trust_remote_code=False,
        ignore_mismatched_sizes=True,
        output_loading_info=True,
    )
    _check_weights(reference, info)
    cast_biases(model, dtype)
    if getattr(model, "pooler", None) is not None:
        model.pooler = None
    return model.eval().requires_grad_(False).to(device)


def _check_weights(reference: str, info: Mapping[str, Any]) -> None:
    """Refuse weights that transformers would have drawn at random; the pooler is not used."""
    missing = sorted(name for name in info["missing_keys"] if "pooler" not in name)
    if missing:
        raise BackboneError(
            f'backbone "{reference}": {len(missing)} weights are not in its files and would be random '
            f"(first: {missing[0]})"
        )
    other = sorted((name, tuple(found), tuple(told)) for name, found, told in info["mismatched_keys"])
    other = [mismatch for mismatch in other if "pooler" not in mismatch[0]]
    if other:
        name, found, told = other[0]
        raise BackboneError(
            f'backbone "{reference}": {len(other)} weights have another shape than its config.json says (first: {name} '
            f"has {found}, expected {told}). The files do not belong together; get them again"
        )


def positions(model: Any) -> tuple[int, int]:
    """(id of the first position, number of positions): RoBERTa's family starts behind its padding index."""
    embeddings = getattr(model, "embeddings", None)
    first = 0
    if hasattr(embeddings, "create_position_ids_from_input_ids"):
        first = model.config.pad_token_id + 1
    return first, int(model.config.max_position_embeddings) - first
