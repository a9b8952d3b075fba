import errno
import json
import os
import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from common.backbones import HIDDEN

from mpt.data.example import Sentence
from mpt.data.families.tokenization import encode
from mpt.data.order.batch import collate
from mpt.model.backbone import trunk_cache
from mpt.model.backbone.trunk_cache import ENTRY, STATES, TrunkCache, default_folder, trunk_states

TEXTS = ("the low river", "new", "a doctor saw the new lower river in", "the newest", "in the")


@pytest.fixture
def backbone(load):
    return load("bert")


@pytest.fixture
def split(backbone):
    return encoded(backbone, TEXTS)


@pytest.fixture
def cache(tmp_path):
    return TrunkCache(folder=tmp_path / "cache", max_bytes=1 << 20)


def encoded(backbone, texts):
    sentences = [
        Sentence(words=tuple(text.split()), tags=None, path="f.txt", lines=tuple(range(1, 1 + len(text.split()))))
        for text in texts
    ]
    return encode(sentences, backbone.word_pieces, None)[0]


def fetch(cache, backbone, split, depth=1, prompt_length=3):
    return cache.states(backbone, split, depth, prompt_length=prompt_length)


def entries(cache):
    return sorted(path for path in cache.folder.iterdir())


def counted(monkeypatch):
    """How often the trunk runs."""
    runs = []
    real = trunk_cache.trunk_states
    monkeypatch.setattr(trunk_cache, "trunk_states", lambda *args, **kwargs: (runs.append(1), real(*args, **kwargs))[1])
    return runs


@pytest.mark.parametrize("depth", [1, 2])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_what_is_kept_is_what_the_layers_compute(load, cache, dtype, depth):
    backbone = load("bert", dtype=dtype)
    split = encoded(backbone, TEXTS)
    states, notices = fetch(cache, backbone, split, depth)
    assert notices == [] and states.depth == depth and states.values.shape == (len(split.pieces), HIDDEN)
    batch = collate(replace(split, trunk=states), np.arange(len(split)), pad=backbone.word_pieces.pad)
    assert batch.trunk_depth == depth and batch.trunk_BSH.dtype == backbone.dtype
    with torch.no_grad():
        expected = trunk_states(backbone, batch, depth, prompt_length=3)
    mask = batch.attention_mask_BS
    tolerance = 1e-5 if dtype == "float32" else 0.05
    torch.testing.assert_close(batch.trunk_BSH[mask], expected[mask], atol=tolerance, rtol=tolerance)
    assert batch.trunk_BSH[~mask].abs().sum() == 0


def test_prompts_of_an_earlier_batch_do_not_leak_into_it(backbone, split, cache, tmp_path):
    from common.prompts import random_bank, random_batch, tagger_of

    clean, _ = fetch(cache, backbone, split)
    tagger_of(backbone, random_bank(backbone, 5)).word_states(random_batch(backbone, 4))
    again, _ = fetch(TrunkCache(folder=tmp_path / "other", max_bytes=1 << 20), backbone, split)
    assert np.array_equal(clean.values, again.values)


def test_the_second_use_computes_nothing(backbone, split, cache, monkeypatch):
    runs = counted(monkeypatch)
    first, _ = fetch(cache, backbone, split)
    assert runs
    runs.clear()
    second, notices = fetch(cache, backbone, split)
    assert not runs and notices == []
    assert np.array_equal(first.values, second.values)


def test_another_text_depth_shift_backbone_or_type_is_another_entry(load, tiny_folder, backbone, split, cache):
    fetch(cache, backbone, split)
    fetch(cache, backbone, split, prompt_length=7)  # of no effect where positions are not shifted
    assert len(entries(cache)) == 1
    fetch(cache, backbone, encoded(backbone, TEXTS[1:]))
    fetch(cache, backbone, encoded(backbone, (TEXTS[0] + " " + TEXTS[1], *TEXTS[2:])))  # as many pieces of text
    fetch(cache, backbone, split, depth=2)
    shifted = load("bert", shifted=True, prompt_length=7)
    fetch(cache, shifted, split, prompt_length=3)
    fetch(cache, shifted, split, prompt_length=7)
    fetch(cache, load("bert", dtype="bfloat16"), split)
    backbone.identity = replace(backbone.identity, weights_sha256="0" * 64)
    fetch(cache, backbone, split)
    assert len(entries(cache)) == 8


@pytest.mark.parametrize("damage", ["byte", "short", "entry", "entry gone", "states gone", "of another"])
def test_a_damaged_entry_is_told_and_computed_anew(backbone, split, cache, monkeypatch, damage):
    good, _ = fetch(cache, backbone, split)
    good = np.array(good.values)
    (entry,) = entries(cache)
    content = bytearray((entry / STATES).read_bytes())
    if damage == "byte":
        content[100] ^= 1
        (entry / STATES).write_bytes(content)
    elif damage == "short":
        (entry / STATES).write_bytes(content[:-4])
    elif damage == "entry":
        (entry / ENTRY).write_bytes(b"{")
    elif damage == "entry gone":
        (entry / ENTRY).unlink()
    elif damage == "states gone":
        (entry / STATES).unlink()
    else:
        about = json.loads((entry / ENTRY).read_bytes())
        (entry / ENTRY).write_text(json.dumps({**about, "weights_sha256": "0" * 64}))
    runs = counted(monkeypatch)
    states, (notice,) = fetch(cache, backbone, split)
    assert runs and np.array_equal(states.values, good)
    assert notice == f"{entry}: this entry of the trunk cache is damaged; it is computed anew."


def test_the_longest_unused_entries_make_room(backbone, cache):
    sizes = []
    for number, text in enumerate(TEXTS[:3]):
        fetch(cache, backbone, encoded(backbone, [text]))
        newest = max(entries(cache), key=lambda path: (path / ENTRY).stat().st_mtime_ns)
        sizes.append(sum(file.stat().st_size for file in newest.iterdir()))
        os.utime(newest / ENTRY, (1000 + number, 1000 + number))
    fetch(cache, backbone, encoded(backbone, TEXTS[:1]))  # used again: now the second is the oldest
    small = replace(cache, max_bytes=sum(sizes) + 100)
    fetch(small, backbone, encoded(backbone, TEXTS[4:]))
    runs = []
    for text in TEXTS[:3]:
        before = len(entries(cache))
        fetch(cache, backbone, encoded(backbone, [text]))
        runs.append(len(entries(cache)) > before)
    assert runs[:2] == [False, True]


def test_what_exceeds_the_whole_cache_is_told_and_not_kept(backbone, split, cache):
    states, (notice,) = fetch(replace(cache, max_bytes=100), backbone, split)
    assert states is None and not cache.folder.exists()
    assert "exceed the cache's 0 MiB" in notice and "Raise backbone.trunk_cache_gib" in notice


def test_a_full_disk_is_told_and_leaves_nothing(backbone, split, cache, monkeypatch):
    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(trunk_cache.os, "fsync", full)
    states, (notice,) = fetch(cache, backbone, split)
    assert states is None and entries(cache) == []
    assert notice.startswith(f"{cache.folder}: the trunk cache cannot be used (No space left on device); the lower")


def test_a_folder_that_cannot_be_made_is_told(backbone, split, tmp_path):
    (tmp_path / "file").touch()
    states, (notice,) = fetch(TrunkCache(folder=tmp_path / "file" / "cache", max_bytes=1 << 20), backbone, split)
    assert states is None and "the trunk cache cannot be used (Not a directory)" in notice


def test_another_process_may_be_first(backbone, split, cache, monkeypatch):
    """It publishes the entry while this one is computing it."""
    real = trunk_cache._computed

    def overtaken(*args):
        monkeypatch.setattr(trunk_cache, "_computed", real)
        fetch(cache, backbone, split)
        yield from real(*args)

    monkeypatch.setattr(trunk_cache, "_computed", overtaken)
    states, notices = fetch(cache, backbone, split)
    assert notices == [] and states.values.shape == (len(split.pieces), HIDDEN)
    assert len(entries(cache)) == 1


def test_what_a_crash_left_goes_after_a_day(backbone, split, cache):
    cache.folder.mkdir()
    for name in (".tmp-old", ".trash-old", ".tmp-new"):
        (cache.folder / name).mkdir()
        if name.endswith("old"):
            os.utime(cache.folder / name, (time.time() - 90_000,) * 2)
    fetch(cache, backbone, split)
    assert [path.name for path in entries(cache) if path.name.startswith(".t")] == [".tmp-new"]


def test_the_folder_is_the_users(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    monkeypatch.delenv("MPT_CACHE", raising=False)
    assert default_folder() == tmp_path / "xdg" / "mpt" / "trunk"
    monkeypatch.setenv("MPT_CACHE", str(tmp_path / "mine"))
    assert default_folder() == tmp_path / "mine" / "trunk"
