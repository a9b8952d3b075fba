"""The layers of a backbone: found, numbered by the order of their calls, tied to passes, recomputed.

Calls are numbered and not modules, since one module may be every layer (ALBERT). A layer's number and pass are fixed
when a forward pass calls it. So they are the same when the backward pass recomputes it, in whichever thread that is.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers.pytorch_utils import Conv1D

from mpt.base.errors import BackboneError, first_line
from mpt.model.backbone.forward import ForwardPass, Running

WORKING = (
    "Use one that works: BERT, RoBERTa, XLM-R, ELECTRA, ALBERT, DistilBERT, ModernBERT, DeBERTa, GLM, Llama, Mistral, "
    "Qwen, GPT-2 (docs/backbones.md has all)"
)

OWN_ATTENTION = (
    "it computes attention by itself instead of through transformers' AttentionInterface, so prompts would be ignored"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class LinearLayer:
    """A linear layer inside of the layers, whose outputs can be updated.

    Attributes:
        name: In the model.
        layers: Numbers of the layers that it is part of: several where one module is every layer.
        part: Whether it is in the part of its layer that holds the attention.
        in_features, out_features: Sizes of its input and output.
        transposed: Its weight is stored as [in, out].
    """

    name: str
    layers: tuple[int, ...]
    part: Literal["attention", "feed-forward"]
    in_features: int
    out_features: int
    transposed: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Stack:
    """A backbone's layers, ready for passes.

    Attributes:
        num_layers: Their number.
        linears: Linear layers in them.
        text_keys: Keys of a text of two pieces in the first layer, for their shape.
        causal: A piece sees only those before it.
        drops: Whether it has dropout modules of its own that a pass goes through.
    """

    num_layers: int
    linears: tuple[LinearLayer, ...]
    text_keys: Float[Tensor, "1 G 2 D"]
    causal: bool
    drops: bool


class _Layer:
    """The forward method of a layer, called once or several times in a pass.

    Args:
        forward: The layer's own.
        running: Numbers the calls.
        device: Of the backbone.
        recompute: Keep only a call's inputs for the backward pass, and compute the rest again there.
    """

    def __init__(self, forward: Callable[..., Any], running: Running, device: torch.device, *, recompute: bool) -> None:
        self.forward, self.running, self.device, self.recompute = forward, running, device, recompute

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        number = self.running.called
        self.running.called += 1
        call = partial(self._within, self.running.forward, number, **kwargs)
        if self.recompute and torch.is_grad_enabled():
            # Dropout begins the layer's stream anew, so there is no state of generators to keep.
            return checkpoint(call, *args, use_reentrant=False, preserve_rng_state=False)
        return call(*args)

    def _within(self, forward: ForwardPass, number: int, *args: Any, **kwargs: Any) -> Any:
        before = self.running.forward
        self.running.enter(forward, number, self.device)
        try:
            return self.forward(*args, **kwargs)
        finally:
            if before is not forward:  # computed again: leave nothing of the pass behind
                self.running.enter(before, -1, self.device)


class _Linear:
    """The forward method of a linear layer: its own, and what the pass adds to it."""

    def __init__(self, forward: Callable[[Tensor], Tensor], running: Running, name: str) -> None:
        self.forward, self.running, self.name = forward, running, name

    def __call__(self, inputs: Float[Tensor, "*n I"]) -> Float[Tensor, "*n O"]:
        outputs = self.forward(inputs)
        update = self.running.forward.updates.get(self.name)
        if update is None:
            return outputs
        try:
            return update.added(inputs, outputs)
        except ValueError as error:
            raise BackboneError(
                f"{self.name}: {error}: DeBERTa projects positions, with share_att_key as it projects the text. "
                "Low-rank updates of several task states cannot meet in a batch over it: use a batch for each"
            ) from error


def install(model: nn.Module, running: Running, *, reference: str, recompute: bool = False) -> Stack:
    """Tie a backbone, whose attention is `mpt.model.backbone.attention`'s, to the passes through it.

    Args:
        model: The backbone, tied to `running`.
        running: The pass in progress.
        reference: What the user calls it, for messages.
        recompute: Compute layers again in the backward pass to save memory.

    Raises:
        BackboneError: Its attention cannot be prompted, or it is not one stack of layers with one attention each.
    """
    name = f'backbone "{reference}" ({type(model).__name__})'
    device: torch.device = model.device  # type: ignore[assignment]
    observed = _observe(model, running, name)
    if not observed:
        raise BackboneError(f"{name}: {OWN_ATTENTION}. {WORKING}")
    attentions = [module for module, _ in observed]
    layers = _layers_of(model, attentions, name)
    for layer in {id(layer): layer for layer in layers}.values():
        layer.forward = _Layer(layer.forward, running, device, recompute=recompute)
    linears = tuple(_linears(model, layers, attentions))
    for linear in linears:
        module = model.get_submodule(linear.name)
        module.forward = _Linear(module.forward, running, linear.name)
    running.asked = 0
    again = _observe(model, running, name)
    assert running.called == len(layers) == len(again), "every attention module was called by its own layer"
    running.begin(ForwardPass(), device)
    return Stack(
        num_layers=len(layers),
        linears=linears,
        text_keys=observed[0][1],
        causal=any(bool(getattr(module, "is_causal", False)) for module in attentions),
        drops=running.asked > 0,
    )


def _observe(model: Any, running: Running, name: str) -> list[tuple[nn.Module, Tensor]]:
    """The attention modules, and the keys of a text of two pieces, in the order in which a pass calls them."""
    observed: list[tuple[nn.Module, Tensor]] = []
    running.begin(ForwardPass(observe=lambda module, keys, _: observed.append((module, keys))), model.device)
    try:
        with torch.no_grad():
            model(input_ids=torch.ones((1, 2), dtype=torch.long, device=model.device))
    except BackboneError as error:
        raise BackboneError(f"{name}: {error}. {WORKING}") from error
    except Exception as error:  # whatever a model says that needs more than a text, such as an image
        raise BackboneError(
            f"{name} cannot compute states of word pieces alone ({type(error).__name__}: {first_line(error)}). "
            f"{WORKING}"
        ) from error
    return observed


def _layers_of(model: nn.Module, attentions: list[nn.Module], name: str) -> list[nn.Module]:
    """The layer that each attention module is in."""
    owners = {id(module): owner for module, owner in _owners(model, None)}
    layers = [layer for module in attentions if (layer := owners.get(id(module))) is not None]
    inside = {id(layer): module for layer, module in zip(layers, attentions, strict=False)}
    stacks = [stack for stack in model.modules() if isinstance(stack, nn.ModuleList)]
    stacks = [stack for stack in stacks if any(id(layer) in inside for layer in stack)]
    bare = [str(number) for stack in stacks for number, layer in enumerate(stack) if id(layer) not in inside]
    if bare or len(layers) < len(attentions):
        where = f"of layers {', '.join(bare)}" if bare else "outside of its layers"
        raise BackboneError(f"{name} computes attention {where} in a way of its own, which takes no prompt. {WORKING}")
    if any(inside[id(layer)] is not module for layer, module in zip(layers, attentions, strict=True)):
        raise BackboneError(f"{name} has layers with more than one attention, and a deep prompt needs one. {WORKING}")
    return layers


def _owners(module: nn.Module, owner: nn.Module | None) -> Iterator[tuple[nn.Module, nn.Module | None]]:
    """Every module with the innermost member of a list of modules that it is in."""
    for child in module.children():
        own = child if isinstance(module, nn.ModuleList) else owner
        yield child, own
        yield from _owners(child, own)


def _linears(model: nn.Module, layers: Sequence[nn.Module], attentions: Sequence[nn.Module]) -> Iterator[LinearLayer]:
    """The linear layers inside of the layers, in the model's order."""
    names = {id(module): name for name, module in model.named_modules()}
    numbers: dict[int, list[int]] = {}
    for number, layer in enumerate(layers):
        numbers.setdefault(id(layer), []).append(number)
    inside = {id(layer): names[id(module)] for layer, module in zip(layers, attentions, strict=True)}
    for layer in {id(layer): layer for layer in layers}.values():
        within = names[id(layer)]
        around = ".".join(inside[id(layer)].split(".")[: within.count(".") + 2])
        for name, module in layer.named_modules(prefix=within):
            if not isinstance(module, nn.Linear | Conv1D):
                continue
            sizes = (module.nx, module.nf) if isinstance(module, Conv1D) else (module.in_features, module.out_features)
            yield LinearLayer(
                name=name,
                layers=tuple(numbers[id(layer)]),
                part="attention" if f"{name}.".startswith(f"{around}.") else "feed-forward",
                in_features=sizes[0],
                out_features=sizes[1],
                transposed=isinstance(module, Conv1D),
            )
