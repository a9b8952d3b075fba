"""The frozen language model, ready for prompts: found, loaded, identified, and tied to what a call is given."""

from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from mpt.data.families.tokenization import WordPieces
from mpt.data.order.batch import Batch
from mpt.model.backbone.attention import register
from mpt.model.backbone.deberta import adapt
from mpt.model.backbone.forward import BARE, ForwardPass, Running, tie
from mpt.model.backbone.identity import BackboneIdentity, identify, locate
from mpt.model.backbone.loading import load_model, positions
from mpt.model.backbone.precision import DTYPES, resolve_dtype
from mpt.model.backbone.sharding import Sharding
from mpt.model.backbone.stack import LinearLayer, install
from mpt.model.backbone.word_pieces import load_word_pieces, require_room

# Rows longer than this are rare in labelled sentences and slow in attention; windows are stitched anyway.
LONGEST_WINDOW = 512


@dataclass(frozen=True, slots=True, kw_only=True)
class Backbone:
    """A frozen model with everything that the rest of mpt has to know of it.

    Attributes:
        model: Parameters without gradients, in evaluation mode.
        running: Where its modules look for the pass in progress.
        word_pieces: Its tokenizer.
        identity: What a checkpoint records.
        linears: Linear layers inside of its layers.
        num_layers, num_key_value_heads, head_dim, hidden_size: Shapes of a deep prompt and of a head.
        max_positions: Text positions that the model has.
        first_position: Position id of a row's first piece when positions are not shifted.
        shifted: Positions start after the prompt, as in the reference implementation and PEFT.
        drops: Whether it has dropout modules of its own; they are off but in training passes that ask for it.
        num_parameters: Parameters of the backbone.
        device: Where it computes.
        sharded: Whether the ranks share the weights, so that all of them have to run it side by side.
    """

    model: nn.Module
    running: Running
    word_pieces: WordPieces
    identity: BackboneIdentity
    linears: tuple[LinearLayer, ...]
    num_layers: int
    num_key_value_heads: int
    head_dim: int
    hidden_size: int
    max_positions: int
    first_position: int
    shifted: bool
    drops: bool
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
        model: Any = self.model
        return model.get_input_embeddings()

    def behind(self, length: int) -> "Backbone":
        """The same backbone for text that starts at position `length`: windows are as long as what is left allows.

        Raises:
            BackboneError: Too few positions are left.
        """
        word_pieces = self.word_pieces
        specials = len(word_pieces.prefix) + len(word_pieces.suffix)
        room = min(word_pieces.room, self.max_positions - length - specials)
        require_room(self.identity.reference, room)
        return replace(self, shifted=True, word_pieces=replace(word_pieces, room=room))

    def __call__(self, batch: Batch, forward: ForwardPass = BARE) -> Float[Tensor, "B S H"]:
        """Last hidden states of a batch's word pieces.

        Args:
            batch: On the backbone's device.
            forward: What the pass adds to the bare backbone.
        """
        model: Any = self.model if forward.model is None else forward.model
        inputs = self._inputs(model, batch, forward)
        virtual = 0 if forward.virtual is None else forward.virtual.shape[1]
        self.running.begin(forward, self.device)
        try:
            return model(**inputs).last_hidden_state[:, virtual:]
        finally:
            self.running.begin(BARE, self.device)

    def _inputs(self, model: Any, batch: Batch, forward: ForwardPass) -> dict[str, Tensor | None]:
        """What the model is given: the text, and before it virtual tokens, on the first positions and seen by all."""
        ids_BS = batch.input_ids_BS
        rows, columns = ids_BS.shape
        text: dict[str, Tensor | None] = {"attention_mask": batch.attention_mask_BS}
        if batch.segments_BS is not None:
            text["token_type_ids"] = batch.segments_BS
        if forward.virtual is None:
            text["input_ids"] = ids_BS
            if self.shifted:
                start = torch.as_tensor(forward.behind, device=self.device).reshape(-1, 1) + self.first_position
                text["position_ids"] = (start + torch.arange(columns, device=self.device)).expand(rows, -1)
            return text
        length = forward.virtual.shape[1]
        words_BSE = model.get_input_embeddings()(ids_BS)
        virtual_BPE = forward.virtual.to(words_BSE.dtype).expand(rows, -1, -1)
        positions = torch.arange(length + columns, device=self.device) + self.first_position
        for name, value in (("attention_mask", True), ("token_type_ids", 0)):
            given = text.get(name)
            if given is not None:
                text[name] = functional.pad(given, (length, 0), value=value)
        inputs = torch.cat([virtual_BPE, words_BSE], dim=1)
        return {**text, "inputs_embeds": inputs, "position_ids": positions.expand(rows, -1)}


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
    running = Running()
    tie(model, running)
    adapt(model, reference=reference)
    layers = install(model, running, reference=reference, recompute=gradient_checkpointing)
    first_position, max_positions = positions(model)
    room = min(longest_window, max_positions - (prompt_length if shifted else 0))
    segments = int(getattr(model.config, "type_vocab_size", 0) or 0)
    facts = {"causal": layers.causal, "segments": segments, "mean": word_state == "mean"}
    word_pieces = load_word_pieces(folder, reference=reference, room=room, **facts)
    return Backbone(
        model=model,
        running=running,
        word_pieces=word_pieces,
        identity=identify(folder, reference, revision, architecture),
        linears=layers.linears,
        num_layers=layers.num_layers,
        num_key_value_heads=layers.text_keys.shape[1],
        head_dim=layers.text_keys.shape[3],
        hidden_size=model.config.hidden_size,
        max_positions=max_positions,
        first_position=first_position,
        shifted=shifted,
        drops=layers.drops,
        num_parameters=num_parameters,
        device=layers.text_keys.device,
        sharded=sharding is not None,
    )
