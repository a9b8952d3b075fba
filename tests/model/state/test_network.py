import pytest
import torch

from mpt.model.state.input_prompt import InputPrompt
from mpt.model.state.network import by_layer, by_token, network_behind
from mpt.model.state.prompt import Prompt, PromptShape

SHAPE = PromptShape(num_layers=4, layers=(1, 2, 3), num_heads=2, length=5, head_dim=6)
KINDS = ("mlp", "lstm")


def values_of(seed=0, shape=SHAPE):
    return torch.randn(shape.tensor_shape, generator=torch.Generator().manual_seed(seed))


def prompt_of(kind, *, hidden_size=16, seed=0, values=None):
    values = values_of() if values is None else values
    network = network_behind(by_token(values), kind=kind, input_size=12, hidden_size=hidden_size, seed=seed)
    return Prompt(values, SHAPE, network=network)


def output_of(prompt):
    return by_layer(prompt.network(), num_heads=2, head_dim=6)


def test_a_row_of_a_virtual_token_holds_key_and_value_of_every_layer():
    prompt = values_of()
    rows = by_token(prompt)
    assert rows.shape == (5, 3 * 2 * 2 * 6)
    # The reference implementation's and PEFT's order: layer, then key and value, then heads.
    seen = rows[4].view(3 * 2, 2, 6)
    assert torch.equal(seen[2 * 1], prompt[1, 0, :, 4]) and torch.equal(seen[2 * 1 + 1], prompt[1, 1, :, 4])
    assert torch.equal(by_layer(rows, num_heads=2, head_dim=6), prompt)


@pytest.mark.parametrize("kind", KINDS)
def test_a_network_starts_where_a_flat_prompt_would(kind):
    values = values_of()
    prompt = prompt_of(kind, values=values)
    assert torch.equal(prompt.flat, values) and torch.equal(output_of(prompt), values)


@pytest.mark.parametrize("kind", KINDS)
def test_every_weight_is_trained(kind):
    prompt = prompt_of(kind)
    for _ in range(2):  # as long as the last layer is zero, nothing before it has a gradient
        prompt.zero_grad()
        prompt.flat.grad = values_of(1)
        prompt.pass_gradient()
        weights = dict(prompt.network.named_parameters())
        with torch.no_grad():
            for weight in weights.values():
                weight -= 0.1 * weight.grad
    assert prompt.flat.grad is None, "its network moves in its place"
    assert all(weight.grad.abs().sum() > 0 for weight in weights.values())
    assert {weight.dtype for weight in weights.values()} == {torch.float32}


@pytest.mark.parametrize("kind", KINDS)
def test_the_gradient_is_that_of_the_network_as_a_part_of_the_model(kind):
    prompt, target = prompt_of(kind), values_of(2)
    with torch.no_grad():
        for weight in prompt.network.parameters():
            weight += 0.01
    prompt.settle()
    (output_of(prompt) * target).square().sum().backward()
    expected = {name: weight.grad.clone() for name, weight in prompt.network.named_parameters()}
    prompt.zero_grad()
    (prompt.flat * target).square().sum().backward()
    prompt.pass_gradient()
    for name, weight in prompt.network.named_parameters():
        torch.testing.assert_close(weight.grad, expected[name])


@pytest.mark.parametrize("kind", KINDS)
def test_an_input_prompt_comes_out_of_every_network_in_the_same_way(kind):
    start, target = (torch.randn((5, 12), generator=torch.Generator().manual_seed(seed)) for seed in (0, 1))
    network = network_behind(start, kind=kind, input_size=12, hidden_size=16, seed=0)
    prompt = InputPrompt(start, network=network)
    assert torch.equal(prompt.embeddings, start)
    with torch.no_grad():
        for weight in network.parameters():
            weight += 0.01
    assert torch.equal(prompt.embeddings, start)
    prompt.settle()
    assert torch.equal(prompt.embeddings, network()) and not torch.equal(prompt.embeddings, start)
    (network() * target).square().sum().backward()
    expected = {name: weight.grad.clone() for name, weight in network.named_parameters()}
    prompt.zero_grad()
    (prompt.embeddings * target).square().sum().backward()
    prompt.pass_gradient()
    assert prompt.embeddings.grad is None, "its network moves in its place"
    for name, weight in network.named_parameters():
        torch.testing.assert_close(weight.grad, expected[name])


def test_the_flat_values_follow_the_network():
    prompt = prompt_of("mlp")
    before = prompt.flat.detach().clone()
    with torch.no_grad():
        prompt.network.layers[-1].bias += 1
    assert torch.equal(prompt.flat, before)
    prompt.settle()
    assert torch.equal(prompt.flat, output_of(prompt)) and not torch.equal(prompt.flat, before)


def test_a_flat_prompt_has_nothing_to_follow():
    prompt = Prompt(values_of(), SHAPE)
    prompt.flat.grad = values_of(1)
    prompt.pass_gradient()
    prompt.settle()
    assert torch.equal(prompt.flat, values_of()) and torch.equal(prompt.flat.grad, values_of(1))


@pytest.mark.parametrize("kind", KINDS)
def test_an_optimizer_moves_the_network_in_the_place_of_what_comes_out_of_it(kind):
    """What a pass computes with stays the flat values, and those are what is saved."""
    prompt = Prompt(values_of(), SHAPE, network=prompt_of(kind).network, network_rate=0.1)
    (group,) = prompt.groups()
    assert (group.rate, group.factor, group.decayed) == ("prompt", 0.1, False)
    assert {id(p) for p in group.parameters} == {id(p) for p in prompt.network.parameters()}
    assert list(prompt.values()) == ["values"] and prompt.leaves() == [prompt.flat]
    (flat,) = Prompt(values_of(), SHAPE).groups()
    assert (flat.rate, flat.factor) == ("prompt", 1.0) and len(flat.parameters) == 1


@pytest.mark.parametrize("kind", KINDS)
def test_weights_are_a_function_of_the_seed(kind):
    torch.manual_seed(1)
    one = prompt_of(kind).state_dict()
    torch.manual_seed(2)
    two, other = prompt_of(kind).state_dict(), prompt_of(kind, seed=1).state_dict()
    assert torch.initial_seed() == 2
    assert all(torch.equal(one[name], two[name]) for name in one)
    first = [name for name in one if name.startswith("network.layers.0")]
    assert first and all(not torch.equal(one[name], other[name]) for name in first)


def test_nothing_is_drawn_from_the_global_generator():
    before = torch.random.get_rng_state()
    for kind in KINDS:
        prompt_of(kind)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_layers_are_those_of_the_published_networks():
    shapes = {kind: [tuple(p.shape) for p in prompt_of(kind).network.parameters() if p.dim() > 1] for kind in KINDS}
    # Inputs, then the layers.
    assert shapes["mlp"] == [(5, 12), (16, 12), (72, 16)]
    lstm = [(32, 12), (32, 8)] * 2 + [(32, 16), (32, 8)] * 2  # gates x (input, hidden), both directions, two layers
    assert shapes["lstm"] == [(5, 12), *lstm, (16, 16), (72, 16)]
