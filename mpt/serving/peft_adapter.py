"""A task state and a head as an adapter of PEFT, and back, without PEFT.

PEFT keeps what it trained in `adapter_model.safetensors`, with the head, and the rest in `adapter_config.json`. How a
part of a state looks there, and which it cannot express, is in `mpt.model.state.peft_form`; here are the files, the
head and its labels.

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
from mpt.model.backbone.backbone import Backbone
from mpt.model.backbone.identity import locate
from mpt.model.state.part import Part
from mpt.model.state.peft_form import FORMS, PeftForm, unexpressed
from mpt.serving.saved import SavedModel
from mpt.training.checkpoint import read_json

ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"
HEADS = {
    **dict.fromkeys(("BertModel", "ElectraModel", "RobertaModel", "XLMRobertaModel"), "classifier"),
    **dict.fromkeys(("AlbertModel", "DistilBertModel", "DebertaModel", "DebertaV2Model", "GPT2Model"), "classifier"),
    **dict.fromkeys(("LlamaModel", "MistralModel", "Qwen2Model", "Qwen3Model", "GlmModel"), "score"),
}
"""Backbones whose scores in PEFT are those of mpt, and what transformers calls their linear head over tokens."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PeftAdapter:
    """What PEFT keeps of a model for token classification.

    Attributes:
        form: How its part looks.
        config: PEFT's configuration.
        tensors: The part, by PEFT's names.
        weight, bias: The head, a row for each label.
        labels: Names of the rows; None where the folder does not say.
    """

    form: PeftForm
    config: Mapping[str, Any]
    tensors: Mapping[str, Tensor]
    weight: Float[Tensor, "C H"]
    bias: Float[Tensor, " C"]
    labels: tuple[str, ...] | None

    @property
    def base(self) -> str | None:
        """Where the backbone lies, as PEFT was told."""
        return self.config.get("base_model_name_or_path")

    @property
    def revision(self) -> str | None:
        """Its commit."""
        return self.config.get("revision")


def export_peft(saved: SavedModel, task: str, out: Path) -> None:
    """Write a task's state and head as a folder that PEFT loads.

    Args:
        saved: The model.
        task: One of its tasks.
        out: Folder to make.

    Raises:
        CheckpointError: PEFT cannot express the state, with everything that it cannot; `out` exists, or cannot be made.
    """
    head, backbone = saved.scorer.head(task), saved.scorer.backbone
    (form, part), identity = _expressible(saved, task), backbone.identity
    folder = locate(identity.reference, identity.revision)
    name = HEADS[identity.architecture]
    fields, tensors = form.write(part, backbone)
    config = {
        "peft_type": form.peft_type,
        "task_type": "TOKEN_CLS",
        "inference_mode": True,
        "base_model_name_or_path": str(folder) if identity.revision is None else identity.reference,
        "revision": identity.revision,
        **fields,
        "modules_to_save": [name],
    }
    tensors |= {f"{form.root}{name}.weight": head.weight, f"{form.root}{name}.bias": head.bias}
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
        reason = error.strerror or "it exists"
        raise CheckpointError(f"{out}: cannot make this folder: {reason}. Give another") from error


def _expressible(saved: SavedModel, task: str) -> tuple[PeftForm, Part]:
    """The part and its form; what would act in another way under PEFT is refused."""
    backbone, state = saved.scorer.backbone, saved.state
    if (problem := unexpressed(state)) is not None:
        raise CheckpointError(f"{saved.folder}: PEFT cannot express this task state: {problem}")
    ((kind, part),) = state.parts.items()
    form = FORMS[kind]
    problems = [*unsupported(form, backbone, part), *foreign_family(task, saved.tasks[task]["family"])]
    if backbone.word_pieces.mean:
        problems.append(
            "its head scores the mean of a word's pieces (backbone.word_state: mean), while models under PEFT score "
            "every piece. Train with backbone.word_state=piece"
        )
    if problems:
        place = f"{saved.folder}: PEFT cannot express this {form.noun}"
        raise CheckpointError([f"{place}: {problem}" for problem in problems])
    return form, part


def unsupported(form: PeftForm, backbone: Backbone, part: Part | None = None) -> list[str]:
    """Why an adapter and mpt give different scores over a backbone, of a part if given; nothing where they do not."""
    problems, identity = form.problems(backbone, part), backbone.identity
    if identity.architecture not in HEADS and not problems:
        problems.append(
            f'backbone "{identity.reference}" is a {identity.architecture}, which has more than a linear head for '
            f"token classification or was not compared with PEFT, expected one of {', '.join(HEADS)}. Use mpt for this "
            "one"
        )
    return problems


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
        CheckpointError: It is no adapter, or none for token classification that mpt has a part for; all problems of its
            configuration at once.
    """
    form, config = _read_config(folder)
    tensors, path = _read_tensors(folder), folder / ADAPTER_WEIGHTS
    heads = {f"{form.root}{name}" for name in HEADS.values()}
    found = [name for name in heads if {f"{name}.weight", f"{name}.bias"} <= tensors.keys()]
    own = {name: value.float() for name, value in tensors.items() if name.rpartition(".")[0] not in found}
    if (problem := form.misfit(config, own)) is not None:
        raise CheckpointError(f"{path}: {problem}")
    if len(found) != 1:
        raise CheckpointError(
            f"{path}: no linear head, expected {' or '.join(sorted(heads))} with weight and bias, got "
            f"{', '.join(sorted(tensors))}. Save the adapter of a model for token classification"
        )
    weight, bias = (tensors[f"{found[0]}.{part}"].float() for part in ("weight", "bias"))
    labels = _read_labels(folder, len(bias))
    return PeftAdapter(form=form, config=config, tensors=own, weight=weight, bias=bias, labels=labels)


def _read_config(folder: Path) -> tuple[PeftForm, Mapping[str, Any]]:
    """PEFT's configuration, which is of a kind that mpt has."""
    path = folder / ADAPTER_CONFIG
    if not path.is_file():
        told = f"no {ADAPTER_CONFIG} here, so this is no adapter. Give a folder that PEFT saved"
        raise CheckpointError(f"{folder}: {told}")
    config = read_json(path)
    forms = {form.peft_type: form for form in FORMS.values()}
    form = forms.get(str(config.get("peft_type")))
    kinds = {"peft_type": (" or ".join(forms), forms), "task_type": ("TOKEN_CLS", ("TOKEN_CLS",))}
    problems = [
        f"{key}: expected {told}, got {config.get(key)}. mpt takes prefix tuning and LoRA for token classification only"
        for key, (told, known) in kinds.items()
        if str(config.get(key)) not in known
    ]
    problems += [] if form is None else form.problems_in(config)
    if problems or form is None:
        raise CheckpointError([f"{path}: {problem}" for problem in problems])
    return form, config


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
