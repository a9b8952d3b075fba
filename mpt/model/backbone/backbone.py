"""The frozen language model: found, loaded, frozen, identified and ready for prompts.

A backbone is named in one of three ways: a hub id with a pinned revision, a local folder, or
`package:NAME/FOLDER` for weights that an installed Python package carries. Weights are read from safetensors only, and
no code of a downloaded repository ever runs.
"""

import hashlib
import importlib.util
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled
from jaxtyping import Float
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel
from transformers.utils import logging as transformers_logging

from mpt.base.errors import BackboneError, first_line
from mpt.data.families.tokenization import WordPieces
from mpt.model.backbone.attention import ATTENTION, Injection, register
from mpt.model.backbone.deberta import adapt, cast_biases
from mpt.model.backbone.dropout import DropoutStreams, HiddenDropout
from mpt.model.backbone.sharding import Sharding, load_sharded
from mpt.model.backbone.stack import OWN_ATTENTION, WORKING, install
from mpt.model.backbone.trunk import Trunk
from mpt.model.backbone.word_pieces import load_word_pieces
from mpt.model.state.weights import Adaptation, Switch

DTYPES = {"bfloat16": torch.bfloat16, "float32": torch.float32}
# Rows longer than this are rare in labelled sentences and slow in attention; windows are stitched anyway.
LONGEST_WINDOW = 512
HUB_FILES = ["*.json", "*.safetensors", "*.txt", "*.model"]


@dataclass(frozen=True, slots=True, kw_only=True)
class BackboneIdentity:
    """What makes two backbones the same for a prompt; stored in every checkpoint.

    Attributes:
        reference: How the user named it.
        revision: Commit of a hub repository, else None.
        architecture: Class of the model.
        weights_sha256: Digest over the configuration and the weight files.
        tokenizer_sha256: Digest over the tokenizer files.
    """

    reference: str
    revision: str | None
    architecture: str
    weights_sha256: str
    tokenizer_sha256: str

    def to_json(self) -> dict[str, Any]:
        """As a JSON object."""
        return asdict(self)


@dataclass(slots=True, kw_only=True)
class Backbone:
    """A frozen model with everything that the rest of mpt has to know of it.

    Attributes:
        model: Parameters without gradients, in evaluation mode.
        switch: Which trained changes of its weights it computes with; none, unless a call names them.
        injection: Where the current batch's prompts are put.
        dropout: Its own, off but in training passes that ask for it.
        trunk: Where a forward pass can begin behind the layers below the prompts; None where it cannot.
        word_pieces: Its tokenizer.
        identity: What a checkpoint records.
        num_layers, num_key_value_heads, head_dim, hidden_size: Shapes of a deep prompt and of a head.
        max_positions: Text positions that the model has.
        first_position: Position id of a row's first piece when positions are not shifted.
        shifted: Positions start after the prompt, as in the reference implementation and PEFT.
        num_parameters: Parameters of the backbone.
        device: Where it computes.
        sharded: Whether the ranks share the weights, so that all of them have to run it side by side.
    """

    model: nn.Module
    switch: Switch
    injection: Injection
    dropout: HiddenDropout
    trunk: Trunk | None
    word_pieces: WordPieces
    identity: BackboneIdentity
    num_layers: int
    num_key_value_heads: int
    head_dim: int
    hidden_size: int
    max_positions: int
    first_position: int
    shifted: bool
    num_parameters: int
    device: torch.device
    sharded: bool

    @property
    def dtype(self) -> torch.dtype:
        """Type of the weights."""
        return next(self.model.parameters()).dtype

    @property
    def word_embeddings(self) -> nn.Module:
        """Its own, from piece ids to the input of the first layer."""
        self.switch.to(None)
        model: Any = self.model
        return model.get_input_embeddings()

    def __call__(
        self,
        inputs: Mapping[str, Tensor | None],
        adaptation: Adaptation | None = None,
        streams: DropoutStreams | None = None,
    ) -> Float[Tensor, "B S H"]:
        """Last hidden states, by its own weights or those of an adaptation, with dropout where streams are given."""
        self.switch.to(adaptation)
        self.dropout.begin(streams)
        return self.model(**inputs).last_hidden_state


def load_backbone(
    reference: str,
    *,
    revision: str | None = None,
    dtype: str = "bfloat16",
    prompt_length: int = 0,
    shifted: bool = False,
    longest_window: int = LONGEST_WINDOW,
    word_state: str = "piece",
    gradient_checkpointing: bool = False,
    device: torch.device | str = "cpu",
    sharding: Sharding | None = None,
) -> Backbone:
    """Load and freeze a backbone.

    Args:
        reference: Hub id, folder, or `package:NAME/FOLDER`.
        revision: Full commit hash; required for a hub id.
        dtype: "bfloat16" or "float32".
        prompt_length: Virtual tokens; they take positions when `shifted`.
        shifted: First word piece at position `prompt_length` instead of the first.
        longest_window: Most word pieces of a window, specials included.
        word_state: "piece" or "mean", which stands for a word.
        gradient_checkpointing: Recompute layers in the backward pass to save memory.
        device: Where to put the weights.
        sharding: Spread the weights over the ranks; None has all of them on every rank.

    Raises:
        BackboneError: It cannot be found, has no safetensors weights, does not call the attention registry, or has too
            few positions for the prompt.
    """
    folder = locate(reference, revision)
    register()
    model, architecture, num_parameters = _load_model(folder, reference, DTYPES[dtype], device, sharding)
    adapt(model, reference=reference)
    layers = install(model, reference=reference, recompute=gradient_checkpointing)
    first_position, max_positions = _positions(model)
    room = min(longest_window, max_positions - (prompt_length if shifted else 0))
    segments = int(getattr(model.config, "type_vocab_size", 0) or 0)
    facts = {"causal": layers.causal, "segments": segments, "mean": word_state == "mean"}
    word_pieces = load_word_pieces(folder, reference=reference, room=room, **facts)
    return Backbone(
        model=model,
        switch=Switch(model),
        injection=layers.injection,
        dropout=layers.dropout,
        trunk=layers.trunk,
        word_pieces=word_pieces,
        identity=_identify(folder, reference, revision, architecture),
        num_layers=len(layers.injection.prompts),
        num_key_value_heads=layers.text_keys.shape[1],
        head_dim=layers.text_keys.shape[3],
        hidden_size=model.config.hidden_size,
        max_positions=max_positions,
        first_position=first_position,
        shifted=shifted,
        num_parameters=num_parameters,
        device=layers.text_keys.device,
        sharded=sharding is not None,
    )


def _identify(folder: Path, reference: str, revision: str | None, architecture: str) -> BackboneIdentity:
    return BackboneIdentity(
        reference=reference,
        revision=revision,
        architecture=architecture,
        **digests(folder),
    )


def digests(folder: Path) -> dict[str, str]:
    """What a backbone's files are, as an identity has it; needs no model in memory."""
    return {
        "weights_sha256": _digest(folder, ["config.json", "*.safetensors"]),
        "tokenizer_sha256": _digest(folder, ["tokenizer*.json", "vocab.*", "merges.txt", "*.model"]),
    }


def locate(reference: str, revision: str | None) -> Path:
    """The folder that a reference names; a hub repository is downloaded to the local cache first."""
    if reference.startswith("package:"):
        return _in_package(reference)
    if Path(reference).is_dir():
        return Path(reference)
    if reference.startswith((".", "/", "~")) or not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", reference):
        raise BackboneError(f'backbone "{reference}": no such folder. Give a folder, a hub id or package:NAME/FOLDER')
    if revision is None or not re.fullmatch(r"[0-9a-f]{40}", revision):
        raise BackboneError(
            f'backbone "{reference}": there is no such folder, and a hub id needs backbone.revision, the full '
            f"40-character commit hash, so that the weights cannot change (got {revision!r})"
        )
    try:
        return Path(snapshot_download(reference, revision=revision, allow_patterns=HUB_FILES))
    except (HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled, OSError) as error:
        raise BackboneError(
            f'backbone "{reference}" at {revision}: not in the local cache, and the hub cannot be used '
            f"({type(error).__name__}). Check the id and the network, or download it and give its folder"
        ) from error


def _in_package(reference: str) -> Path:
    name, _, folder = reference.removeprefix("package:").partition("/")
    spec = importlib.util.find_spec(name) if name.isidentifier() else None
    if spec is None or not spec.submodule_search_locations:
        raise BackboneError(
            f'backbone "{reference}": no Python package "{name}" is installed. '
            "The quickstart's backbone comes with: pip install 'mpt-prompts[minilm]'"
        )
    path = Path(spec.submodule_search_locations[0]) / folder
    if not (path / "config.json").is_file():
        raise BackboneError(f'backbone "{reference}": package "{name}" has no folder "{folder}" with a config.json')
    return path


def _load_model(
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
        config = AutoConfig.from_pretrained(folder)
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


def _positions(model: Any) -> tuple[int, int]:
    """(id of the first position, number of positions): RoBERTa's family starts behind its padding index."""
    embeddings = getattr(model, "embeddings", None)
    first = 0
    if hasattr(embeddings, "create_position_ids_from_input_ids"):
        first = model.config.pad_token_id + 1
    return first, int(model.config.max_position_embeddings) - first


def _digest(folder: Path, patterns: Iterable[str]) -> str:
    """SHA-256 over names and contents of the files, in name order."""
    digest = hashlib.sha256()
    for path in sorted({path for pattern in patterns for path in folder.glob(pattern)}):
        digest.update(path.name.encode() + b"\0")
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()
