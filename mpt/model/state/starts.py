"""Where task states start: fresh, from real keys and values of task text or from noise, or from what was trained."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from mpt.base.errors import CheckpointError, ConfigError
from mpt.base.seeding import permutation, torch_generator, uniforms
from mpt.base.settings import LayerChoice, LowRankSettings, PartKind, PromptSettings
from mpt.data.order.batch import Batch, collate
from mpt.data.windows import EncodedSplit
from mpt.model.backbone.backbone import Backbone
from mpt.model.backbone.forward import ForwardPass
from mpt.model.state.bank import TaskState
from mpt.model.state.input_prompt import InputPrompt
from mpt.model.state.low_rank import LowRank, fresh_low_rank
from mpt.model.state.network import Network, by_token, network_behind
from mpt.model.state.part import Part
from mpt.model.state.prompt import Prompt, PromptShape
from mpt.model.state.weights import Weights

NORMAL_SCALES = {"normal_0.02": 0.02, "normal_1": 1.0}  # the reference implementation's, and PEFT's
TEXT_WINDOWS = 64  # windows of text to draw virtual tokens from


@dataclass(frozen=True, slots=True, kw_only=True)
class StatePlan:
    """What a task state is to be made of.

    Attributes:
        parts: Kinds of its parts; none leaves the backbone bare.
        prompt: Of deep and input prompts.
        low_rank: Of low-rank updates.
        biases: Of the backbone's weights only biases are trained.
    """

    parts: tuple[PartKind, ...]
    prompt: PromptSettings
    low_rank: LowRankSettings
    biases: bool = False


def fresh_state(plan: StatePlan, backbone: Backbone, texts: Sequence[EncodedSplit], *, seed: int) -> TaskState:
    """A task state to start training from.

    Args:
        plan: Its parts.
        backbone: The frozen model.
        texts: Training text of the tasks, for prompts that start from it.
        seed: Names what is drawn.

    Raises:
        ConfigError: A layer that the backbone does not have.
        BackboneError: A part that the backbone cannot take.
    """
    return TaskState([_FRESH[kind](plan, backbone, texts, seed) for kind in plan.parts])


def restored_state(
    specs: Mapping[str, Mapping[str, Any]],
    values: Mapping[str, Tensor],
    backbone: Backbone,
    *,
    where: str,
    prompt: PromptSettings | None = None,
    seed: int = 0,
) -> TaskState:
    """A task state as it was saved.

    Args:
        specs: Of its parts by kind, from `TaskState.specs`.
        values: Their tensors as KIND.NAME.
        backbone: The frozen model.
        where: The checkpoint, for messages.
        prompt: How prompts among them are trained on; None is for use.
        seed: Names the networks that are drawn to train them with.

    Raises:
        CheckpointError: The tensors are not those that the specs tell of.
    """
    how = PromptSettings() if prompt is None else prompt
    parts = []
    for kind, spec in specs.items():
        own = {name.removeprefix(f"{kind}."): it for name, it in values.items() if name.startswith(f"{kind}.")}
        part = _RESTORED[kind](spec, own, backbone, how, seed)
        found, expected = ({name: tuple(it.shape) for name, it in its.items()} for its in (own, part.values()))
        if found != expected or part.spec != spec:
            wrong = next(name for name in {**found, **expected} if found.get(name) != expected.get(name))
            raise CheckpointError(
                f"{where}: {kind} {wrong} has shape {found.get(wrong)}, expected {expected.get(wrong)}. "
                "The checkpoint was put together from two others"
            )
        with torch.no_grad():
            for name, value in part.values().items():
                value.copy_(own[name])
        part.settle()
        parts.append(part)
    return TaskState(parts).to(backbone.device)


def virtual_tokens(specs: Mapping[str, Mapping[str, Any]]) -> int:
    """Positions that a state takes from a text that starts behind its virtual tokens."""
    return max((int(spec.get("length", 0)) for spec in specs.values()), default=0)


def chosen_layers(backbone: Backbone, layers: LayerChoice, *, field: str) -> tuple[int, ...]:
    """The layers that a setting names: all, a number of upper ones, or indices.

    Raises:
        ConfigError: One that the backbone does not have.
    """
    count = backbone.num_layers
    number = count if layers == "all" else layers
    chosen = tuple(range(count - number, count)) if isinstance(number, int) else number
    if not chosen or min(chosen) < 0 or max(chosen) >= count or list(chosen) != sorted(set(chosen)):
        raise ConfigError(
            f"{field}: {layers} over a backbone of {count} layers. Expected all, a number of upper layers up to "
            f"{count}, or ascending indices from 0 to {count - 1}"
        )
    return chosen


def _fresh_prompt(plan: StatePlan, backbone: Backbone, texts: Sequence[EncodedSplit], seed: int) -> Part:
    shape = PromptShape(
        num_layers=backbone.num_layers,
        layers=chosen_layers(backbone, plan.prompt.layers, field="prompt.layers"),
        num_heads=backbone.num_key_value_heads,
        length=plan.prompt.length,
        head_dim=backbone.head_dim,
    )
    values = initial_prompt(backbone, shape, texts, initialisation=plan.prompt.initialisation, seed=seed)
    return _prompt(values, shape, plan.prompt, seed)


def _prompt(values: Float[Tensor, "L 2 G P D"], shape: PromptShape, settings: PromptSettings, seed: int) -> Part:
    network = _network(by_token(values), settings, shape.num_heads * shape.head_dim, seed)
    return Prompt(values, shape, dropout=settings.dropout, network=network, network_rate=settings.chosen_network_rate)


def _fresh_low_rank(plan: StatePlan, backbone: Backbone, texts: Sequence[EncodedSplit], seed: int) -> Part:
    settings = plan.low_rank
    return fresh_low_rank(
        backbone,
        rank=settings.rank,
        alpha=settings.alpha,
        targets=settings.targets or "all",
        layers=chosen_layers(backbone, settings.layers, field="low_rank.layers"),
        seed=seed,
    )


def _fresh_input(plan: StatePlan, backbone: Backbone, texts: Sequence[EncodedSplit], seed: int) -> Part:
    settings = plan.prompt
    embeddings = initial_embeddings(backbone, settings.length, texts, initialisation=settings.initialisation, seed=seed)
    return _input(embeddings, settings, seed)


def _input(embeddings: Float[Tensor, "P E"], settings: PromptSettings, seed: int) -> Part:
    network = _network(embeddings, settings, embeddings.shape[1], seed)
    rate = settings.chosen_network_rate
    return InputPrompt(embeddings, dropout=settings.dropout, network=network, network_rate=rate)


def _network(start: Float[Tensor, "P V"], settings: PromptSettings, input_size: int, seed: int) -> Network | None:
    """The network that the settings ask for behind virtual tokens."""
    if settings.reparameterisation == "none":
        return None
    kind, hidden = settings.reparameterisation, settings.hidden_size
    return network_behind(start, kind=kind, input_size=input_size, hidden_size=hidden, seed=seed)


_FRESH: Mapping[PartKind, Callable[[StatePlan, Backbone, Sequence[EncodedSplit], int], Part]] = {
    "prompt": _fresh_prompt,
    "low_rank": _fresh_low_rank,
    "input": _fresh_input,
    "weights": lambda plan, backbone, texts, seed: Weights(backbone, biases=plan.biases),
}


def _restored_prompt(
    spec: Mapping[str, Any], own: Mapping[str, Tensor], backbone: Backbone, how: PromptSettings, seed: int
) -> Part:
    shape = PromptShape(**{**spec, "layers": tuple(spec["layers"])})
    values = own["values"] if "values" in own else torch.zeros(())
    fits = tuple(values.shape) == shape.tensor_shape
    return _prompt(values if fits else torch.zeros(shape.tensor_shape), shape, how, seed)


def _restored_low_rank(
    spec: Mapping[str, Any], own: Mapping[str, Tensor], backbone: Backbone, how: PromptSettings, seed: int
) -> Part:
    rank, sizes = int(spec["rank"]), {linear.name: linear for linear in backbone.linears}
    known = [sizes[name] for name in spec["layers"] if name in sizes]
    empty = {it.name: (torch.zeros((rank, it.in_features)), torch.zeros((it.out_features, rank))) for it in known}
    return LowRank(empty, alpha=spec["alpha"])


def _restored_input(
    spec: Mapping[str, Any], own: Mapping[str, Tensor], backbone: Backbone, how: PromptSettings, seed: int
) -> Part:
    embeddings = torch.zeros((spec["length"], spec["width"]))
    saved = own.get("embeddings", embeddings)
    return _input(saved if saved.shape == embeddings.shape else embeddings, how, seed)


_RESTORED: Mapping[str, Callable[[Mapping[str, Any], Mapping[str, Tensor], Backbone, PromptSettings, int], Part]] = {
    "prompt": _restored_prompt,
    "low_rank": _restored_low_rank,
    "input": _restored_input,
    "weights": lambda spec, own, backbone, how, seed: Weights(backbone, biases=spec["biases"]),
}


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
    """An input prompt to start training from, in float32.

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
    captured: list[tuple[Tensor, Tensor]] = []
    with torch.no_grad():
        backbone(batch, ForwardPass(observe=lambda _, keys, values: captured.append((keys, values))))
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
