"""Backbone, bank and heads together: from a batch of word pieces to label scores of its words."""

from collections.abc import Mapping
from dataclasses import replace

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from mpt.base.errors import BackboneError, MptError, did_you_mean
from mpt.data.order.batch import Batch
from mpt.model.backbone.backbone import Backbone
from mpt.model.backbone.dropout import dropout_streams
from mpt.model.heads import Head
from mpt.model.state.bank import Bank, TaskState


class Scorer(nn.Module):
    """A frozen backbone, a bank of task states, and the heads of each of them.

    The backbone is not a submodule: parameters and state of a scorer are what is trained and nothing else. Training
    works on slot 0.

    Args:
        backbone: The frozen model.
        state: The task state in slot 0.
        heads: Its heads by task.
        backbone_dropout: Rate of the backbone's own dropout in training.

    Raises:
        BackboneError: The backbone has no dropout.
    """

    def __init__(
        self, backbone: Backbone, state: TaskState, heads: Mapping[str, Head], *, backbone_dropout: float = 0.0
    ) -> None:
        super().__init__()
        if backbone_dropout and not backbone.drops:
            raise BackboneError(
                f"training.backbone_dropout: {backbone.identity.architecture} ({backbone.identity.reference}) has no "
                f"dropout on its hidden states, so {backbone_dropout:g} would do nothing. Set it to 0; "
                "training.head_dropout and prompt.dropout work with every backbone"
            )
        self.backbone_dropout = backbone_dropout
        self._backbone = [backbone]  # a list, so that nn.Module does not register it
        self.bank = Bank([])
        self._heads = nn.ModuleDict()
        self.add(state, heads)

    @property
    def backbone(self) -> Backbone:
        """The frozen model."""
        return self._backbone[0]

    @property
    def state(self) -> TaskState:
        """What is trained besides heads."""
        return self.bank.state(0)

    @property
    def num_trained(self) -> int:
        """Values that an optimizer moves."""
        heads = sum(p.numel() for head in self.heads().values() for p in head.parameters())
        return heads + sum(p.numel() for group in self.state.groups() for p in group.parameters)

    def add(self, state: TaskState, heads: Mapping[str, Head]) -> int:
        """Put a task state with its heads into a slot of its own, and give its number."""
        slot = self.bank.add(state.to(self.backbone.device))
        # Prefixed, since a task may be called like a method of ModuleDict.
        self._heads[f"slot_{slot}"] = nn.ModuleDict({f"task_{task}": head for task, head in heads.items()})
        self._heads[f"slot_{slot}"].to(self.backbone.device)
        return slot

    def remove(self, slot: int) -> None:
        """Take a task state and its heads out."""
        self.bank.remove(slot)
        del self._heads[f"slot_{slot}"]

    def heads(self, slot: int = 0) -> dict[str, Head]:
        """Heads of a slot by task.

        Raises:
            MptError: There is no such slot.
        """
        if slot not in self.bank.slots:
            raise MptError(f"no slot {slot}: this model has slots {', '.join(map(str, self.bank.slots))}")
        own: nn.ModuleDict = self._heads[f"slot_{slot}"]  # type: ignore[assignment]
        return {key.removeprefix("task_"): head for key, head in own.items()}  # type: ignore[misc]

    def head(self, task: str, slot: int = 0) -> Head:
        """The head of one task.

        Raises:
            MptError: The slot has no such head.
        """
        heads = self.heads(slot)
        if task not in heads:
            known = sorted(heads)
            raise MptError(f'no head for task "{task}": this model has {", ".join(known)}.{did_you_mean(task, known)}')
        return heads[task]

    def forward(self, batch: Batch, generator: torch.Generator | None = None) -> list[Float[Tensor, "M C"]]:
        """Score the labels of every word's tasks.

        Each row is computed with the task state in its slot, and its words are scored by the heads of its tasks. Task
        states and heads receive gradients, the backbone none.

        Args:
            batch: Word pieces and the places of the words, on the backbone's device.
            generator: Stream of all dropout; None outside training.

        Returns:
            For each group of rows and each of its tasks, in order, a row for each of the group's words: unnormalised
            log-scores in float32, also when the backbone computes in bfloat16.

        Raises:
            MptError: There is no such slot, a task has no head, or the states of the rows cannot meet in a batch.
        """
        heads = [(number, self.head(it, group.slot)) for number, group in enumerate(batch.rows) for it in group.tasks]
        states_MH = self.word_states(batch, generator).split([group.words for group in batch.rows])
        return [head(states_MH[number], generator) for number, head in heads]

    def word_states(self, batch: Batch, generator: torch.Generator | None = None) -> Float[Tensor, "M H"]:
        """Last hidden state of every word, in float32: that of its scoring piece, or the mean over its pieces."""
        backbone = self.backbone
        forward = self.bank.forward_pass(batch.slots, dtype=backbone.dtype, generator=generator)
        streams = dropout_streams(self.backbone_dropout, backbone.num_layers, generator)
        hidden_BSH = backbone(batch, replace(forward, dropout=streams))
        if batch.widths_M is None:
            return hidden_BSH.flatten(0, 1)[batch.words_M].float()
        return word_means(hidden_BSH.flatten(0, 1), batch.words_M, batch.widths_M)

    def named(self) -> dict[str, nn.Parameter]:
        """Parameters of slot 0 by the names that a checkpoint has for them: FILE.NAME."""
        behind = {kind: part.network for kind, part in self.state.parts.items() if part.network is not None}
        networks = {f"{kind}.{name}": it for kind, network in behind.items() for name, it in network.named_parameters()}
        heads = {f"{task}.{name}": it for task, head in self.heads().items() for name, it in head.named_parameters()}
        files = {"state": self.state.values(), "networks": networks, "heads": heads}
        return {f"{file}.{name}": it for file, own in files.items() for name, it in own.items()}

    def tensors(self) -> dict[str, dict[str, Tensor]]:
        """What is trained in slot 0, as a checkpoint has it: the flat task state, networks behind it, heads."""
        heads = {f"{task}.{name}": it for task, head in self.heads().items() for name, it in head.named_parameters()}
        return {"state": {**self.state.values()}, "networks": self.state.networks(), "heads": {**heads}}

    @torch.no_grad()
    def restore(self, tensors: Mapping[str, Mapping[str, Tensor]]) -> None:
        """Put values like those of `tensors` in place; a model for use has no networks."""
        for part, own in self.tensors().items():
            for name, tensor in own.items():
                tensor.copy_(tensors[part][name])
        self.state.settle()


def word_means(
    hidden_NH: Float[Tensor, "N H"], words_M: Int64[Tensor, " M"], widths_M: Int64[Tensor, " M"]
) -> Float[Tensor, "M H"]:
    """Mean state of every word, whose pieces follow its first one, in float32."""
    word_of_P = torch.repeat_interleave(widths_M)
    within_P = torch.arange(len(word_of_P), device=words_M.device) - (widths_M.cumsum(0) - widths_M)[word_of_P]
    pieces_PH = hidden_NH[words_M[word_of_P] + within_P].float()
    sums_MH = pieces_PH.new_zeros((len(words_M), pieces_PH.shape[1])).index_add(0, word_of_P, pieces_PH)
    return sums_MH / widths_M[:, None]
