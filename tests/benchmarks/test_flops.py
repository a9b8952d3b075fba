import torch
from torch import nn

from flops import best_product_rate, flops_per_piece


def test_every_weight_outside_of_embeddings_costs_four_operations():
    model = nn.Sequential(nn.Embedding(100, 8), nn.Linear(8, 3), nn.LayerNorm(3))
    assert flops_per_piece(model) == 4 * (8 * 3 + 3 + 2 * 3)


def test_embeddings_of_a_backbone_do_not_count(load):
    model = load("bert").model
    assert flops_per_piece(model) == 4 * sum(
        parameter.numel() for name, parameter in model.named_parameters() if "_embeddings." not in name
    )


def test_the_best_product_is_at_least_as_fast_as_a_single_one(monkeypatch):
    monkeypatch.setattr("flops.SHAPES", ((64, 64, 64), (32, 32, 32)))
    monkeypatch.setattr("flops._time", lambda left, right: 1.0 if len(left) == 64 else 0.5)
    assert best_product_rate(torch.device("cpu"), seconds=0.0) == 2 * 64**3


def test_a_product_is_timed(monkeypatch):
    monkeypatch.setattr("flops.SHAPES", ((8, 8, 8),))
    assert best_product_rate(torch.device("cpu"), seconds=0.0) > 0
