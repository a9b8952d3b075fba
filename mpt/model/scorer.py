"""Backbone, prompts and heads together: from a batch of word pieces to label scores of its words."""

from collections.abc import Mapping
from dataclasses import replace

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from mpt.base.errors import BackboneError, MptError, did_you_mean
from mpt.data.order.batch import Batch
from mpt.model.backbone.backbone import Backbone
from mpt.model.backbone.dropout import dropout_streams
from mpt.model.backbone.word_pieces import require_room
from mpt.model.heads import Head
from mpt.model.state.bank import PromptBank
from mpt.model.state.input_prompt import ShallowPrompt
from mpt.model.state.network import Reparameterisation
from mpt.model.state.weights import Adaptation


class Tagger(nn.Module):
    """A frozen backbone, a bank of prompts and one head for each task.

    Baselines have a shallow prompt instead of the bank, or an adaptation that trains weights of the backbone. The
    backbone is not a submodule: parameters and state of a tagger are what is trained and nothing else.

    Args:
        backbone: The frozen model.
        bank: Its prompts; None leaves the backbone bare (a linear probe).
        heads: Head of each task by name.
        shallow: Virtual tokens in the input.
        adaptation: Trained changes of the backbone's weights.
        backbone_dropout: Rate of the backbone's own dropout in training.

    Raises:
        BackboneError: The backbone has no dropout.
    """

    def __init__(
        self,
        backbone: Backbone,
        bank: PromptBank | None,
        heads: Mapping[str, Head],
        *,
        shallow: ShallowPrompt | None = None,
        adaptation: Adaptation | None = None,
        backbone_dropout: float = 0.0,
    ) -> None:
        super().__init__()
        assert bank is None or shallow is None, "a prompt is deep or shallow"
        if backbone_dropout and not backbone.dropout.calls:
            raise BackboneError(
                f"training.backbone_dropout: {backbone.identity.architecture} ({backbone.identity.reference}) has no "
                f"dropout on its hidden states, so {backbone_dropout:g} would do nothing. Set it to 0; "
                "training.head_dropout and prompt.dropout work with every backbone"
            )
        self.backbone_dropout = backbone_dropout
        self._backbone = [backbone]  # a list, so that nn.Module does not register it
        self.bank = bank
        self.shallow = shallow
        self.adaptation = adaptation
        # Prefixed, since a task may be called like a method of ModuleDict.
        self._heads = nn.ModuleDict({f"task_{name}": head for name, head in heads.items()})
        self.to(backbone.device)
        self.register_load_state_dict_post_hook(lambda tagger, _: tagger.refresh())

    @property
    def backbone(self) -> Backbone:
        """The frozen model."""
        return self._backbone[0]

    @property
    def heads(self) -> dict[str, Head]:
        """Head of each task by name."""
        return {key.removeprefix("task_"): head for key, head in self._heads.items()}  # type: ignore[misc]

    def head(self, task: str) -> Head:
        """The head of one task."""
        key = f"task_{task}"
        if key not in self._heads:
            known = sorted(self.heads)
            raise MptError(f'no head for task "{task}": this model has {", ".join(known)}.{did_you_mean(task, known)}')
        return self._heads[key]  # type: ignore[return-value]

    @property
    def prompting(self) -> PromptBank | ShallowPrompt | None:
        """What holds its prompts; at most one of both kinds is there."""
        return self.bank if self.shallow is None else self.shallow

    @property
    def network(self) -> Reparameterisation | None:
        """What is trained in the prompt's place."""
        return None if self.prompting is None else self.prompting.reparameterisation

    @property
    def prompts(self) -> list[nn.Parameter]:
        """Flat prompts, wherever their virtual tokens are."""
        deep = [] if self.bank is None else list(self.bank.slots)
        return deep + ([] if self.shallow is None else [self.shallow.embeddings])

    @property
    def trained(self) -> list[nn.Parameter]:
        """What an optimizer moves: every parameter but a flat prompt that comes out of a network."""
        folded = [] if self.network is None else self.prompts
        return [parameter for parameter in self.parameters() if all(parameter is not it for it in folded)]

    @property
    def shared(self) -> list[nn.Parameter]:
        """What all tasks share of what is trained, prompts flat."""
        return self.prompts + ([] if self.adaptation is None else list(self.adaptation.parameters()))

    @property
    def shared_leaves(self) -> list[nn.Parameter]:
        """What a forward pass computes with for each of `shared`: itself, or its copy in the backbone's type."""
        return self.prompts + ([] if self.adaptation is None else list(self.adaptation.leaves))

    def refresh(self) -> None:
        """Bring such copies up to what is trained; to be called when an optimizer has moved it."""
        if self.adaptation is not None:
            self.adaptation.refresh()

    @property
    def lowest_prompted_layer(self) -> int:
        """Index of the first layer that any slot prompts or that is trained; the number of layers when none is."""
        if self.shallow is not None or self.adaptation is not None:
            return 0
        layers = [] if self.bank is None else [layer for shape in self.bank.shapes for layer in shape.layers]
        return min(layers, default=self.backbone.num_layers)

    def forward(
        self,
        task: str,
        batch: Batch,
        *,
        slots_B: Int64[Tensor, " B"] | None = None,
        generator: torch.Generator | None = None,
    ) -> Float[Tensor, "M C"]:
        """Score every label of one task for every word of a batch.

        Each layer attends to the virtual tokens of each row's slot before its own text. Prompts and head receive
        gradients, the backbone none, unless it is adapted.

        Args:
            task: Name of the task whose head is used.
            batch: Word pieces and the places of the words, on the backbone's device.
            slots_B: Slot of each row; None when all use slot 0.
            generator: Stream of all dropout; None outside training.

        Returns:
            Unnormalised log-scores in float32, also when the backbone computes in bfloat16; a row for each entry of
            `batch.words_M`.

        Raises:
            MptError: `task` has no head.
        """
        head = self.head(task)
        return head(self.word_states(batch, slots_B=slots_B, generator=generator), generator)

    def word_states(
        self, batch: Batch, *, slots_B: Int64[Tensor, " B"] | None = None, generator: torch.Generator | None = None
    ) -> Float[Tensor, "M H"]:
        """Last hidden state of every word, in float32: that of its scoring piece, or the mean over its pieces."""
        backbone = self.backbone
        inputs = text_inputs(batch)
        if self.shallow is not None:
            inputs = self.shallow.inputs(backbone, inputs, generator)
        if self.bank is None:
            backbone.injection.prompts = [None] * backbone.num_layers
        else:
            backbone.injection.prompts = self.bank.layer_prompts(backbone.dtype, slots_B, generator)
            if backbone.shifted:
                inputs["position_ids"] = shifted_positions(backbone, batch, self.bank.lengths(slots_B))
        if backbone.trunk is not None:
            assert batch.trunk_depth <= self.lowest_prompted_layer, "prompts below kept outputs have no effect"
            backbone.trunk.depth, backbone.trunk.states = batch.trunk_depth, batch.trunk_BSH
        streams = dropout_streams(self.backbone_dropout, backbone.num_layers, generator)
        virtual = 0 if self.shallow is None else self.shallow.length
        hidden_BSH = backbone(inputs, self.adaptation, streams)[:, virtual:]
        if backbone.trunk is not None:
            backbone.trunk.states = None
        if batch.widths_M is None:
            return hidden_BSH.flatten(0, 1)[batch.words_M].float()
        return word_means(hidden_BSH.flatten(0, 1), batch.words_M, batch.widths_M)


def word_means(
    hidden_NH: Float[Tensor, "N H"], words_M: Int64[Tensor, " M"], widths_M: Int64[Tensor, " M"]
) -> Float[Tensor, "M H"]:
    """Mean state of every word, whose pieces follow its first one, in float32."""
    word_of_P = torch.repeat_interleave(widths_M)
    within_P = torch.arange(len(word_of_P), device=words_M.device) - (widths_M.cumsum(0) - widths_M)[word_of_P]
    pieces_PH = hidden_NH[words_M[word_of_P] + within_P].float()
    sums_MH = pieces_PH.new_zeros((len(words_M), pieces_PH.shape[1])).index_add(0, word_of_P, pieces_PH)
    return sums_MH / widths_M[:, None]


def text_inputs(batch: Batch) -> dict[str, Tensor | None]:
    """What a backbone's forward pass is given of a batch, whatever its prompts."""
    inputs = {"input_ids": batch.input_ids_BS, "attention_mask": batch.attention_mask_BS}
    return inputs if batch.segments_BS is None else {**inputs, "token_type_ids": batch.segments_BS}


def shifted_positions(backbone: Backbone, batch: Batch, lengths: Int64[Tensor, " B"] | int) -> Int64[Tensor, "B S"]:
    """Position ids that start behind the prompt, as in the reference implementation and PEFT."""
    rows, columns = batch.input_ids_BS.shape
    start = torch.as_tensor(lengths, device=backbone.device).reshape(-1, 1) + backbone.first_position
    return (start + torch.arange(columns, device=backbone.device)).expand(rows, -1)


def text_behind(backbone: Backbone, length: int) -> Backbone:
    """The same backbone for text that starts at position `length`: windows are as long as the positions left allow.

    Raises:
        BackboneError: Too few are left.
    """
    word_pieces = backbone.word_pieces
    specials = len(word_pieces.prefix) + len(word_pieces.suffix)
    room = min(word_pieces.room, backbone.max_positions - length - specials)
    require_room(backbone.identity.reference, room)
    return replace(backbone, shifted=True, word_pieces=replace(word_pieces, room=room))
