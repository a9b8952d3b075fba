"""Prompts as settings ask for them, over a backbone."""

from jaxtyping import Float
from torch import Tensor

from mpt.base.errors import ConfigError
from mpt.base.settings import PromptSettings, PromptTrainingSettings
from mpt.model.backbone.backbone import Backbone
from mpt.model.state.bank import PromptBank, PromptShape
from mpt.model.state.network import Reparameterisation, by_token, reparameterise


def prompt_shape(backbone: Backbone, settings: PromptSettings) -> PromptShape:
    """The shape that the settings ask for over this backbone.

    Raises:
        ConfigError: A prompted layer that the backbone does not have.
    """
    layers = settings.layers
    if layers == "all":
        layers = backbone.num_layers
    chosen = tuple(range(backbone.num_layers - layers, backbone.num_layers)) if isinstance(layers, int) else layers
    if not chosen or min(chosen) < 0 or max(chosen) >= backbone.num_layers or list(chosen) != sorted(set(chosen)):
        raise ConfigError(
            f"prompt.layers: {settings.layers} over a backbone of {backbone.num_layers} layers. Expected all, a number "
            f"of upper layers up to {backbone.num_layers}, or ascending indices from 0 to {backbone.num_layers - 1}"
        )
    return PromptShape(
        num_layers=backbone.num_layers,
        layers=chosen,
        num_heads=backbone.num_key_value_heads,
        length=settings.length,
        head_dim=backbone.head_dim,
    )


def new_bank(
    prompt: Float[Tensor, "L 2 G P D"], shape: PromptShape, settings: PromptSettings, *, seed: int
) -> PromptBank:
    """A slot to train from a prompt, with the network behind it that the settings ask for."""
    width = shape.num_heads * shape.head_dim
    network = new_network(by_token(prompt), settings, input_size=width, seed=seed)
    return PromptBank([prompt], [shape], dropout=settings.dropout, reparameterisation=network)


def new_network(
    start: Float[Tensor, "P V"], settings: PromptTrainingSettings, *, input_size: int, seed: int
) -> Reparameterisation | None:
    """The network that the settings ask for behind a prompt, given as a row for each virtual token."""
    if settings.reparameterisation == "none":
        return None
    return reparameterise(
        start, kind=settings.reparameterisation, input_size=input_size, hidden_size=settings.hidden_size, seed=seed
    )
