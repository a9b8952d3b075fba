"""How a part looks in an adapter of PEFT's: the fields of its configuration, its tensors under PEFT's names, and back.

A deep prompt is PEFT's prefix tuning: a row for each virtual token, its key and value in every layer. PEFT hands it to
the backbone through `past_key_values`, in every layer, with the text's positions behind it. Low-rank updates are
PEFT's LoRA. What acts in another way cannot be expressed.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from mpt.base.settings import PartKind
from mpt.model.backbone.backbone import Backbone
from mpt.model.state.bank import TaskState
from mpt.model.state.low_rank import LowRank
from mpt.model.state.network import by_layer, by_token
from mpt.model.state.part import Part
from mpt.model.state.prompt import Prompt, PromptShape

AS_A_BACKBONE = "Merge the adapter with PEFT (merge_and_unload) and take the model as a backbone"


class PeftForm:
    """The form of parts of one kind.

    Attributes:
        noun: What messages call such a part.
        peft_type: What PEFT calls it.
        root: What PEFT puts before the names of the model's own modules.
        shifted: Whether text starts behind virtual tokens.
    """

    noun: ClassVar[str]
    peft_type: ClassVar[str]
    root: ClassVar[str]
    shifted: ClassVar[bool]

    def virtual_tokens(self, config: Mapping[str, Any]) -> int:
        """Positions that a part takes from a text that starts behind them."""
        return config["num_virtual_tokens"] if self.shifted else 0

    def problems(self, backbone: Backbone, part: Any = None) -> list[str]:
        """Why PEFT cannot express a part, or any such part over a backbone."""
        return []

    def write(self, part: Any, backbone: Backbone) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Fields of the configuration, and tensors by PEFT's names."""
        raise NotImplementedError

    def problems_in(self, config: Mapping[str, Any]) -> list[str]:
        """What a configuration has that mpt has not."""
        raise NotImplementedError

    def misfit(self, config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> str | None:
        """Why the part's tensors, which are all but the head's, are not those of the configuration."""
        raise NotImplementedError

    def sizes(
        self, config: Mapping[str, Any], tensors: Mapping[str, Tensor], backbone: Backbone
    ) -> dict[str, tuple[Any, Any]]:
        """The adapter's sizes and a backbone's, which are to agree."""
        raise NotImplementedError

    def read(self, config: Mapping[str, Any], tensors: Mapping[str, Tensor], backbone: Backbone) -> Part:
        """The part."""
        raise NotImplementedError


class PrefixTuning(PeftForm):
    """Of deep prompts."""

    noun, peft_type, root, shifted = "prompt", "PREFIX_TUNING", "base_model.", True
    architectures = ("BertModel", "ElectraModel", "RobertaModel", "XLMRobertaModel", "LlamaModel", "Qwen2Model")

    def problems(self, backbone: Backbone, part: Prompt | None = None) -> list[str]:
        """The backbone takes `past_key_values`; every layer is prompted, and the text behind the prompt."""
        problems, identity = [], backbone.identity
        if identity.architecture not in self.architectures:
            problems.append(
                f'backbone "{identity.reference}" is a {identity.architecture}, which does not take past_key_values or '
                f"was not compared with PEFT, expected one of {', '.join(self.architectures)}. Use mpt for this one"
            )
        if part is not None and not backbone.shifted:
            problems.append(
                "its text keeps its positions (backbone.positions: unshifted), while PEFT moves the text behind the "
                "prompt. Train with backbone.positions=shifted"
            )
        if part is not None and len(part.shape.layers) < part.shape.num_layers:
            problems.append(
                f"it prompts layers {', '.join(map(str, part.shape.layers))} of {part.shape.num_layers}, while PEFT "
                "prompts all. Train with prompt.layers=all"
            )
        return problems

    def write(self, part: Prompt, backbone: Backbone) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """One row for each virtual token."""
        shape = part.shape
        config = {
            "num_virtual_tokens": shape.length,
            "num_layers": shape.num_layers,
            "num_attention_heads": shape.num_heads,
            "token_dim": shape.num_heads * shape.head_dim,
            "num_transformer_submodules": 1,
            "encoder_hidden_size": shape.num_heads * shape.head_dim,
            "prefix_projection": False,
        }
        return config, {"prompt_embeddings": by_token(part.flat)}

    def problems_in(self, config: Mapping[str, Any]) -> list[str]:
        """Sizes are numbers, and there is one stack of layers."""
        modules = config.get("num_transformer_submodules")
        problems = [f"num_transformer_submodules: expected 1, got {modules}. mpt prompts one stack of layers"]
        return problems * (modules != 1) + [
            f"{key}: expected a whole number from 1, got {config.get(key)}. Save the adapter with PEFT again"
            for key in ("num_virtual_tokens", "num_layers", "num_attention_heads", "token_dim")
            if not _counts(config.get(key))
        ]

    def misfit(self, config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> str | None:
        """One tensor of the sizes in the configuration."""
        expected = (config["num_virtual_tokens"], config["num_layers"] * 2 * config["token_dim"])
        found = tuple(tensors["prompt_embeddings"].shape) if "prompt_embeddings" in tensors else None
        if found == expected:
            return None
        return (
            f"prompt_embeddings has shape {found}, expected {expected} [num_virtual_tokens, num_layers * 2 * "
            "token_dim] by adapter_config.json. The files do not belong together; save the adapter again"
        )

    def sizes(
        self, config: Mapping[str, Any], tensors: Mapping[str, Tensor], backbone: Backbone
    ) -> dict[str, tuple[Any, Any]]:
        """Of layers, heads and virtual tokens."""
        layers, heads = backbone.num_layers, backbone.num_key_value_heads
        width = 2 * layers * heads * backbone.head_dim
        return {
            "num_layers": (config["num_layers"], layers),
            "num_attention_heads": (config["num_attention_heads"], heads),
            "values of a virtual token": (tensors["prompt_embeddings"].shape[1], width),
        }

    def read(self, config: Mapping[str, Any], tensors: Mapping[str, Tensor], backbone: Backbone) -> Part:
        """A flat prompt of all layers."""
        shape = PromptShape(
            num_layers=backbone.num_layers,
            layers=tuple(range(backbone.num_layers)),
            num_heads=backbone.num_key_value_heads,
            length=config["num_virtual_tokens"],
            head_dim=backbone.head_dim,
        )
        values = by_layer(tensors["prompt_embeddings"], num_heads=shape.num_heads, head_dim=shape.head_dim)
        return Prompt(values.contiguous(), shape)


class Lora(PeftForm):
    """Of low-rank updates."""

    noun, peft_type, root, shifted = "low-rank update", "LORA", "base_model.model.", False
    without_effect = (
        *("task_type", "peft_type", "peft_version", "auto_mapping", "base_model_name_or_path", "revision"),
        *("inference_mode", "r", "lora_alpha", "lora_dropout", "use_rslora", "fan_in_fan_out", "init_lora_weights"),
        *("target_modules", "exclude_modules", "layers_to_transform", "layers_pattern", "modules_to_save"),
        *("megatron_core", "runtime_config", "qalora_group_size", "ensure_weight_tying", "eva_config"),
    )
    """Fields that are read, or that change nothing once there are tensors; any other has to be empty."""
    ends = (".lora_A.weight", ".lora_B.weight")

    def write(self, part: LowRank, backbone: Backbone) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Each updated layer by its full name."""
        start: Any = f"{backbone.model.base_model_prefix}."
        config = {
            "r": part.rank,
            "lora_alpha": int(part.alpha) if part.alpha == int(part.alpha) else part.alpha,
            "lora_dropout": 0.0,
            "bias": "none",
            "target_modules": [start + name for name in part.names],
            "fan_in_fan_out": any(it.transposed for it in backbone.linears if it.name in part.names),
        }
        return config, {f"{self.root}{start}{name}": value for name, value in part.values().items()}

    def problems_in(self, config: Mapping[str, Any]) -> list[str]:
        """Whatever is no plain LoRA of one rank and one alpha."""
        alpha, start = config.get("lora_alpha"), config.get("init_lora_weights", True)
        problems = []
        if not _counts(config.get("r")):
            problems.append(f"r: expected a whole number from 1, got {config.get('r')}. Save the adapter again")
        if not isinstance(alpha, int | float) or isinstance(alpha, bool) or alpha <= 0:
            problems.append(f"lora_alpha: expected a number above 0, got {alpha}. Save the adapter again")
        if start not in (True, False, "gaussian", "eva"):
            problems.append(
                f"init_lora_weights: expected true, false, gaussian or eva, got {start}, which changes the backbone's "
                f"weights. {AS_A_BACKBONE}"
            )
        for key, value in config.items():
            if key not in self.without_effect and value and (key, value) != ("bias", "none"):
                expected = "none" if key == "bias" else "nothing" if value is not True else "false"
                problems.append(f"{key}: expected {expected}, got {value}, which mpt does not have. {AS_A_BACKBONE}")
        return problems

    def misfit(self, config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> str | None:
        """Pairs of A and B of one rank, and nothing else."""
        rank = config["r"]
        foreign = [name for name in tensors if not name.startswith(self.root) or not name.endswith(self.ends)]
        if foreign:
            return (
                f"expected low-rank updates of linear layers and a linear head alone, got {foreign[0]} "
                f"({len(foreign)} such tensors). {AS_A_BACKBONE}"
            )
        for name in dict.fromkeys(name.removesuffix(self.ends[0]).removesuffix(self.ends[1]) for name in tensors):
            down, up = (tensors.get(f"{name}{end}", torch.zeros(())) for end in self.ends)
            if down.dim() != 2 or up.dim() != 2 or (len(down), up.shape[1]) != (rank, rank):
                found = f"{tuple(down.shape)} and {tuple(up.shape)}"
                return (
                    f"{name}: lora_A and lora_B have shapes {found}, expected [r, in] and [out, r] with r {rank} by "
                    "adapter_config.json. The files do not belong together; save the adapter again"
                )
        return None if tensors else "expected low-rank updates, got none. Save the adapter again"

    def sizes(
        self, config: Mapping[str, Any], tensors: Mapping[str, Tensor], backbone: Backbone
    ) -> dict[str, tuple[Any, Any]]:
        """The first updated layer that the backbone does not have, or has in another size."""
        linears = {it.name: f"{it.in_features} to {it.out_features}" for it in backbone.linears}
        own = {name: f"{down.shape[1]} to {len(up)}" for name, (down, up) in self._factors(tensors, backbone).items()}
        wrong = [name for name, size in own.items() if linears.get(name) != size]
        return {f"linear layer {name}": (own[name], linears.get(name, "has none in its layers")) for name in wrong[:1]}

    def read(self, config: Mapping[str, Any], tensors: Mapping[str, Tensor], backbone: Backbone) -> Part:
        """Rank-stabilised updates (alpha / sqrt(r)) get the alpha that makes them ordinary ones (alpha / r)."""
        alpha = config["lora_alpha"] * (config["r"] ** 0.5 if config.get("use_rslora") else 1)
        return LowRank(self._factors(tensors, backbone), alpha=alpha)

    def _factors(self, tensors: Mapping[str, Tensor], backbone: Backbone) -> dict[str, tuple[Tensor, Tensor]]:
        """A and B by the layer's name in the backbone, in the backbone's order."""
        start, (down, up) = f"{self.root}{backbone.model.base_model_prefix}.", self.ends
        names = [name.removesuffix(down).removeprefix(start) for name in tensors if name.endswith(down)]
        order = {linear.name: number for number, linear in enumerate(backbone.linears)}
        names.sort(key=lambda name: order.get(name, -1))
        found = {name.removeprefix(start): value for name, value in tensors.items()}
        return {name: (found[f"{name}{down}"], found[f"{name}{up}"]) for name in names}


FORMS: Mapping[PartKind, PeftForm] = {"prompt": PrefixTuning(), "low_rank": Lora()}
"""Of the kinds that PEFT has too."""


def unexpressed(state: TaskState) -> str | None:
    """Why a task state is not one part that PEFT has too; None where it is."""
    kinds = list(state.parts)
    if not kinds:
        return "it has a head on the bare backbone and neither a prompt nor low-rank updates, so there is no adapter"
    foreign = [kind for kind in kinds if kind not in FORMS]
    if foreign or len(kinds) > 1:
        expected = " or ".join(FORMS)
        merges = all(part.merges for part in state.parts.values())
        instead = "Make a backbone of it with --format backbone" if merges else "Use mpt for this one"
        return f"it has {' and '.join(kinds)}, expected {expected}, one of them: PEFT's adapter is one part. {instead}"
    return None


def _counts(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1
