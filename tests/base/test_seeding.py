import random

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from mpt.base.seeding import permutation, raw_words, stream_key, torch_generator, uniforms

SEEDS = st.integers(0, 2**63)
PURPOSES = st.lists(st.one_of(st.text(max_size=6), st.integers(-5, 2**40)), max_size=3).map(tuple)


def test_streams_are_the_same_in_every_release_of_numpy_and_torch():
    assert stream_key(0, "draw", "conll", 3) == 187503469703631821836073278468937598551
    assert raw_words(0, "draw", count=2).tolist() == [17941610491194044319, 17166706871438274490]
    assert uniforms(7, "a", count=2).tolist() == [0.6177988394052599, 0.8006770057397494]
    assert permutation(7, "a", count=8).tolist() == [5, 3, 6, 7, 2, 0, 1, 4]
    assert torch.rand(2, generator=torch_generator(7, "a")).tolist() == [0.8513543009757996, 0.27167004346847534]


@given(SEEDS, PURPOSES, SEEDS, PURPOSES)
def test_different_names_never_share_a_stream(seed, purpose, other_seed, other_purpose):
    same = (seed, purpose) == (other_seed, other_purpose)
    assert (stream_key(seed, *purpose) == stream_key(other_seed, *other_purpose)) == same


@given(SEEDS, PURPOSES, st.integers(0, 50).map(lambda four: 4 * four))
def test_a_stream_can_be_entered_anywhere(seed, purpose, start):
    whole = raw_words(seed, *purpose, count=start + 6).tolist()
    assert raw_words(seed, *purpose, count=6, start=start).tolist() == whole[start:]


def test_names_are_not_glued_together():
    names = [(1, "ab"), (1, "a", "b"), (1, "ab", ""), (1, "a", "b", ""), (1, 2), (1, "2"), (12,), (1, "int:2")]
    assert len({stream_key(*name) for name in names}) == len(names)


@given(SEEDS, PURPOSES, st.integers(0, 50), st.integers(0, 50))
def test_a_longer_request_begins_with_a_shorter_one(seed, purpose, short, more):
    longer = uniforms(seed, *purpose, count=short + more)
    assert longer[:short].tolist() == uniforms(seed, *purpose, count=short).tolist()


@given(SEEDS, PURPOSES, st.integers(0, 200))
def test_permutation(seed, purpose, count):
    assert sorted(permutation(seed, *purpose, count=count).tolist()) == list(range(count))


def test_every_place_of_a_permutation_is_equally_likely():
    firsts = np.bincount([permutation(seed, "p", count=5)[0] for seed in range(1000)], minlength=5)
    assert firsts.min() > 150 and firsts.max() < 250, firsts  # 200 expected, standard deviation 12.6


def test_uniforms_fill_the_unit_interval():
    drawn = uniforms(0, "u", count=20_000)
    assert drawn.min() >= 0 and drawn.max() < 1
    assert abs(drawn.mean() - 0.5) < 0.01 and abs(drawn.std() - 12**-0.5) < 0.01
    assert (drawn * 2.0**53 % 1 == 0).all()  # 53 random bits, no rounding to 1


def test_torch_streams_follow_seed_and_purpose():
    def drawn(*name):
        return torch.rand(4, generator=torch_generator(*name)).tolist()

    assert drawn(1, "a") == drawn(1, "a")
    assert len({str(drawn(*name)) for name in [(1, "a"), (2, "a"), (1, "b"), (1, "a", 0), (1, "a", 1)]}) == 5


def test_global_generators_are_neither_read_nor_moved():
    def streams():
        generator = torch_generator(5, "x")
        return uniforms(5, "x", count=3).tolist(), torch.rand(3, generator=generator).tolist()

    first = streams()
    random.seed(99), np.random.seed(99), torch.manual_seed(99)
    states = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
    assert streams() == first
    assert states == (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist())
