"""Deep prompts inside attention: every row attends to its slot's keys and values before its own.

transformers dispatches attention through a registry. mpt registers one attention function and the mask function that
goes with it; the backbone's code stays as it is. Hence prompts cost no input length, position ids stay where the
backbone was trained, and recomputation under gradient checkpointing is exact. Nothing passes through
`past_key_values`, which shifts positions and which some models accept and ignore.

Shapes: B rows, S word pieces, P prompt length, N attention heads, G key/value heads, D size of a head, H hidden size.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional
from transformers import AttentionInterface
from transformers.masking_utils import AttentionMaskInterface, bidirectional_mask_function, sdpa_mask

from mpt.base.errors import BackboneError
from mpt.model.backbone.forward import LayerPrompt, running_of

ATTENTION = "mpt_prompted"
SCORE_CHANGES = ("softcap", "s_aux", "position_bias")
"""What some models hand to the registry and what changes scores; ignoring it would give other scores, silently."""


def register() -> None:
    """Make the attention and mask functions known to transformers under the name `ATTENTION`."""
    AttentionInterface.register(ATTENTION, prompted_attention)
    AttentionMaskInterface.register(ATTENTION, compact_mask)


def prompted_attention(
    module: nn.Module,
    query: Float[Tensor, "B N S D"],
    key: Float[Tensor, "B G S D"],
    value: Float[Tensor, "B G S D"],
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    **unsupported: Any,
) -> tuple[Float[Tensor, "B S N D"], None]:
    """Attention over a layer's prompt and the text.

    Args:
        module: The attention module; tied to its backbone's `Running`.
        query: Queries of the text.
        key: Keys of the text, positions already applied.
        value: Values of the text.
        attention_mask: From `compact_mask`: True where a query may look; None when everywhere.
        scaling: Factor on the scores; 1/sqrt(D) when None.
        dropout: Dropout on attention weights; there is none, see `mpt.model.backbone.dropout`.
        **unsupported: Variants of attention that change scores; refused when set.
    """
    for name in SCORE_CHANGES:
        if unsupported.get(name) is not None:
            raise BackboneError(f"{type(module).__name__} uses attention with {name}, which prompts do not support")
    assert dropout == 0.0, "the stock modules are in evaluation mode"
    return attend(module, query, key, value, attention_mask, scaling), None


def attend(
    module: nn.Module,
    query: Float[Tensor, "B N S D"],
    key: Float[Tensor, "B G S D"],
    value: Float[Tensor, "B G S D"],
    mask: Bool[Tensor, "B 1 Q S"] | None,
    scaling: float | None = None,
    bias: Float[Tensor, "B N S S"] | None = None,
) -> Float[Tensor, "B S N D"]:
    """Attention over the prompt of the layer that is being computed, and the text.

    Args:
        module: The attention module; tied to its backbone's `Running`.
        query: Queries of the text.
        key: Keys of the text.
        value: Values of the text.
        mask: True where a query may look; None when everywhere.
        scaling: Factor on the scores; 1/sqrt(D) when None.
        bias: Added to the scaled scores of the text, such as what relative positions bring; virtual tokens have no
            position, so nothing is added to theirs.
    """
    running = running_of(module)
    if running.forward.observe is not None:
        running.forward.observe(module, key, value)
    prompt = running.prompt
    if prompt is not None:
        rows = query.shape[0]
        key = torch.cat([prompt.keys.expand(rows, -1, -1, -1), key], dim=2)
        value = torch.cat([prompt.values.expand(rows, -1, -1, -1), value], dim=2)
        mask = widen_mask(mask, prompt, query)
        bias = None if bias is None else functional.pad(bias, (prompt.keys.shape[2], 0))
    if query.shape[1] != key.shape[1]:
        groups = query.shape[1] // key.shape[1]
        key, value = key.repeat_interleave(groups, dim=1), value.repeat_interleave(groups, dim=1)
    scaling = 1 / math.sqrt(query.shape[-1]) if scaling is None else scaling
    kernel = matmul_attention if query.device.type == "cpu" else sdpa_attention
    return kernel(query, key, value, mask, scaling, bias).transpose(1, 2).contiguous()


def widen_mask(
    mask: Bool[Tensor, "B 1 Q S"] | None, prompt: LayerPrompt, query: Float[Tensor, "B N S D"]
) -> Bool[Tensor, "B 1 Q P+S"] | None:
    """Put the prompt's columns before the text's: visible, but for the padding of shorter prompts."""
    if mask is None and prompt.mask is None:
        return None
    rows, length = query.shape[0], prompt.keys.shape[2]
    if mask is None:
        mask = query.new_ones((1, 1, 1, query.shape[2]), dtype=torch.bool)
    columns = query.new_ones((1, length), dtype=torch.bool) if prompt.mask is None else prompt.mask
    heads, queries = mask.shape[1:3]
    return torch.cat([columns[:, None, None, :].expand(rows, heads, queries, -1), mask.expand(rows, -1, -1, -1)], dim=3)


def matmul_attention(
    query: Float[Tensor, "B N S D"],
    key: Float[Tensor, "B N K D"],
    value: Float[Tensor, "B N K D"],
    mask: Bool[Tensor, "B 1 Q K"] | None,
    scaling: float,
    bias: Float[Tensor, "B N S K"] | None = None,
) -> Float[Tensor, "B N S D"]:
    """Attention as batched matrix products: on a CPU, two to four times the speed of SDPA for rows of a sentence."""
    scores = torch.matmul(query * scaling, key.transpose(2, 3))
    if bias is not None:
        scores = scores + bias
    if mask is not None:
        # Not -inf: padding far from any text sees nothing in a local window, and must come out finite all the same.
        scores = scores.masked_fill(~mask, torch.finfo(scores.dtype).min)
    return torch.matmul(functional.softmax(scores, dim=-1), value)


def sdpa_attention(
    query: Float[Tensor, "B N S D"],
    key: Float[Tensor, "B N K D"],
    value: Float[Tensor, "B N K D"],
    mask: Bool[Tensor, "B 1 Q K"] | None,
    scaling: float,
    bias: Float[Tensor, "B N S K"] | None = None,
) -> Float[Tensor, "B N S D"]:
    """Attention through torch's fused kernels."""
    look: Tensor | None = None if mask is None else mask.expand(-1, -1, query.shape[2], -1)
    if bias is not None:
        look = bias if mask is None else bias.masked_fill(~mask, torch.finfo(bias.dtype).min)
    return functional.scaled_dot_product_attention(query, key, value, attn_mask=look, scale=scaling)


def compact_mask(
    *args: Any,
    mask_function: Callable[..., Any],
    attention_mask: Bool[Tensor, "B S"] | None = None,
    use_vmap: bool = False,
    **kwargs: Any,
) -> Bool[Tensor, "B 1 Q S"] | None:
    """The mask that transformers asks for: True where a query may look, None when everywhere.

    A bidirectional mask is the same for every query, so it stays one row high instead of S.
    """
    if mask_function is bidirectional_mask_function and not use_vmap:
        return None if attention_mask is None else attention_mask[:, None, None, :]
    kwargs["allow_is_causal_skip"] = False
    return sdpa_mask(*args, mask_function=mask_function, attention_mask=attention_mask, use_vmap=use_vmap, **kwargs)
