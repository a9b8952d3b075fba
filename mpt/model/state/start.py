"""Where prompts start: real keys and values of task text, or noise."""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from mpt.base.seeding import permutation, torch_generator, uniforms
from mpt.data.order.batch import Batch, collate
from mpt.data.windows import EncodedSplit
from mpt.model.backbone.backbone import Backbone
from mpt.model.scorer import text_inputs
from mpt.model.state.bank import PromptShape

NORMAL_SCALES = {"normal_0.02": 0.02, "normal_1": 1.0}  # the reference implementation's, and PEFT's
TEXT_WINDOWS = 64  # windows of text to draw virtual tokens from


def initial_prompt(
    backbone: Backbone, shape: PromptShape, texts: Sequence[EncodedSplit], *, initialisation: str, seed: int
) -> Float[Tensor, "L 2 G P D"]:
    """A deep prompt to start training from, in float32.

    Args:
        backbone: The frozen model.
        shape: Shape of the prompt.
        texts: Training text of the tasks; "text" takes from each in turn.
        initialisation: "text" copies the keys and values that the bare backbone computes at randomly drawn word
            pieces, each virtual token from one piece through all layers; "normal_0.02" and "normal_1" draw noise.
        seed: Names the draw.
    """
    if initialisation in NORMAL_SCALES:
        noise = torch.randn(shape.tensor_shape, generator=torch_generator(seed, "prompt"))
        return noise * NORMAL_SCALES[initialisation]
    assert initialisation == "text", initialisation
    share = -(-shape.length // len(texts))
    order = permutation(seed, "prompt", "order", count=share * len(texts))[: shape.length].tolist()
    # With more tasks than virtual tokens, most texts give none and are not computed.
    parts = {
        number: _text_prompt(backbone, shape, texts[number], share, seed, number)
        for number in sorted({place // share for place in order})
    }
    return torch.stack([parts[place // share][:, :, :, place % share] for place in order], dim=3)


def initial_embeddings(
    backbone: Backbone, length: int, texts: Sequence[EncodedSplit], *, initialisation: str, seed: int
) -> Float[Tensor, "P E"]:
    """A shallow prompt to start training from, in float32.

    Args:
        backbone: The frozen model.
        length: Virtual tokens.
        texts: Training text of the tasks; "text" takes from each in turn.
        initialisation: "text" copies the embeddings of randomly drawn word pieces; the others draw noise.
        seed: Names the draw.
    """
    words = backbone.word_embeddings.weight
    assert isinstance(words, Tensor), "one vector for each piece"
    if initialisation in NORMAL_SCALES:
        noise = torch.randn((length, words.shape[1]), generator=torch_generator(seed, "shallow prompt"))
        return noise * NORMAL_SCALES[initialisation]
    assert initialisation == "text", initialisation
    drawn = uniforms(seed, "shallow prompt", "pieces", count=length)
    sources = [texts[number % len(texts)].pieces for number in range(length)]
    ids = [int(source[int(place * len(source))]) for source, place in zip(sources, drawn, strict=True)]
    return words.detach()[torch.tensor(ids, device=words.device)].float().cpu()


def _text_prompt(
    backbone: Backbone, shape: PromptShape, text: EncodedSplit, count: int, seed: int, number: int
) -> Float[Tensor, "L 2 G P D"]:
    """`count` virtual tokens from one split."""
    windows = permutation(seed, "prompt", "windows", number, count=len(text))[:TEXT_WINDOWS]
    batch = collate(text, windows, pad=backbone.word_pieces.pad).to(backbone.device)
    injection = backbone.injection
    injection.prompts = [None] * backbone.num_layers
    injection.captured = []
    with torch.no_grad():
        backbone(text_inputs(batch))
    captured, injection.captured = injection.captured, None
    drawn = uniforms(seed, "prompt", "pieces", number, count=count)
    places = _places(batch)
    places = places[torch.from_numpy((drawn * len(places)).astype("int64"))]
    layers = [
        torch.stack([states.transpose(1, 2).flatten(0, 1)[places].transpose(0, 1) for states in captured[layer]])
        for layer in shape.layers
    ]
    return torch.stack(layers).float().cpu()


def _places(batch: Batch) -> Int64[Tensor, " n"]:
    """Where virtual tokens may come from: scored words, or any piece where one place is scored for a whole text."""
    if len(batch.words_M) > len(batch.input_ids_BS):
        return batch.words_M
    mask = batch.attention_mask_BS
    flat = torch.ones_like(batch.input_ids_BS, dtype=torch.bool) if mask is None else mask
    return flat.flatten().nonzero()[:, 0]
