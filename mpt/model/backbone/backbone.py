"""The frozen language model, ready for prompts: found, loaded, identified, and tied to what a call is given."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from mpt.data.families.tokenization import WordPieces
from mpt.model.backbone.attention import Injection, register
from mpt.model.backbone.deberta import adapt
from mpt.model.backbone.dropout import DropoutStreams, HiddenDropout
from mpt.model.backbone.identity import BackboneIdentity, identify, locate
from mpt.model.backbone.loading import load_model, positions
from mpt.model.backbone.precision import DTYPES, resolve_dtype
from mpt.model.backbone.sharding import Sharding
from mpt.model.backbone.stack import install
from mpt.model.backbone.trunk import Trunk
from mpt.model.backbone.word_pieces import load_word_pieces
from mpt.model.state.weights import Adaptation, Switch

# Rows longer than this are rare in labelled sentences and slow in attention; windows are stitched anyway.
LONGEST_WINDOW = 512


@dataclass(slots=True, kw_only=True)
class Backbone:
    """A frozen model with everything that the rest of mpt has to know of it.

    Attributes:
        model: Parameters without gradients, in evaluation mode.
        switch: Which trained changes of its weights it computes with; none, unless a call names them.
        injection: Where the current batch's prompts are put.
        dropout: Its own, off but in training passes that ask for it.
        trunk: Where a forward pass can begin behind the layers below the prompts; None where it cannot.
        word_pieces: Its tokenizer.
        identity: What a checkpoint records.
        num_layers, num_key_value_heads, head_dim, hidden_size: Shapes of a deep prompt and of a head.
        max_positions: Text positions that the model has.
        first_position: Position id of a row's first piece when positions are not shifted.
        shifted: Positions start after the prompt, as in the reference implementation and PEFT.
        num_parameters: Parameters of the backbone.
        device: Where it computes.
        sharded: Whether the ranks share the weights, so that all of them have to run it side by side.
    """

    model: nn.Module
    switch: Switch
    injection: Injection
    dropout: HiddenDropout
    trunk: Trunk | None
    word_pieces: WordPieces
    identity: BackboneIdentity
    num_layers: int
    num_key_value_heads: int
    head_dim: int
    hidden_size: int
    max_positions: int
    first_position: int
    shifted: bool
    num_parameters: int
    device: torch.device
    sharded: bool

    @property
    def dtype(self) -> torch.dtype:
        """Type of the weights."""
        return next(self.model.parameters()).dtype

    @property
    def word_embeddings(self) -> nn.Module:
        """Its own, from piece ids to the input of the first layer."""
        self.switch.to(None)
        model: Any = self.model
        return model.get_input_embeddings()

    def __call__(
        self,
        inputs: Mapping[str, Tensor | None],
        adaptation: Adaptation | None = None,
        streams: DropoutStreams | None = None,
    ) -> Float[Tensor, "B S H"]:
        """Last hidden states, by its own weights or those of an adaptation, with dropout where streams are given."""
        self.switch.to(adaptation)
        self.dropout.begin(streams)
        return self.model(**inputs).last_hidden_state


def load_backbone(
    reference: str,
    *,
    revision: str | None = None,
    dtype: str = "auto",
    prompt_length: int = 0,
    shifted: bool = False,
    longest_window: int = LONGEST_WINDOW,
    word_state: str = "piece",
    gradient_checkpointing: bool = False,
    device: torch.device | str = "cpu",
    sharding: Sharding | None = None,
) -> Backbone:
    """Load and freeze a backbone.

    Args:
        reference: Hub id, folder, or `package:NAME/FOLDER`.
        revision: Full commit hash; required for a hub id.
        dtype: "bfloat16", "float32", or "auto", see `mpt.model.backbone.precision`.
        prompt_length: Virtual tokens; they take positions when `shifted`.
        shifted: First word piece at position `prompt_length` instead of the first.
        longest_window: Most word pieces of a window, specials included.
        word_state: "piece" or "mean", which stands for a word.
        gradient_checkpointing: Recompute layers in the backward pass to save memory.
        device: Where to put the weights.
        sharding: Spread the weights over the ranks; None has all of them on every rank.

    Raises:
        BackboneError: It cannot be found, has no safetensors weights, does not call the attention registry, or has too
            few positions for the prompt.
    """
    folder = locate(reference, revision)
    register()
    weights = DTYPES[resolve_dtype(dtype, torch.device(device))]
    model, architecture, num_parameters = load_model(folder, reference, weights, device, sharding)
    adapt(model, reference=reference)
    layers = install(model, reference=reference, recompute=gradient_checkpointing)
    first_position, max_positions = positions(model)
    room = min(longest_window, max_positions - (prompt_length if shifted else 0))
    segments = int(getattr(model.config, "type_vocab_size", 0) or 0)
    facts = {"causal": layers.causal, "segments": segments, "mean": word_state == "mean"}
    word_pieces = load_word_pieces(folder, reference=reference, room=room, **facts)
    return Backbone(
        model=model,
        switch=Switch(model),
        injection=layers.injection,
        dropout=layers.dropout,
        trunk=layers.trunk,
        word_pieces=word_pieces,
        identity=identify(folder, reference, revision, architecture),
        num_layers=len(layers.injection.prompts),
        num_key_value_heads=layers.text_keys.shape[1],
        head_dim=layers.text_keys.shape[3],
        hidden_size=model.config.hidden_size,
        max_positions=max_positions,
        first_position=first_position,
        shifted=shifted,
        num_parameters=num_parameters,
        device=layers.text_keys.device,
        sharded=sharding is not None,
    )
