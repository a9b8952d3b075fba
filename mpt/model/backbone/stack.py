"""The layers of a backbone: found, numbered by the order of their calls, tied to prompts, recomputed or skipped.

Calls are numbered and not modules, since one module may be every layer (ALBERT). A layer's number and prompt are fixed
when a forward pass calls it. So they are the same when the backward pass recomputes it, in whichever thread that is.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from mpt.base.errors import BackboneError, first_line
from mpt.model.backbone.attention import Injection, LayerPrompt, tie
from mpt.model.backbone.dropout import DropoutStreams, HiddenDropout, take_over
from mpt.model.backbone.trunk import Trunk

WORKING = (
    "Use one that works: BERT, RoBERTa, XLM-R, ELECTRA, ALBERT, DistilBERT, ModernBERT, DeBERTa, GLM, Llama, Mistral, "
    "Qwen, GPT-2 (docs/backbones.md has all)"
)

OWN_ATTENTION = (
    "it computes attention by itself instead of through transformers' AttentionInterface, so prompts would be ignored"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Stack:
    """A backbone's layers, ready for prompts.

    Attributes:
        injection: Where the current batch's prompts are put.
        dropout: The backbone's own.
        trunk: Where a forward pass can begin above the first layers; None where a layer needs more than the output of
            the one below it.
        text_keys: Keys of a text of two pieces in the first layer, for their shape.
        causal: A piece sees only those before it.
    """

    injection: Injection
    dropout: HiddenDropout
    trunk: Trunk | None
    text_keys: Float[Tensor, "1 G 2 D"]
    causal: bool


class _Layer:
    """The forward method of a layer, called once or several times in a forward pass of the backbone.

    Args:
        forward: The layer's own.
        injection: Numbers the calls.
        trunk: May skip some.
        dropout: Has a stream for each call.
        recompute: Keep only a call's inputs for the backward pass, and compute the rest again there.
    """

    def __init__(
        self,
        forward: Callable[..., Any],
        injection: Injection,
        trunk: Trunk,
        dropout: HiddenDropout,
        *,
        recompute: bool,
    ) -> None:
        self.forward, self.injection, self.trunk, self.dropout = forward, injection, trunk, dropout
        self.recompute = recompute
        self.extras: int | None = None  # what the layer returns beside the states; None when states alone

    def __call__(self, hidden: Float[Tensor, "B S H"], *args: Any, **kwargs: Any) -> Any:
        number = self.injection.called
        self.injection.called += 1
        hidden, runs = self.trunk.before(number, hidden)
        if not runs:
            return hidden if self.extras is None else (hidden, *[None] * self.extras)
        call = partial(self._with_prompt, self.injection.prompts[number], self.dropout.streams(), number, **kwargs)
        if self.recompute and torch.is_grad_enabled():
            # Dropout begins the layer's stream anew, so there is no state of generators to keep.
            return checkpoint(call, hidden, *args, use_reentrant=False, preserve_rng_state=False)
        return call(hidden, *args)

    def _with_prompt(
        self, prompt: LayerPrompt | None, streams: DropoutStreams | None, number: int, *args: Any, **kwargs: Any
    ) -> Any:
        self.injection.prompt = prompt
        self.dropout.enter(streams, number + 1)
        output = self.forward(*args, **kwargs)
        self.extras = len(output) - 1 if isinstance(output, tuple) else None
        return output


def install(model: nn.Module, *, reference: str, recompute: bool = False) -> Stack:
    """Tie a backbone, whose attention is `mpt.model.backbone.attention`'s, to prompts.

    Args:
        model: The backbone.
        reference: What the user calls it, for messages.
        recompute: Compute layers again in the backward pass to save memory.

    Raises:
        BackboneError: Its attention cannot be prompted, or it is not one stack of layers with one attention each.
    """
    name = f'backbone "{reference}" ({type(model).__name__})'
    attentions = _attentions(model, name)
    layers = _layers_of(model, attentions, name)
    injection, trunk = tie(model, Injection(len(layers))), Trunk()
    dropout = take_over(model, model.device)  # type: ignore[arg-type]
    for layer in {id(layer): layer for layer in layers}.values():
        layer.forward = _Layer(layer.forward, injection, trunk, dropout, recompute=recompute)

    def begin(*_: Any) -> None:
        injection.called = 0

    model.register_forward_pre_hook(begin)
    injection.captured = []
    whole = _run(model, name)
    keys, injection.captured = injection.captured[0][0], None
    assert injection.called == len(layers), "every attention module was called by its own layer"
    return Stack(
        injection=injection,
        dropout=dropout,
        trunk=trunk if _goes_on_from_states(model, trunk, whole, name) else None,
        text_keys=keys,
        causal=any(bool(getattr(module, "is_causal", False)) for module in attentions),
    )


def _run(model: Any, name: str) -> Float[Tensor, "1 2 H"]:
    """The states of a text of two pieces."""
    try:
        with torch.no_grad():
            return model(input_ids=torch.ones((1, 2), dtype=torch.long, device=model.device)).last_hidden_state
    except BackboneError as error:
        raise BackboneError(f"{name}: {error}. {WORKING}") from error
    except Exception as error:  # whatever a model says that needs more than a text, such as an image
        raise BackboneError(
            f"{name} cannot compute states of word pieces alone ({type(error).__name__}: {first_line(error)}). "
            f"{WORKING}"
        ) from error


def _attentions(model: nn.Module, name: str) -> list[nn.Module]:
    """The attention modules in the order in which a forward pass calls them."""
    trial = tie(model, Injection(0))
    trial.attentions = []
    _run(model, name)
    if not trial.attentions:
        raise BackboneError(f"{name}: {OWN_ATTENTION}. {WORKING}")
    return trial.attentions


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


def _goes_on_from_states(model: nn.Module, trunk: Trunk, whole: Tensor, name: str) -> bool:
    """Whether states kept below the last layer lead to the same output as computing all layers."""
    trunk.depth, trunk.capturing = 1, True
    _run(model, name)
    trunk.capturing, trunk.states = False, trunk.captured
    again = _run(model, name) if trunk.states is not None else whole
    trunk.depth, trunk.states, trunk.captured = 0, None, None
    return torch.equal(again, whole)
