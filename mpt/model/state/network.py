"""Prompts that come out of a small network while they are trained.

The network is trained in the prompt's place, in float32; whatever uses the prompt sees flat values (keys and values of
a deep prompt, embeddings of a shallow one), which the prompt's module computes anew after every step. So nothing has
to be converted when training ends.

A prompt is what it started from plus the network's output, which is zero at first: all kinds start where a flat prompt
would, also at real keys and values of text or at a pretrained prompt.
"""

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from mpt.base.seeding import torch_generator

Kind = Literal["mlp", "residual_mlp", "lstm"]
LSTM_LAYERS = 2  # P-tuning, arXiv:2103.10385


def by_token(prompt: Float[Tensor, "L 2 G P D"]) -> Float[Tensor, "P V"]:
    """A prompt as one row for each virtual token: its key and value in every layer, as P-Tuning v2 and PEFT keep it."""
    return prompt.permute(3, 0, 1, 2, 4).flatten(1)


def by_layer(values_PV: Float[Tensor, "P V"], *, num_heads: int, head_dim: int) -> Float[Tensor, "L 2 G P D"]:
    """The inverse of `by_token`."""
    return values_PV.unflatten(1, (-1, 2, num_heads, head_dim)).permute(1, 2, 3, 0, 4)


class Reparameterisation(nn.Module):
    """A prompt as the sum of what it started from and the output of a network.

    Shapes: P virtual tokens, I values of an input, V values of a virtual token, those of all prompted layers.

    Args:
        start: What it starts from, a row for each virtual token.
        inputs: A vector for each virtual token to compute from, trained with the network; None computes from the
            prompt itself, which is trained then.
        network: From inputs to values of virtual tokens; gives zeros at first.
    """

    def __init__(self, start: Float[Tensor, "P V"], inputs: Float[Tensor, "P I"] | None, network: nn.Module) -> None:
        super().__init__()
        values_PV = start.clone()
        self.start = nn.Parameter(values_PV) if inputs is None else nn.Buffer(values_PV)
        self.inputs = None if inputs is None else nn.Parameter(inputs)
        self.network = network

    def forward(self) -> Float[Tensor, "P V"]:
        """The flat prompt, a row for each virtual token."""
        return self.start + self.network(self.start if self.inputs is None else self.inputs)

    def pass_gradient(self, gradient_PV: Float[Tensor, "P V"]) -> None:
        """Turn the gradient of the flat prompt into those of the parameters."""
        weights = list(self.parameters())
        # Not by a backward pass, which engines would notice and take for theirs.
        gradients = torch.autograd.grad(self(), weights, gradient_PV)
        for weight, gradient in zip(weights, gradients, strict=True):
            weight.grad = gradient

    @property
    def flat_parameters(self) -> list[nn.Parameter]:
        """Those that are the prompt's values themselves, and learn like a flat prompt."""
        return [self.start] if isinstance(self.start, nn.Parameter) else []

    @property
    def network_parameters(self) -> list[nn.Parameter]:
        """The others, each of which moves many values at once."""
        return [*([] if self.inputs is None else [self.inputs]), *self.network.parameters()]


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


def reparameterise(
    start: Float[Tensor, "P V"], *, kind: Kind, input_size: int, hidden_size: int, seed: int
) -> Reparameterisation:
    """A network to train in a prompt's place.

    Args:
        start: What to start from, a row for each virtual token, in float32.
        kind: "mlp" is an embedding and two layers with tanh between them, as in P-Tuning v2 (arXiv:2110.07602);
            "lstm" an embedding, a bidirectional LSTM of two layers and two layers with ReLU between them, as the prompt
            encoder of P-tuning (arXiv:2103.10385); "residual_mlp" adds a bottleneck of two layers with ReLU to the
            trained prompt, as Residual Prompt Tuning (arXiv:2305.03937), without its layer normalisation, whose output
            does not start at zero.
        input_size: Size of the embedding that the network computes a virtual token from; "residual_mlp" computes from
            the prompt itself.
        hidden_size: Width of the network.
        seed: Names the weights.
    """
    length, output_size = start.shape
    if kind == "residual_mlp":
        input_size = output_size
    with torch.device("meta"):  # where nothing is drawn
        network = _network(kind, input_size, hidden_size, output_size)
    _draw(network.to_empty(device="cpu"), seed)
    if kind == "residual_mlp":
        return Reparameterisation(start, None, network)
    generator = torch_generator(seed, "reparameterisation", "inputs")
    return Reparameterisation(start, torch.randn((length, input_size), generator=generator), network)


def _network(kind: Kind, input_size: int, hidden_size: int, output_size: int) -> nn.Sequential:
    last = nn.Linear(hidden_size, output_size)
    if kind == "lstm":
        hidden = nn.Linear(hidden_size, hidden_size)
        return nn.Sequential(RecurrentLayers(input_size, hidden_size), hidden, nn.ReLU(), last)
    return nn.Sequential(nn.Linear(input_size, hidden_size), nn.Tanh() if kind == "mlp" else nn.ReLU(), last)


@torch.no_grad()
def _draw(network: nn.Sequential, seed: int) -> None:
    """Fill the layers as torch would, from a stream for each tensor, and the last one with zeros."""
    for name, parameter in network.named_parameters():
        layer = network.get_submodule(name.rpartition(".")[0])
        fan = layer.in_features if isinstance(layer, nn.Linear) else layer.hidden_size
        drawn = torch.rand(parameter.shape, generator=torch_generator(seed, "reparameterisation", name))
        parameter.copy_((2 * drawn - 1) / fan**0.5)  # type: ignore[operator]
    for parameter in network[-1].parameters():
        parameter.zero_()
