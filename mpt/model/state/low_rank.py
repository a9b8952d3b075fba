"""LoRA (arXiv:2106.09685) through PEFT's own layers: float32 adapters over the frozen weights."""

import importlib.util
import math
from typing import Any, Literal

import torch
from torch import nn

from mpt.base.errors import BackboneError
from mpt.base.seeding import torch_generator
from mpt.model.backbone.backbone import Backbone
from mpt.model.state.weights import Adaptation, Swap, trained_weights

Targets = Literal["default", "all-linear"]
ADAPTER = "default"  # PEFT's name for the only adapter of a model


def new_adaptation(backbone: Backbone, *, weights: str, seed: int, **lora_facts: Any) -> Adaptation:
    """What a method trains of a backbone, from its start.

    Args:
        backbone: Stays as it is.
        weights: "all", "biases" or "lora".
        seed: Of what is drawn.
        **lora_facts: Of `lora`.
    """
    backbone.switch.to(None)
    if weights == "lora":
        return lora(backbone.model, **lora_facts, seed=seed)
    return trained_weights(backbone.model, biases=weights == "biases")


def require_peft() -> None:
    """Refuse LoRA where PEFT is not installed.

    Raises:
        BackboneError: With the command that installs it.
    """
    if importlib.util.find_spec("peft") is None:
        raise BackboneError(
            "method \"lora\" needs PEFT, which is not installed here. Run: pip install 'mpt-prompts[peft]', or leave "
            "the method out"
        )


def lora(model: nn.Module, *, rank: int, alpha: int, targets: Targets, seed: int) -> Adaptation:
    """Low-rank updates of a backbone's linear layers.

    Args:
        model: The backbone's model, with its own weights in place.
        rank: Rank of an update.
        alpha: An update is multiplied by alpha / rank.
        targets: "default" updates what PEFT updates in this architecture, mostly queries and values; "all-linear"
            every linear layer.
        seed: Names the first factor's random values; the second starts at zero, and with it the update.

    Raises:
        BackboneError: PEFT is not installed, or knows no default for this architecture.
    """
    require_peft()
    trained: dict[str, tuple[nn.Parameter, nn.Parameter]] = {}
    swaps = []
    for name, layer in _layers(model, rank, alpha, targets).items():
        parent, _, attribute = name.rpartition(".")
        own = layer.get_base_layer()
        setattr(model.get_submodule(parent), attribute, own)
        swaps.append(Swap(module=model.get_submodule(parent), name=attribute, own=own, other=layer))
        down, up = layer.lora_A[ADAPTER].float(), layer.lora_B[ADAPTER].float()
        # As PEFT draws it, from a stream of its own.
        values = torch.empty(down.weight.shape)
        nn.init.kaiming_uniform_(values, a=math.sqrt(5), generator=torch_generator(seed, "lora", name))
        down.weight.data.copy_(values)
        for part, module in (("lora_A", down), ("lora_B", up)):
            trained[f"{name}.{part}.weight"] = (module.weight, module.weight)
    return Adaptation(trained, swaps)


def _layers(model: nn.Module, rank: int, alpha: int, targets: Targets) -> dict[str, Any]:
    """PEFT's layers by name, standing in the model."""
    from peft import LoraConfig, LoraModel  # type: ignore[import-not-found]
    from peft.tuners.lora import LoraLayer  # type: ignore[import-not-found]

    config = LoraConfig(r=rank, lora_alpha=alpha, target_modules=None if targets == "default" else targets)
    modes = {module: module.training for module in model.modules()}
    try:
        with torch.random.fork_rng(devices=[]):  # PEFT draws from the global generator what is drawn anew
            LoraModel(model, config, ADAPTER)
    except ValueError as error:
        raise BackboneError(
            f'method "lora": PEFT has no default for {type(model).__name__}. Set lora.targets=all-linear'
        ) from error
    del model.peft_config
    for module, mode in modes.items():
        module.training = mode
    return {name: module for name, module in model.named_modules() if isinstance(module, LoraLayer)}
