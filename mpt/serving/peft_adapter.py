"""A prompt and a head as an adapter of PEFT, and back, without PEFT.

PEFT's prefix tuning keeps a row for each virtual token, its key and value in every layer, and the head in
`adapter_model.safetensors`, the sizes in `adapter_config.json`; it folds a projection before it saves. It hands the
prompt to the backbone through `past_key_values`: in every layer, with the text's positions behind the prompt. A prompt
that acts in another way cannot be expressed, and is refused.

Label names have no place in PEFT's files. They are in a `config.json` beside them, the backbone's with `id2label`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
from jaxtyping import Float
from safetensors import SafetensorError
from torch import Tensor
from transformers import AutoConfig

from mpt.base.errors import CheckpointError
from mpt.base.files import published_folder, to_json, write_durable
from mpt.data.families.family import FAMILIES, FamilyName
from mpt.model.backbone.identity import BackboneIdentity, locate
from mpt.model.state.network import by_token
from mpt.model.state.prompt import Prompt
from mpt.serving.saved import SavedModel
from mpt.training.checkpoint import read_json

ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"
HEADS = {
    "BertModel": "classifier",
    "ElectraModel": "classifier",
    "RobertaModel": "classifier",
    "XLMRobertaModel": "classifier",
    "LlamaModel": "score",
    "Qwen2Model": "score",
}
"""Backbones that give PEFT's model the scores of mpt's, and what transformers calls their linear head over tokens."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PeftAdapter:
    """What PEFT keeps of a prefix-tuned model for token classification.

    Attributes:
        values_PV: Key and value of each virtual token in every layer, as `by_token` lays them out.
        weight, bias: The head, a row for each label.
        labels: Names of the rows; None where the folder does not say.
        num_layers, num_heads: Of the backbone.
        base: Where the backbone lies, as PEFT was told.
        revision: Its commit.
    """

    values_PV: Float[Tensor, "P V"]
    weight: Float[Tensor, "C H"]
    bias: Float[Tensor, " C"]
    labels: tuple[str, ...] | None
    num_layers: int
    num_heads: int
    base: str | None
    revision: str | None


def export_peft(saved: SavedModel, task: str, out: Path) -> None:
    """Write a task's prompt and head as a folder that PEFT loads.

    Args:
        saved: The model.
        task: One of its tasks.
        out: Folder to make.

    Raises:
        CheckpointError: PEFT cannot express the prompt, with everything that it cannot; `out` exists, or cannot be
            made.
    """
    head, backbone, prompt = saved.scorer.head(task), saved.scorer.backbone, saved.state.parts.get("prompt")
    _check_expressible(saved, task)
    assert isinstance(prompt, Prompt), "checked above"
    identity, shape = backbone.identity, prompt.shape
    folder = locate(identity.reference, identity.revision)
    name = HEADS[identity.architecture]
    config = {
        "peft_type": "PREFIX_TUNING",
        "task_type": "TOKEN_CLS",
        "inference_mode": True,
        "base_model_name_or_path": str(folder) if identity.revision is None else identity.reference,
        "revision": identity.revision,
        "num_virtual_tokens": shape.length,
        "num_layers": shape.num_layers,
        "num_attention_heads": shape.num_heads,
        "token_dim": shape.num_heads * shape.head_dim,
        "num_transformer_submodules": 1,
        "encoder_hidden_size": shape.num_heads * shape.head_dim,
        "prefix_projection": False,
        "modules_to_save": [name],
    }
    tensors = {
        "prompt_embeddings": by_token(prompt.flat),
        f"base_model.{name}.weight": head.weight,
        f"base_model.{name}.bias": head.bias,
    }
    labels = dict(enumerate(head.labels))
    named = {"id2label": labels, "label2id": {name: i for i, name in labels.items()}}
    described = AutoConfig.from_pretrained(folder, trust_remote_code=False, **named)
    weights = {key: value.detach().cpu().contiguous() for key, value in tensors.items()}
    try:
        with published_folder(out) as made:
            write_durable(made / ADAPTER_CONFIG, to_json(config))
            write_durable(made / ADAPTER_WEIGHTS, safetensors.torch.save(weights, metadata={"format": "pt"}))
            write_durable(made / "config.json", described.to_json_string(use_diff=False).encode())
    except OSError as error:
        raise CheckpointError(
            f"{out}: cannot make this folder: {error.strerror or 'it exists'}. Give another"
        ) from error


def _check_expressible(saved: SavedModel, task: str) -> None:
    """Refuse a prompt or a head that would act in another way under PEFT."""
    backbone, prompt = saved.scorer.backbone, saved.state.parts.get("prompt")
    if not isinstance(prompt, Prompt):
        raise CheckpointError(f"{saved.folder}: has a head on the bare backbone and no prompt, so there is no adapter")
    problems = unsupported(backbone.identity) + foreign_family(task, saved.tasks[task]["family"])
    if not backbone.shifted:
        problems.append(
            "its text keeps its positions (backbone.positions: unshifted), while PEFT moves the text behind the "
            "prompt. Train with backbone.positions=shifted"
        )
    if backbone.word_pieces.mean:
        problems.append(
            "its head scores the mean of a word's pieces (backbone.word_state: mean), while models under PEFT score "
            "every piece. Train with backbone.word_state=piece"
        )
    layers, num_layers = prompt.shape.layers, prompt.shape.num_layers
    if len(layers) < num_layers:
        problems.append(
            f"it prompts layers {', '.join(map(str, layers))} of {num_layers}, while PEFT prompts all. Train with "
            "prompt.layers=all"
        )
    if problems:
        raise CheckpointError([f"{saved.folder}: PEFT cannot express this prompt: {problem}" for problem in problems])


def unsupported(identity: BackboneIdentity) -> list[str]:
    """Why PEFT's prefix tuning and mpt's prompts are not the same over a backbone; nothing where they are."""
    if identity.architecture in HEADS:
        return []
    return [
        f'backbone "{identity.reference}" is a {identity.architecture}, which does not take past_key_values or was not '
        f"compared with PEFT, expected one of {', '.join(HEADS)}. Use mpt for this one"
    ]


def foreign_family(task: str, family: FamilyName) -> list[str]:
    """Why a head of a family is none of token classification; nothing where it is."""
    kind = FAMILIES[family]
    if kind.every_word:
        return []
    return [
        f'the head of task "{task}" (family {family}) scores {kind.unit}, expected words, which is what is exchanged '
        "with PEFT's token classification. Take a task of tags"
    ]


def read_adapter(folder: Path) -> PeftAdapter:
    """Read a folder that PEFT has saved.

    Raises:
        CheckpointError: It is no adapter, or none of prefix tuning for token classification; all problems of its
            configuration at once.
    """
    config = _read_config(folder)
    tensors = _read_tensors(folder)
    length, num_layers = config["num_virtual_tokens"], config["num_layers"]
    shape = (length, num_layers * 2 * config["token_dim"])
    found = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    if found.get("prompt_embeddings") != shape:
        raise CheckpointError(
            f"{folder / ADAPTER_WEIGHTS}: prompt_embeddings has shape {found.get('prompt_embeddings')}, expected "
            f"{shape} [num_virtual_tokens, num_layers * 2 * token_dim] by {ADAPTER_CONFIG}. The files do not belong "
            "together; save the adapter again"
        )
    heads = [name for name in set(HEADS.values()) if f"base_model.{name}.weight" in tensors]
    if len(heads) != 1 or f"base_model.{heads[0]}.bias" not in tensors:
        raise CheckpointError(
            f"{folder / ADAPTER_WEIGHTS}: no linear head, expected base_model.classifier or base_model.score with "
            f"weight and bias, got {', '.join(sorted(found))}. Save the adapter of a model for token classification"
        )
    weight, bias = (tensors[f"base_model.{heads[0]}.{part}"].float() for part in ("weight", "bias"))
    return PeftAdapter(
        values_PV=tensors["prompt_embeddings"].float(),
        weight=weight,
        bias=bias,
        labels=_read_labels(folder, len(bias)),
        num_layers=num_layers,
        num_heads=config["num_attention_heads"],
        base=config.get("base_model_name_or_path"),
        revision=config.get("revision"),
    )


def _read_config(folder: Path) -> Mapping[str, Any]:
    """PEFT's configuration, its sizes there and its kind the one that mpt knows."""
    path = folder / ADAPTER_CONFIG
    if not path.is_file():
        raise CheckpointError(
            f"{folder}: no {ADAPTER_CONFIG} here, so this is no adapter. Give a folder that PEFT saved"
        )
    config = read_json(path)
    expected = {"peft_type": "PREFIX_TUNING", "task_type": "TOKEN_CLS", "num_transformer_submodules": 1}
    problems = [
        f"{path}: {key}: expected {value}, got {config.get(key)}. mpt takes prefix tuning for token classification only"
        for key, value in expected.items()
        if config.get(key) != value
    ]
    sizes = ("num_virtual_tokens", "num_layers", "num_attention_heads", "token_dim")
    problems += [
        f"{path}: {key}: expected a whole number from 1, got {config.get(key)}. Save the adapter with PEFT again"
        for key in sizes
        if not isinstance(config.get(key), int) or config[key] < 1
    ]
    if problems:
        raise CheckpointError(problems)
    return config


def _read_tensors(folder: Path) -> dict[str, Tensor]:
    path = folder / ADAPTER_WEIGHTS
    if not path.is_file():
        raise CheckpointError(
            f"{folder}: no {ADAPTER_WEIGHTS} here. Pickled weights are never loaded; save the adapter with "
            "safe_serialization=True"
        )
    try:
        return safetensors.torch.load_file(path)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path}: cannot be read: {error}. Save the adapter again") from error


def _read_labels(folder: Path, count: int) -> tuple[str, ...] | None:
    """Names of the head's rows from a `config.json` beside the adapter; None where there is none."""
    path = folder / "config.json"
    if not path.is_file():
        return None
    names = read_json(path).get("id2label") or {}
    if sorted(names) != sorted(map(str, range(count))):
        raise CheckpointError(
            f"{path}: id2label names {len(names)} labels, expected 0 to {count - 1}, the rows of the head. Correct it, "
            "or remove it and give --labels"
        )
    return tuple(str(names[str(row)]) for row in range(count))
