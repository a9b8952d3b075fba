"""DeBERTa's attention through mpt's: content scores, plus what its own code adds for relative positions.

DeBERTa computes attention by itself instead of through transformers' registry. Here its attention modules get another
forward method, which calls their own projections and their own function for the scores of relative positions. Virtual
tokens have no position: their columns hold content scores alone, on the same scale, as in the reference implementation.
"""

import inspect
import math
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from mpt.base.errors import BackboneError
from mpt.model.backbone.attention import attend

ARGUMENTS = ("hidden_states", "attention_mask", "output_attentions", "query_states", "relative_pos", "rel_embeddings")
BIAS_ARGUMENTS = ("query_layer", "key_layer", "relative_pos", "rel_embeddings", "scale_factor")
TOLERANCE = {torch.bfloat16: 0.1, torch.float32: 1e-3}
"""Largest difference between the states of its own attention and of mpt's, as a share of their norm."""


def adapt(model: Any, *, reference: str) -> None:
    """Give DeBERTa's attention modules a forward method that knows of prompts; other families are left alone.

    Raises:
        BackboneError: The installed transformers has another DeBERTa than this was written for, or the model mixes
            the scores of its heads.
    """
    forward = {"deberta": _first_version, "deberta-v2": _second_version}.get(model.config.model_type)
    if forward is None:
        return
    name = f'backbone "{reference}" ({type(model).__name__})'
    if getattr(model.config, "talking_head", False):
        raise BackboneError(f"{name} mixes the scores of its heads (talking_head), which prompts do not support")
    attentions = [module for module in model.modules() if type(module).__name__ == "DisentangledSelfAttention"]
    if not attentions or not all(_as_expected(module, forward) for module in attentions):
        raise _another(name, "its attention takes other arguments")
    expected = _states(model)
    for module in attentions:
        module.forward = partial(forward, module)
    model.encoder.get_attention_mask = _columns
    convolution = getattr(model.encoder, "conv", None)
    if convolution is not None:
        convolution.forward = partial(_convolve, convolution.forward)
    error = (_states(model) - expected).norm() / expected.norm()
    if not error < TOLERANCE[expected.dtype]:
        raise _another(name, f"without a prompt, states differ by {float(error):.0%} of their norm")


def cast_biases(model: Any, dtype: torch.dtype) -> None:
    """Bring the biases of DeBERTa's first version, which it makes in float32 whatever is asked for, to a type."""
    for module in model.modules():
        if type(module).__name__ == "DisentangledSelfAttention" and hasattr(module, "q_bias"):
            for bias in (module.q_bias, module.v_bias):
                bias.data = bias.data.to(dtype)


def _another(name: str, difference: str) -> BackboneError:
    return BackboneError(
        f"{name}: the installed transformers computes DeBERTa's attention in another way than mpt's adapter was "
        f"written for ({difference}). Install a transformers that pyproject.toml names, or use another backbone"
    )


def _as_expected(module: Any, forward: Callable[..., Any]) -> bool:
    """Whether an attention module takes what it took when this was written."""
    bias = "disentangled_att_bias" if forward is _first_version else "disentangled_attention_bias"
    wanted = {"forward": ARGUMENTS, bias: BIAS_ARGUMENTS}
    return all(
        hasattr(module, method) and tuple(inspect.signature(getattr(module, method)).parameters) == arguments
        for method, arguments in wanted.items()
    )


def _states(model: Any) -> Float[Tensor, "1 8 H"]:
    with torch.no_grad():
        return model(input_ids=torch.arange(1, 9, device=model.device)[None]).last_hidden_state


def _columns(mask: Tensor) -> Bool[Tensor, "B 1 1 S"]:
    """Which pieces are seen: by every query, also by those of the padding, whose states nobody reads."""
    return mask.bool()[:, None, None, :]


def _convolve(forward: Callable[..., Tensor], hidden: Tensor, residual: Tensor, mask: Tensor) -> Tensor:
    """DeBERTa-v2's convolution, which subtracts masks and so takes no bool."""
    return forward(hidden, residual, mask.to(hidden.dtype))


def _first_version(
    module: Any,
    hidden_states: Float[Tensor, "B S H"],
    attention_mask: Bool[Tensor, "B 1 1 S"],
    output_attentions: bool = False,
    *,
    relative_pos: Tensor | None = None,
    rel_embeddings: Float[Tensor, "R H"] | None = None,
    query_states: None = None,
) -> tuple[Float[Tensor, "B S H"], None]:
    """DeBERTa: one projection for queries, keys and values."""
    query, key, value = module.transpose_for_scores(module.in_proj(hidden_states)).chunk(3, dim=-1)
    factor = 1 + len(module.pos_att_type)
    query = query + module.transpose_for_scores(module.q_bias[None, None])
    query = query / math.sqrt(query.shape[-1] * factor)
    value = value + module.transpose_for_scores(module.v_bias[None, None])
    bias = None
    if module.relative_attention and module.pos_att_type:
        bias = module.disentangled_att_bias(query, key, relative_pos, rel_embeddings, factor)
    return attend(module, query, key, value, attention_mask, 1.0, bias).flatten(2), None


def _second_version(
    module: Any,
    hidden_states: Float[Tensor, "B S H"],
    attention_mask: Bool[Tensor, "B 1 1 S"],
    output_attentions: bool = False,
    *,
    relative_pos: Tensor | None = None,
    rel_embeddings: Float[Tensor, "R H"] | None = None,
    query_states: None = None,
) -> tuple[Float[Tensor, "B S H"], None]:
    """DeBERTa-v2 and -v3: rows and heads in one dimension for the scores of positions."""
    heads = module.num_attention_heads
    query, key, value = (
        project(hidden_states).unflatten(-1, (heads, -1)).transpose(1, 2)
        for project in (module.query_proj, module.key_proj, module.value_proj)
    )
    factor = 1 + len({"c2p", "p2c"} & set(module.pos_att_type))
    bias = None
    if module.relative_attention and factor > 1:
        flat = (query.flatten(0, 1), key.flatten(0, 1))
        bias = module.disentangled_attention_bias(*flat, relative_pos, rel_embeddings, factor).unflatten(0, (-1, heads))
    scaling = 1 / math.sqrt(query.shape[-1] * factor)
    return attend(module, query, key, value, attention_mask, scaling, bias).flatten(2), None
