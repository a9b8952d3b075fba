"""Proof, at load time, that a backbone listens to what task states add to it.

Some models accept prompts and ignore them without a word; training then fits the head alone and nobody is told. So
before anything is trained, every layer's prompt is changed and must change the output, and must receive gradient.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from mpt.base.errors import BackboneError
from mpt.base.seeding import torch_generator
from mpt.data.order.batch import Batch
from mpt.model.backbone.backbone import Backbone
from mpt.model.backbone.forward import ForwardPass, LayerPrompt

PROBE_LENGTH = 2  # virtual tokens
PROBE_PIECES = 6


def probe(backbone: Backbone) -> None:
    """Change each layer's prompt in a row of its own and compare with the row where nothing is changed.

    Raises:
        BackboneError: A layer's prompt changes nothing, or receives no gradient; the layers are named.
    """
    layers, generator = backbone.num_layers, torch_generator(0, "probe")
    shape = (layers, 2, backbone.num_key_value_heads, PROBE_LENGTH, backbone.head_dim)
    base = torch.randn(shape, generator=generator)
    rows = [base.clone() for _ in range(layers + 1)]
    for layer in range(layers):
        rows[layer + 1][layer] = 3 * torch.randn(base[layer].shape, generator=generator)
    prompts = torch.stack(rows).to(backbone.device).requires_grad_()
    states = _states(backbone, prompts)
    # The mean alone would have no gradient through a final layer norm; a fixed random direction has.
    direction = torch.randn(states[0].shape, generator=generator).to(backbone.device)
    if states.requires_grad:  # not where every layer ignores its prompt
        states[0].mul(direction).sum().backward()
    deaf = [layer for layer in range(layers) if torch.equal(states[layer + 1], states[0])]
    gradient = prompts.grad
    untrained = [layer for layer in range(layers) if gradient is None or not bool(gradient[0, layer].abs().sum() > 0)]
    if deaf or untrained:
        what = " and ".join(
            f"{text} of layers {', '.join(map(str, layers))}"
            for text, layers in (("the output ignores prompts", deaf), ("no gradient reaches prompts", untrained))
            if layers
        )
        raise BackboneError(
            f'backbone "{backbone.identity.reference}" ({backbone.identity.architecture}) cannot be prompted: {what}. '
            "Use another backbone"
        )


def _states(backbone: Backbone, prompts: Float[Tensor, "B L 2 G P D"]) -> Float[Tensor, "B K"]:
    """Last hidden states of the same text in every row, each behind its own prompt."""
    cast = prompts.to(backbone.dtype)
    pieces = torch.arange(1, PROBE_PIECES + 1, device=backbone.device).expand(len(prompts), -1)
    batch = Batch(input_ids_BS=pieces, attention_mask_BS=None, words_M=pieces.new_empty(0), labels_M=None)
    own = {layer: LayerPrompt(keys=cast[:, layer, 0], values=cast[:, layer, 1]) for layer in range(backbone.num_layers)}
    return backbone(batch, ForwardPass(prompts=own, behind=PROBE_LENGTH)).float().flatten(1)
