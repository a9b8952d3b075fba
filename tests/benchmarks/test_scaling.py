"""docs/scaling.md shows what the program computes, and what it computes is what the code sends."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from mpt.training.gradients import GradientVectors
from scaling import (
    INFINIBAND,
    LABELS,
    PROMPT_LENGTH,
    SHAPES,
    bytes_table,
    compute_seconds,
    most_ranks,
    ranks_table,
    received,
    seconds_table,
)

PAGE = Path(__file__).parents[2] / "docs" / "scaling.md"


@pytest.mark.parametrize("table", [bytes_table, seconds_table, ranks_table])
def test_the_page_has_the_tables(table):
    assert table() in PAGE.read_text(), "docs/scaling.md is out of date: python benchmarks/scaling.py"


def test_a_vector_is_as_long_as_that_of_training():
    shape = SHAPES[0]
    with torch.device("meta"):
        prompt = nn.Parameter(torch.empty(shape.layers, 2, shape.keys, PROMPT_LENGTH))
        head = nn.Linear(shape.hidden, LABELS)
    state = SimpleNamespace(values=lambda: {"prompt.values": prompt}, leaves=lambda: [prompt])
    gradients = GradientVectors(SimpleNamespace(state=state, head=lambda task: head), ["a", "b"])
    width = sum(p.numel() for p in gradients.shared) + gradients.head_size + 1
    assert received(shape, "ordered", 2) == 4 * width


def test_an_all_reduce_does_not_grow_with_the_ranks_and_an_ordered_sum_does():
    for shape in SHAPES:
        assert received(shape, "all_reduce", 1024) < 2 * received(shape, "all_reduce", 8)
        assert received(shape, "ordered", 1024) == pytest.approx(1023 / 7 * received(shape, "ordered", 8))


def test_the_most_ranks_are_those_at_a_tenth():
    for shape in SHAPES:
        ranks = most_ranks(shape, link=INFINIBAND)
        cost = [received(shape, "ordered", count) / INFINIBAND for count in (ranks, ranks + 1)]
        assert cost[0] <= 0.1 * compute_seconds(shape) < cost[1]
