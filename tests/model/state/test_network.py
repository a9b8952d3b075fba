import pytest
import torch

from mpt.model.state.bank import PromptBank, PromptShape
from mpt.model.state.input_prompt import ShallowPrompt
from mpt.model.state.network import by_layer, by_token, reparameterise

SHAPE = PromptShape(num_layers=4, layers=(1, 2, 3), num_heads=2, length=5, head_dim=6)
KINDS = ("mlp", "residual_mlp", "lstm")


def prompt_of(seed=0, shape=SHAPE):
    return torch.randn(shape.tensor_shape, generator=torch.Generator().manual_seed(seed))


def bank_of(kind, *, hidden_size=16, seed=0, prompt=None):
    prompt = prompt_of() if prompt is None else prompt
    network = reparameterise(by_token(prompt), kind=kind, input_size=12, hidden_size=hidden_size, seed=seed)
    return PromptBank([prompt], [SHAPE], reparameterisation=network)


def folded(bank):
    return by_layer(bank.reparameterisation(), num_heads=2, head_dim=6)


def test_a_row_of_a_virtual_token_holds_key_and_value_of_every_layer():
    prompt = prompt_of()
    rows = by_token(prompt)
    assert rows.shape == (5, 3 * 2 * 2 * 6)
    # The reference implementation's and PEFT's order: layer, then key and value, then heads.
    seen = rows[4].view(3 * 2, 2, 6)
    assert torch.equal(seen[2 * 1], prompt[1, 0, :, 4]) and torch.equal(seen[2 * 1 + 1], prompt[1, 1, :, 4])
    assert torch.equal(by_layer(rows, num_heads=2, head_dim=6), prompt)


@pytest.mark.parametrize("kind", KINDS)
def test_a_network_starts_where_a_flat_prompt_would(kind):
    prompt = prompt_of()
    bank = bank_of(kind, prompt=prompt)
    assert torch.equal(bank.slots[0], prompt) and torch.equal(folded(bank), prompt)


@pytest.mark.parametrize("kind", KINDS)
def test_every_weight_is_trained(kind):
    bank = bank_of(kind)
    for _ in range(2):  # as long as the last layer is zero, nothing before it has a gradient
        bank.zero_grad()
        bank.slots[0].grad = prompt_of(1)
        bank.pass_gradient()
        weights = dict(bank.reparameterisation.named_parameters())
        with torch.no_grad():
            for weight in weights.values():
                weight -= 0.1 * weight.grad
    assert bank.slots[0].grad is None, "its network moves in its place"
    assert all(weight.grad.abs().sum() > 0 for weight in weights.values())
    assert {weight.dtype for weight in weights.values()} == {torch.float32}


@pytest.mark.parametrize("kind", KINDS)
def test_the_gradient_is_that_of_the_network_as_a_part_of_the_model(kind):
    bank, target = bank_of(kind), prompt_of(2)
    with torch.no_grad():
        for weight in bank.reparameterisation.parameters():
            weight += 0.01
    bank.fold()
    (folded(bank) * target).square().sum().backward()
    expected = {name: weight.grad.clone() for name, weight in bank.reparameterisation.named_parameters()}
    bank.zero_grad()
    (bank.slots[0] * target).square().sum().backward()
    bank.pass_gradient()
    for name, weight in bank.reparameterisation.named_parameters():
        torch.testing.assert_close(weight.grad, expected[name])


@pytest.mark.parametrize("kind", KINDS)
def test_a_shallow_prompt_comes_out_of_every_network_in_the_same_way(kind):
    start, target = (torch.randn((5, 12), generator=torch.Generator().manual_seed(seed)) for seed in (0, 1))
    network = reparameterise(start, kind=kind, input_size=12, hidden_size=16, seed=0)
    prompt = ShallowPrompt(start, reparameterisation=network)
    assert torch.equal(prompt.embeddings, start)
    with torch.no_grad():
        for weight in network.parameters():
            weight += 0.01
    assert torch.equal(prompt.embeddings, start)
    prompt.fold()
    assert torch.equal(prompt.embeddings, network()) and not torch.equal(prompt.embeddings, start)
    (network() * target).square().sum().backward()
    expected = {name: weight.grad.clone() for name, weight in network.named_parameters()}
    prompt.zero_grad()
    (prompt.embeddings * target).square().sum().backward()
    prompt.pass_gradient()
    assert prompt.embeddings.grad is None, "its network moves in its place"
    for name, weight in network.named_parameters():
        torch.testing.assert_close(weight.grad, expected[name])


def test_folding_follows_the_network():
    bank = bank_of("mlp")
    before = bank.slots[0].detach().clone()
    with torch.no_grad():
        bank.reparameterisation.network[-1].bias += 1
    assert torch.equal(bank.slots[0], before)
    bank.fold()
    assert torch.equal(bank.slots[0], folded(bank)) and not torch.equal(bank.slots[0], before)


def test_a_flat_bank_has_nothing_to_fold():
    bank = PromptBank([prompt_of()], [SHAPE])
    bank.slots[0].grad = prompt_of(1)
    bank.pass_gradient()
    bank.fold()
    assert torch.equal(bank.slots[0], prompt_of()) and torch.equal(bank.slots[0].grad, prompt_of(1))


@pytest.mark.parametrize("kind", KINDS)
def test_weights_are_a_function_of_the_seed(kind):
    torch.manual_seed(1)
    one = bank_of(kind).state_dict()
    torch.manual_seed(2)
    two, other = bank_of(kind).state_dict(), bank_of(kind, seed=1).state_dict()
    assert torch.initial_seed() == 2
    assert all(torch.equal(one[name], two[name]) for name in one)
    first = [name for name in one if name.startswith("reparameterisation.network.0")]
    assert first and all(not torch.equal(one[name], other[name]) for name in first)


def test_nothing_is_drawn_from_the_global_generator():
    before = torch.random.get_rng_state()
    for kind in KINDS:
        bank_of(kind)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_layers_are_those_of_the_published_networks():
    shapes = {
        kind: [tuple(p.shape) for p in bank_of(kind).reparameterisation.parameters() if p.dim() > 1] for kind in KINDS
    }
    # Inputs (or the prompt), then the layers.
    assert shapes["mlp"] == [(5, 12), (16, 12), (72, 16)]
    assert shapes["residual_mlp"] == [(5, 72), (16, 72), (72, 16)]
    lstm = [(32, 12), (32, 8)] * 2 + [(32, 16), (32, 8)] * 2  # gates x (input, hidden), both directions, two layers
    assert shapes["lstm"] == [(5, 12), *lstm, (16, 16), (72, 16)]


def test_only_a_residual_network_has_keys_and_values_of_its_own():
    for kind in KINDS:
        network = bank_of(kind).reparameterisation
        assert len(network.flat_parameters) == (kind == "residual_mlp")
        both = {*network.flat_parameters, *network.network_parameters}
        assert both == set(network.parameters())


def test_a_network_belongs_to_a_bank_of_one_slot():
    network = reparameterise(by_token(prompt_of()), kind="mlp", input_size=12, hidden_size=16, seed=0)
    with pytest.raises(AssertionError, match="one slot"):
        PromptBank([prompt_of()] * 2, [SHAPE] * 2, reparameterisation=network)
