"""The head that a backbone was trained with as a language model, read from its files for the words of verbalizers.

All families have the same head under other names: a dense layer, an activation and a layer norm, then the product with
the embedding of every word piece, plus a bias. Only the rows of the words that stand for labels are read.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from safetensors import safe_open
from torch import Tensor, nn
from torch.nn import functional
from transformers.activations import ACT2FN

from mpt.base.errors import BackboneError
from mpt.data.families.texts import label_pieces
from mpt.data.tasks import Task
from mpt.model.backbone.backbone import Backbone, locate
from mpt.model.backbone.sharding import weight_files
from mpt.model.heads import Head, TokenHead, VerbalizerHead

LEGACY = {"LayerNorm.gamma": "LayerNorm.weight", "LayerNorm.beta": "LayerNorm.bias"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """What a family of models calls the parts of its head.

    Attributes:
        dense: The dense layer.
        norm: The layer norm.
        decoder: The product with output embeddings; its weight is in the files where it is not the input embeddings.
        bias: The bias of the pieces.
        activation: Field of the configuration that names the activation, or its name where it is always the same.
        epsilon: Field of the configuration for the layer norm, or its value.
    """

    dense: str
    norm: str
    decoder: str
    bias: str
    activation: str = "hidden_act"
    epsilon: str | float = "layer_norm_eps"


LAYOUTS = (
    Layout(  # BERT, DeBERTa
        dense="cls.predictions.transform.dense",
        norm="cls.predictions.transform.LayerNorm",
        decoder="cls.predictions.decoder",
        bias="cls.predictions.bias",
    ),
    Layout(  # RoBERTa, XLM-RoBERTa, CamemBERT
        dense="lm_head.dense",
        norm="lm_head.layer_norm",
        decoder="lm_head.decoder",
        bias="lm_head.bias",
        activation="gelu",
    ),
    Layout(  # DeBERTa-v3 as published
        dense="lm_predictions.lm_head.dense",
        norm="lm_predictions.lm_head.LayerNorm",
        decoder="lm_predictions.lm_head.decoder",
        bias="lm_predictions.lm_head.bias",
    ),
    Layout(  # the generators of ELECTRA
        dense="generator_predictions.dense",
        norm="generator_predictions.LayerNorm",
        decoder="generator_lm_head",
        bias="generator_lm_head.bias",
        activation="gelu",
    ),
    Layout(  # ALBERT
        dense="predictions.dense", norm="predictions.LayerNorm", decoder="predictions.decoder", bias="predictions.bias"
    ),
    Layout(  # DistilBERT
        dense="vocab_transform",
        norm="vocab_layer_norm",
        decoder="vocab_projector",
        bias="vocab_projector.bias",
        activation="activation",
        epsilon=1e-12,
    ),
    Layout(  # ModernBERT
        dense="head.dense",
        norm="head.norm",
        decoder="decoder",
        bias="decoder.bias",
        activation="classifier_activation",
        epsilon="norm_eps",
    ),
)
OPTIONAL = {"dense": "classifier_bias", "norm": "norm_bias", "bias": "decoder_bias"}
"""Fields of ModernBERT's configuration that tell whether a part has a bias; elsewhere all have one."""


class Transform(nn.Module):
    """Dense layer, activation and layer norm, frozen."""

    dense: Tensor
    dense_bias: Tensor | None
    norm: Tensor
    norm_bias: Tensor | None

    def __init__(
        self,
        dense_EH: Float[Tensor, "E H"],
        dense_bias_E: Float[Tensor, " E"] | None,
        norm_E: Float[Tensor, " E"],
        norm_bias_E: Float[Tensor, " E"] | None,
        *,
        activation: str,
        epsilon: float,
    ) -> None:
        super().__init__()
        self.activation = ACT2FN[activation]
        self.epsilon = epsilon
        tensors = {"dense": dense_EH, "dense_bias": dense_bias_E, "norm": norm_E, "norm_bias": norm_bias_E}
        for name, tensor in tensors.items():
            self.register_buffer(name, tensor, persistent=False)

    def forward(self, hidden_MH: Float[Tensor, "M H"]) -> Float[Tensor, "M E"]:
        """A hidden state as the vector that is compared with output embeddings."""
        dense_ME = self.activation(functional.linear(hidden_MH, self.dense, self.dense_bias))
        return functional.layer_norm(dense_ME, self.norm.shape, self.norm, self.norm_bias, self.epsilon)


class LanguageHead:
    """A backbone's language-model head in its files.

    Args:
        backbone: The loaded model.
    """

    def __init__(self, backbone: Backbone) -> None:
        identity = backbone.identity
        self.backbone = backbone
        self.config: Any = backbone.model.config
        self._where: dict[str, tuple[Path, str]] = {}
        for path in weight_files(locate(identity.reference, identity.revision)):
            with safe_open(path, framework="pt") as file:
                for key in file.keys():  # noqa: SIM118 (no mapping)
                    name = key
                    for old, new in LEGACY.items():
                        name = name.replace(old, new)
                    self._where[name] = (path, key)
        self.layout = next((layout for layout in LAYOUTS if f"{layout.dense}.weight" in self._where), None)

    def verbalizer(self, pieces: Sequence[int], labels: tuple[str, ...]) -> VerbalizerHead:
        """A head for labels whose words are these pieces.

        Raises:
            BackboneError: The files hold part of a head, or none and embeddings of another size than hidden states.
        """
        name, bias_C = self._embeddings(), torch.zeros(len(pieces))
        if self.layout is not None:
            decoder = self.layout.decoder
            bias = self.layout.bias
            if not getattr(self.config, "tie_word_embeddings", True):
                name, bias = f"{decoder}.weight", f"{decoder}.bias"
            if self._has_bias("bias"):
                bias_C = self._rows(bias if bias in self._where else f"{decoder}.bias", pieces)
        weight_CE = self._rows(name, pieces)
        width = len(self.transform.norm) if isinstance(self.transform, Transform) else self.backbone.hidden_size
        if weight_CE.shape[1] != width:
            raise BackboneError(
                f'backbone "{self.backbone.identity.reference}": verbalizer: output embeddings have size '
                f"{weight_CE.shape[1]}, and what they are compared with {width}: its files hold no head of a masked "
                "language model that fits. Get the model with its head, or remove verbalizer and template"
            )
        return VerbalizerHead(labels, self.transform, weight_CE, bias_C)

    @cached_property
    def transform(self) -> nn.Module:
        """What all verbalizers of the backbone share; the identity where the files hold no head."""
        layout = self.layout
        if layout is None:
            return nn.Identity()
        epsilon = getattr(self.config, layout.epsilon) if isinstance(layout.epsilon, str) else layout.epsilon
        return Transform(
            self._tensor(f"{layout.dense}.weight"),
            self._tensor(f"{layout.dense}.bias") if self._has_bias("dense") else None,
            self._tensor(f"{layout.norm}.weight"),
            self._tensor(f"{layout.norm}.bias") if self._has_bias("norm") else None,
            activation=getattr(self.config, layout.activation, layout.activation),
            epsilon=epsilon,
        )

    def _has_bias(self, part: str) -> bool:
        return bool(getattr(self.config, OPTIONAL[part], True))

    def _embeddings(self) -> str:
        """Name of the input embeddings in the files, which put the backbone's own name before it."""
        model: Any = self.backbone.model
        embeddings = model.get_input_embeddings()
        name = next(name for name, module in model.named_modules() if module is embeddings)
        return next(key for key in self._where if f".{key}".endswith(f".{name}.weight"))

    def _find(self, name: str) -> tuple[Path, str]:
        if name not in self._where:
            raise BackboneError(
                f'backbone "{self.backbone.identity.reference}": its files hold part of a language-model head, but no '
                f"{name}. Get them again, or remove verbalizer and template"
            )
        return self._where[name]

    def _tensor(self, name: str) -> Tensor:
        path, key = self._find(name)
        with safe_open(path, framework="pt") as file:
            return file.get_tensor(key).float()

    def _rows(self, name: str, pieces: Sequence[int]) -> Tensor:
        """Some rows, in float32; the others, which are many, are not read."""
        path, key = self._find(name)
        with safe_open(path, framework="pt") as file:
            rows = file.get_slice(key)
            return torch.cat([rows[piece : piece + 1] for piece in pieces]).float()


def new_heads(backbone: Backbone, tasks: Iterable[Task], *, seed: int, dropout: float = 0.0) -> dict[str, Head]:
    """The head that each task starts with: fresh, or the language model's where a word stands for each label.

    Args:
        backbone: The frozen model.
        tasks: The tasks; their examples are not needed.
        seed: Names the fresh weights, together with the task.
        dropout: Of fresh heads.

    Raises:
        MptError: The backbone has no head for a verbalizer, or does not know its words.
    """
    heads: dict[str, Head] = {}
    language: LanguageHead | None = None
    for task in tasks:
        if task.spec.cloze is None:
            heads[task.name] = TokenHead(backbone.hidden_size, task.labels, seed=seed, task=task.name, dropout=dropout)
            continue
        language = language or LanguageHead(backbone)
        pieces = label_pieces(task.spec, backbone.word_pieces, task=task.name)
        heads[task.name] = language.verbalizer([pieces[label] for label in task.labels], task.labels)
    return heads


def verbalizer_notices(backbone: Backbone, tasks: Iterable[Task]) -> list[str]:
    """What a user should know about the heads of tasks with verbalizers.

    Raises:
        MptError: See `new_heads`; before anything is trained.
    """
    own = [task for task in tasks if task.spec.cloze is not None]
    heads = new_heads(backbone, own, seed=0).values()
    if not any(isinstance(head, VerbalizerHead) and isinstance(head.transform, nn.Identity) for head in heads):
        return []
    return [
        f"verbalizer of {', '.join(task.name for task in own)}: the backbone's files hold no language-model head, so "
        "hidden states are compared with its input embeddings as they are"
    ]
