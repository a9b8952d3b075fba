"""Proof, at load time, that a backbone listens to its prompts.

Some models accept prompts and ignore them without a word; training then fits the head alone and nobody is told. So
before anything is trained, every layer's prompt is changed and must change the output, and must receive gradient.
"""

import torch

from mpt.base.errors import BackboneError
from mpt.base.seeding import torch_generator
from mpt.data.order.batch import Batch
from mpt.model.backbone.backbone import Backbone
from mpt.model.scorer import Tagger
from mpt.model.state.bank import PromptBank, PromptShape

PROBE_LENGTH = 2  # virtual tokens
PROBE_PIECES = 6


def probe(backbone: Backbone) -> None:
    """Change each layer's prompt in a slot of its own and compare with the slot where nothing is changed.

    Raises:
        BackboneError: A layer's prompt changes nothing, or receives no gradient; the layers are named.
    """
    shape = PromptShape(
        num_layers=backbone.num_layers,
        layers=tuple(range(backbone.num_layers)),
        num_heads=backbone.num_key_value_heads,
        length=PROBE_LENGTH,
        head_dim=backbone.head_dim,
    )
    generator = torch_generator(0, "probe")
    base = torch.randn(shape.tensor_shape, generator=generator)
    slots = [base]
    for layer in range(backbone.num_layers):
        changed = base.clone()
        changed[layer] = 3 * torch.randn(changed[layer].shape, generator=generator)
        slots.append(changed)
    bank = PromptBank(slots, [shape] * len(slots))
    tagger = Tagger(backbone, bank, {})
    pieces = torch.arange(1, PROBE_PIECES + 1, device=backbone.device).expand(len(slots), -1)
    batch = Batch(
        input_ids_BS=pieces,
        attention_mask_BS=None,
        words_M=torch.arange(pieces.numel(), device=backbone.device),
        labels_M=None,
    )
    states = tagger.word_states(batch, slots_B=torch.arange(len(slots), device=backbone.device))
    rows = states.view(len(slots), -1)
    # The mean alone would have no gradient through a final layer norm; a fixed random direction has.
    direction = torch.randn(rows[0].shape, generator=generator).to(backbone.device)
    if rows.requires_grad:  # not where every layer ignores its prompt
        rows[0].mul(direction).sum().backward()
    gradient = bank.slots[0].grad
    deaf = [layer for layer in range(backbone.num_layers) if torch.equal(rows[layer + 1], rows[0])]
    untrained = [
        layer for layer in range(backbone.num_layers) if gradient is None or not bool(gradient[layer].abs().sum() > 0)
    ]
    backbone.injection.prompts = [None] * backbone.num_layers
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
