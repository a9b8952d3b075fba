"""Parts that come out of a small network while they are trained.

The network is trained in the part's place, in float32; whatever uses the part sees flat values (keys and values of a
deep prompt, embeddings of an input prompt), which the part computes anew after every step. So nothing has to be
converted when training ends.

A part is what it started from plus the network's output, which is zero at first: both kinds start where a flat one
would, also at real keys and values of text or at a pretrained prompt.
"""

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from mpt.base.seeding import torch_generator

NetworkKind = Literal["mlp", "lstm"]
LSTM_LAYERS = 2  # P-tuning, arXiv:2103.10385


def by_token(prompt: Float[Tensor, "L 2 G P D"]) -> Float[Tensor, "P V"]:
    """A prompt as one row for each virtual token: its key and value in every layer, as P-Tuning v2 and PEFT keep it."""
    return prompt.permute(3, 0, 1, 2, 4).flatten(1)


def by_layer(values_PV: Float[Tensor, "P V"], *, num_heads: int, head_dim: int) -> Float[Tensor, "L 2 G P D"]:
    """The inverse of `by_token`."""
    return values_PV.unflatten(1, (-1, 2, num_heads, head_dim)).permute(1, 2, 3, 0, 4)


class Network(nn.Module):
    """Virtual tokens as the sum of what they started from and the output of a network.

    Shapes: P virtual tokens, I values of an input, V values of a virtual token, those of all prompted layers.

    Args:
        start: What they start from, a row for each virtual token.
        inputs: A vector for each virtual token to compute from, trained with the layers.
        layers: From inputs to values of virtual tokens; give zeros at first.
    """

    start: Tensor

    def __init__(self, start: Float[Tensor, "P V"], inputs: Float[Tensor, "P I"], layers: nn.Module) -> None:
        super().__init__()
        self.register_buffer("start", start.clone())
        self.inputs = nn.Parameter(inputs)
        self.layers = layers

    def forward(self) -> Float[Tensor, "P V"]:
        """The flat values, a row for each virtual token."""
        return self.start + self.layers(self.inputs)

    def pass_gradient(self, gradient_PV: Float[Tensor, "P V"]) -> None:
        """Turn the gradient of the flat values into those of the parameters."""
        weights = list(self.parameters())
        # Not by a backward pass, which engines would notice and take for theirs.
        gradients = torch.autograd.grad(self(), weights, gradient_PV)
        for weight, gradient in zip(weights, gradients, strict=True):
            weight.grad = gradient


class RecurrentLayers(nn.Module):
    """A bidirectional LSTM over the virtual tokens.

    Args:
        input_size: Size of an input.
        hidden_size: Size of an output, half of it from each direction.
    """

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__()
        self.lstm = nn.LSTM(input_size, hidden_size // 2, num_layers=LSTM_LAYERS, bidirectional=True)

    def forward(self, inputs_PI: Float[Tensor, "P I"]) -> Float[Tensor, "P K"]:
        """One output for each virtual token, which depends on all of them."""
        return self.lstm(inputs_PI)[0]


def network_behind(
    start: Float[Tensor, "P V"], *, kind: NetworkKind, input_size: int, hidden_size: int, seed: int
) -> Network:
    """A network to train in the place of virtual tokens.

    Args:
        start: What to start from, a row for each virtual token, in float32.
        kind: "mlp" is an embedding and two layers with tanh between them, as in P-Tuning v2 (arXiv:2110.07602);
            "lstm" an embedding, a bidirectional LSTM of two layers and two layers with ReLU between them, as the prompt
            encoder of P-tuning (arXiv:2103.10385).
        input_size: Size of the embedding that the network computes a virtual token from.
        hidden_size: Width of the network.
        seed: Names the weights.
    """
    length, output_size = start.shape
    with torch.device("meta"):  # where nothing is drawn
        layers = _layers(kind, input_size, hidden_size, output_size)
    _draw(layers.to_empty(device="cpu"), seed)
    generator = torch_generator(seed, "reparameterisation", "inputs")
    return Network(start, torch.randn((length, input_size), generator=generator), layers)


def _layers(kind: NetworkKind, input_size: int, hidden_size: int, output_size: int) -> nn.Sequential:
    last = nn.Linear(hidden_size, output_size)
    if kind == "mlp":
        return nn.Sequential(nn.Linear(input_size, hidden_size), nn.Tanh(), last)
    hidden = nn.Linear(hidden_size, hidden_size)
    return nn.Sequential(RecurrentLayers(input_size, hidden_size), hidden, nn.ReLU(), last)


@torch.no_grad()
def _draw(layers: nn.Sequential, seed: int) -> None:
    """Fill the layers as torch would, from a stream for each tensor, and the last one with zeros."""
    for name, parameter in layers.named_parameters():
        layer = layers.get_submodule(name.rpartition(".")[0])
        fan = layer.in_features if isinstance(layer, nn.Linear) else layer.hidden_size
        drawn = torch.rand(parameter.shape, generator=torch_generator(seed, "reparameterisation", name))
        parameter.copy_((2 * drawn - 1) / fan**0.5)  # type: ignore[operator]
    for parameter in layers[-1].parameters():
        parameter.zero_()
