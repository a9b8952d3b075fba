"""The head that a backbone was trained with as a masked language model, for the words of verbalizers.

transformers' own model computes it, made without its body: only the head's weights are read from the backbone's files,
and of the output embeddings only the rows of the words that stand for labels.
"""

from collections.abc import Callable, Iterable, Sequence
from copy import deepcopy
from typing import Any

import torch
from accelerate import init_empty_weights
from safetensors import safe_open
from torch import Tensor, nn
from transformers import AutoModel, AutoModelForMaskedLM
from transformers.modeling_outputs import BaseModelOutput

from mpt.base.errors import BackboneError
from mpt.data.families.texts import label_pieces
from mpt.data.tasks import Task
from mpt.model.backbone.backbone import Backbone
from mpt.model.backbone.identity import locate
from mpt.model.backbone.sharding import fill, find_sources
from mpt.model.heads import Head, TokenHead, VerbalizerHead


class LanguageHead:
    """A backbone's language-model head in its files; the input embeddings where these hold none.

    Args:
        backbone: The loaded model.

    Raises:
        BackboneError: The files hold part of a head.
    """

    def __init__(self, backbone: Backbone) -> None:
        identity = backbone.identity
        config: Any = deepcopy(backbone.model.config)
        self.reference, self.device, self.width = identity.reference, backbone.device, backbone.hidden_size
        self.transform: Callable[[Tensor], Tensor] = nn.Identity()
        self.bias: str | None = None
        for config.legacy in (
            True,
            False,
        ):  # DeBERTa's head has the names of today, or those that it was published with
            model = _empty(config)
            self.sources = find_sources(model, locate(identity.reference, identity.revision), self.reference)
            self.weight = _place(model, model.get_input_embeddings()) + ".weight"
            if hasattr(model, model.base_model_prefix) and self._holds(model):
                self.transform = self._take(model.eval().requires_grad_(False))
                break

    def _holds(self, model: Any) -> bool:
        """Whether the files hold the model's head."""
        body, tied = f"{model.base_model_prefix}.", model.all_tied_weights_keys
        for name, other in tied.items():  # stored once, under either name
            found = self.sources.get(other) or self.sources.get(name)
            self.sources |= {} if found is None else {name: found, other: found}
        own = [name for name in model.state_dict() if not tied.get(name, name).startswith(body)]
        missing = [name for name in own if name not in self.sources]
        if missing and len(missing) < len(own):
            raise BackboneError(
                f'backbone "{self.reference}": its files hold part of a language-model head, but no {missing[0]}. Get '
                "them again, or remove verbalizer and template"
            )
        return not missing

    def _take(self, model: Any) -> Callable[[Tensor], Tensor]:
        """Read the head, all but its output embeddings."""
        where = {"reference": self.reference, "device": self.device}
        if hasattr(model, "lm_predictions"):
            head, self.bias = model.lm_predictions.lm_head, "lm_predictions.lm_head.bias"
            fill(head, "lm_predictions.lm_head.", self.sources, **where)
            return lambda hidden_MH: head.LayerNorm(head.transform_act_fn(head.dense(hidden_MH)))
        decoder = model.get_output_embeddings()
        place, self.width = _place(model, decoder), decoder.in_features
        self.weight, self.bias = f"{place}.weight", None if decoder.bias is None else f"{place}.bias"
        model.set_submodule(place, nn.Identity())
        delattr(model, model.base_model_prefix)  # in its place the states that there are already
        setattr(model, model.base_model_prefix, lambda *_, inputs_embeds, **__: BaseModelOutput(inputs_embeds))
        fill(model, "", self.sources, **where)
        return lambda hidden_MH: model(inputs_embeds=hidden_MH[None]).logits[0]

    def verbalizer(self, pieces: Sequence[int], labels: tuple[str, ...]) -> VerbalizerHead:
        """A head for labels whose words are these pieces.

        Raises:
            BackboneError: The files hold no head, and embeddings of another size than hidden states.
        """
        weight_CE = self._rows(self.weight, pieces)
        if weight_CE.shape[1] != self.width:
            raise BackboneError(
                f'backbone "{self.reference}": verbalizer: output embeddings have size {weight_CE.shape[1]}, and what '
                f"they are compared with {self.width}: its files hold no head of a masked language model that fits. "
                "Get the model with its head, or remove verbalizer and template"
            )
        bias_C = torch.zeros(len(pieces)) if self.bias is None else self._rows(self.bias, pieces)
        return VerbalizerHead(labels, self.transform, weight_CE, bias_C)

    def _rows(self, name: str, pieces: Sequence[int]) -> Tensor:
        """Some rows, in float32; the others, which are many, are not read."""
        path, key = self.sources[name]
        with safe_open(path, framework="pt") as file:
            rows = file.get_slice(key)
            return torch.cat([rows[piece : piece + 1] for piece in pieces]).float()


def _empty(config: Any) -> Any:
    """The masked language model of a configuration without its weights; the bare model where there is none."""
    family = AutoModelForMaskedLM if type(config) in AutoModelForMaskedLM._model_mapping else AutoModel
    with init_empty_weights(include_buffers=False):
        return family.from_config(config, dtype=torch.float32, attn_implementation="eager", trust_remote_code=False)


def _place(model: nn.Module, part: nn.Module) -> str:
    return next(name for name, module in model.named_modules() if module is part)


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
