"""The frozen trunk: the layers below the first prompt, whose outputs are a fixed function of the text.

With prompts on the upper layers only, the layers below them compute the same numbers for a sentence in every epoch.
Here a forward pass can end at the top of the trunk, to keep its outputs, or begin there, from outputs kept earlier;
`mpt.model.backbone.trunk_cache` does the first and keeps them.
"""

import threading

from jaxtyping import Float
from torch import Tensor


class Trunk(threading.local):
    """A switch before every layer of a backbone, in each thread for its own batch.

    Attributes:
        depth: Layers of the trunk, counted from the first.
        states: Its output for the current batch; the trunk is then skipped. None computes it.
        capturing: Run the trunk alone and leave its output in `captured`.
        captured: Output of the last forward pass that captured.
    """

    def __init__(self) -> None:
        self.depth = 0
        self.states: Float[Tensor, "B S H"] | None = None
        self.capturing = False
        self.captured: Float[Tensor, "B S H"] | None = None

    def before(self, layer: int, hidden: Float[Tensor, "B S H"]) -> tuple[Float[Tensor, "B S H"], bool]:
        """What a layer is to start from, and whether it runs at all.

        Outputs are kept and given back where the first layer above the trunk takes them, not where the last one of the
        trunk leaves them: some models change them on the way (a convolution behind DeBERTa-v2's first layer).
        """
        if self.capturing and layer == self.depth:
            self.captured = hidden
        if self.states is not None and layer == self.depth:
            hidden = self.states
        return hidden, not (self.capturing and layer >= self.depth) and not (
            self.states is not None and layer < self.depth
        )
