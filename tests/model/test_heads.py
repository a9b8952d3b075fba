import pytest
import torch
from torch.nn import functional

from mpt.base.seeding import torch_generator
from mpt.model.heads import TokenHead

LABELS = ("O", "B-X", "I-X")


def head_of(task="t", labels=LABELS, seed=0, size=16, dropout=0.0):
    return TokenHead(size, labels, seed=seed, task=task, dropout=dropout)


def test_scores():
    head, hidden = head_of(), torch.randn(7, 16)
    with torch.no_grad():
        head.bias.uniform_()
    assert torch.allclose(head(hidden), hidden @ head.weight.T + head.bias, atol=1e-6)
    assert head(hidden).shape == (7, 3) and head(hidden[:0]).shape == (0, 3)


def test_initial_weights():
    weight = head_of(size=4000).weight
    assert abs(weight.std() - 0.02) < 0.001 and abs(weight.mean()) < 0.001
    assert not head_of().bias.any()
    assert weight.dtype == torch.float32


def test_initial_weights_are_a_function_of_seed_and_task_alone():
    expected = head_of("a").weight.detach().clone()
    torch.manual_seed(99)
    head_of("b")  # another task's head takes nothing away
    assert torch.equal(head_of("a").weight, expected)
    assert not torch.equal(head_of("b").weight, expected) and not torch.equal(head_of("a", seed=1).weight, expected)


def test_dropout_keeps_the_mean():
    head = head_of(size=400, dropout=0.25)
    with torch.no_grad():
        head.weight.copy_(torch.eye(400)[:3])
    scores = head(torch.ones(20_000, 400), torch_generator(0, "dropout"))
    assert scores.unique().tolist() == [0.0, pytest.approx(4 / 3)]
    assert abs((scores == 0).float().mean() - 0.25) < 0.01


def test_dropout_of_a_stream():
    head, hidden = head_of(dropout=0.5), torch.randn(9, 16)
    head.train()
    assert torch.equal(head(hidden), functional.linear(hidden, head.weight, head.bias))
    drawn = [head(hidden, torch_generator(0, name)) for name in ("a", "a", "b")]
    assert torch.equal(drawn[0], drawn[1]) and not torch.equal(drawn[0], drawn[2])
    assert torch.equal(head_of(dropout=0.0)(hidden, torch_generator(0, "a")), head_of()(hidden))


def test_copying_a_label_takes_the_mean_of_its_namesakes():
    head = head_of("new", labels=("O", "B-PER", "I-PER"))
    sources = [head_of("a", labels=("O", "B-LOC", "B-person")), head_of("b", labels=("B-PER", "O"))]
    with torch.no_grad():
        for source in sources:
            source.bias.uniform_()
    before = head.weight.detach().clone()
    head.copy_label("B-PER", [(sources[0], "B-person"), (sources[1], "B-PER")])
    assert torch.allclose(head.weight[1], (sources[0].weight[2] + sources[1].weight[0]) / 2)
    assert torch.allclose(head.bias[1], (sources[0].bias[2] + sources[1].bias[0]) / 2)
    assert torch.equal(head.weight[[0, 2]], before[[0, 2]]) and not head.bias[[0, 2]].any()
    head.copy_label("O", [(sources[1], "O")])
    assert torch.equal(head.weight[0], sources[1].weight[1]) and head.bias[0] == sources[1].bias[1]
    assert head.weight.requires_grad and head.weight.grad_fn is None  # still a parameter that trains
    with torch.no_grad():
        sources[1].weight.zero_()
    assert head.weight[0].any()  # a copy, not a view


def test_unknown_labels_are_a_mistake_of_the_caller():
    with pytest.raises(ValueError, match="not in"):
        head_of().copy_label("B-Y", [(head_of("a"), "O")])
