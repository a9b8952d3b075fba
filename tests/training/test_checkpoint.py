import errno
import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from common.runs import files_of
from hypothesis import given, settings
from hypothesis import strategies as st

from mpt.base import files
from mpt.base.errors import CheckpointError
from mpt.training import checkpoint as checkpoints
from mpt.training.checkpoint import (
    SEAL,
    TENSORS,
    Checkpoint,
    best,
    differences,
    find_checkpoint,
    folder_name,
    latest,
    list_checkpoints,
    load_checkpoint,
    require_same,
    rotate,
    save_checkpoint,
    verify,
)

FILES = (
    *("state.safetensors", "heads.safetensors", "optimizer.safetensors", "networks.safetensors"),
    *("progress.json", "identity.json", SEAL),
)


def make(step=3, score=0.5):
    values = torch.arange(24, dtype=torch.float32).reshape(2, 2, 1, 2, 3) * 1.1 + step
    return Checkpoint(
        state={"prompt.values": values},
        heads={"ner.weight": torch.randn(3, 4), "ner.bias": torch.zeros(3)},
        optimizer={"prompt/exp_avg": values / 7, "prompt/step": torch.tensor(float(step))},
        networks={"prompt.layers.0.weight": values.flatten() / 3},
        progress={"step": step, "score": score, "history": [], "scores": []},
        identity={"backbone": {"weights_sha256": "ab"}, "tasks": {"ner": {"labels": ["O", "B-\u00e9t\u00e9"]}}},
    )


def save(run, *steps_and_scores):
    return [save_checkpoint(run / "checkpoints", make(step, score)) for step, score in steps_and_scores]


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    return save_checkpoint(tmp_path_factory.mktemp("saved"), make())


@pytest.fixture
def folder(saved, tmp_path):
    return Path(shutil.copytree(saved, tmp_path / "copies" / saved.name))


# Round trip


def test_what_is_loaded_is_what_was_saved(tmp_path):
    before = make()
    after = load_checkpoint(save_checkpoint(tmp_path, before))
    for kind in TENSORS:
        assert list(getattr(after, kind)) == sorted(getattr(before, kind))
        for name, tensor in getattr(before, kind).items():
            assert getattr(after, kind)[name].numpy().tobytes() == tensor.numpy().tobytes()
            assert getattr(after, kind)[name].shape == tensor.shape
    assert (after.progress, after.identity, after.step) == (before.progress, before.identity, 3)
    assert after.tensors == {"state": after.state, "networks": after.networks, "heads": after.heads}


def test_equal_checkpoints_are_equal_bytes(tmp_path):
    same = make()
    assert files_of(save_checkpoint(tmp_path / "a", same)) == files_of(save_checkpoint(tmp_path / "b", same))


def test_a_checkpoint_holds_the_documented_files_and_no_backbone(folder):
    assert {path.name for path in folder.iterdir()} == set(FILES)
    assert folder.name == folder_name(3) == "step-00000003"


def test_a_published_checkpoint_is_never_overwritten(tmp_path):
    folder = save_checkpoint(tmp_path, make(score=0.1))
    before = files_of(tmp_path)
    with pytest.raises(CheckpointError, match="step-00000003: this checkpoint exists already; nothing published is ov"):
        save_checkpoint(tmp_path, make(score=0.9))
    assert files_of(tmp_path) == before
    assert load_checkpoint(folder).progress["score"] == 0.1


# Damage


def refused(folder, *parts):
    """Every way of using a damaged checkpoint refuses it, naming folder and file."""
    for use in (verify, load_checkpoint):
        with pytest.raises(CheckpointError) as caught:
            use(folder)
        for part in (str(folder), *parts):
            assert part in str(caught.value)


@pytest.mark.parametrize("name", FILES)
@settings(max_examples=30)
@given(place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_one_flipped_bit_in_any_file_is_refused(saved, name, place, bit):
    path = saved / name
    whole = path.read_bytes()
    at = int(place * len(whole))
    try:
        path.write_bytes(whole[:at] + bytes([whole[at] ^ (1 << bit)]) + whole[at + 1 :])
        refused(saved, name)
    finally:
        path.write_bytes(whole)
    verify(saved)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("keep", [0, 0.5, -1])
def test_a_cut_off_file_is_refused(folder, name, keep):
    path = folder / name
    whole = path.read_bytes()
    path.write_bytes(whole[: int(keep * len(whole)) if keep >= 0 else -1])
    refused(folder, name)


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_refused(folder, name):
    (folder / name).unlink()
    refused(folder, name)


def test_a_file_too_many_is_refused(folder):
    (folder / "notes.txt").write_text("mine")
    refused(folder, "notes.txt does not belong to the checkpoint")


@pytest.mark.parametrize("name", FILES[:-1])
def test_a_file_of_another_step_is_refused(folder, tmp_path, name):
    other = save_checkpoint(tmp_path / "other", make(step=4, score=0.6))
    shutil.copy(other / name, folder / name)
    if name == "identity.json":  # both steps have the same
        verify(folder)
    else:
        refused(folder, name)


def test_edited_json_is_refused(folder):
    state = json.loads((folder / "progress.json").read_text())
    (folder / "progress.json").write_text(json.dumps({**state, "score": 0.99}))
    refused(folder, "progress.json")


def test_an_edited_seal_is_refused(folder):
    seal = json.loads((folder / SEAL).read_text())
    seal["files"]["progress.json"]["bytes"] += 1
    (folder / SEAL).write_text(json.dumps(seal))
    refused(folder, f"{SEAL} does not match its own digest")


@pytest.mark.parametrize("content", [b"", b"[]", b"{", b"\xff\xfe", b"null", b'{"files": 3}'])
def test_anything_else_in_place_of_the_seal_is_refused(folder, content):
    (folder / SEAL).write_bytes(content)
    refused(folder, SEAL)


def test_every_damaged_file_is_named_and_older_checkpoints_are_offered(tmp_path):
    _, folder = save(tmp_path, (1, 0.1), (2, 0.2))
    (folder / "heads.safetensors").unlink()
    (folder / "progress.json").write_text("{}")
    refused(
        folder,
        "heads.safetensors is missing",
        "progress.json has 2 bytes, expected",
        "Restore it from a copy, or remove this folder and use an older one (step-00000001)",
    )


def test_an_unknown_format_version_is_told_apart_from_damage(folder, monkeypatch, tmp_path):
    for version in (1, 3):
        with monkeypatch.context() as patch:
            patch.setattr(checkpoints, "FORMAT_VERSION", version)
            other = save_checkpoint(tmp_path / str(version), make())
        refused(other, f"format version {version}, this mpt knows 2. Use the mpt that wrote it")


def test_a_folder_without_a_seal_is_no_checkpoint(tmp_path):
    (tmp_path / "step-00000001").mkdir()
    refused(tmp_path / "step-00000001", f"no {SEAL} here, so this is no checkpoint")


def test_a_monstrous_json_file_is_not_read(folder, monkeypatch):
    monkeypatch.setattr(checkpoints, "LARGEST_JSON", 10)
    refused(folder, "larger than 10 bytes")


# Kills and full disks

DURABLE = [("write_durable", n) for n in range(7)] + [("fsync", n) for n in range(8)] + [("rename", 0), ("publish", 0)]


class Killed(BaseException):
    """Stands for the end of the process: no handler but clean-up of its own catches it."""


def failing(monkeypatch, operation, number, error):
    """Let the n-th durable operation of its kind fail."""
    calls = iter(range(100))

    def wrap(real):
        def operate(*args, **kwargs):
            if next(calls) == number:
                raise error
            return real(*args, **kwargs)

        return operate

    if operation == "write_durable":
        monkeypatch.setattr(checkpoints, "write_durable", wrap(files.write_durable))
    elif operation == "fsync":
        monkeypatch.setattr(os, "fsync", wrap(os.fsync))
    elif operation == "rename":
        monkeypatch.setattr(Path, "rename", wrap(Path.rename))
    else:
        monkeypatch.setattr(Path, "mkdir", wrap(Path.mkdir))


@pytest.mark.parametrize(("operation", "number"), DURABLE)
def test_a_kill_while_saving_leaves_the_checkpoint_before(tmp_path, monkeypatch, operation, number):
    (first,) = save(tmp_path, (1, 0.9))
    before = files_of(tmp_path)
    failing(monkeypatch, operation, number, Killed())
    # As after SIGKILL: nothing is cleaned up.
    monkeypatch.setattr(shutil, "rmtree", lambda *args, **kwargs: None)
    with pytest.raises(Killed):
        save(tmp_path, (2, 0.95))
    monkeypatch.undo()
    assert list_checkpoints(tmp_path / "checkpoints") == [first]
    assert latest(tmp_path) == best(tmp_path) == find_checkpoint(tmp_path) == first
    load_checkpoint(first)
    assert {name: content for name, content in files_of(tmp_path).items() if ".tmp-" not in name} == before
    (second,) = save(tmp_path, (2, 0.95))  # and what was left behind is in nobody's way
    assert latest(tmp_path) == second


@pytest.mark.parametrize(("operation", "number"), DURABLE)
def test_a_full_disk_is_told_and_leaves_the_checkpoint_before(tmp_path, monkeypatch, operation, number):
    (first,) = save(tmp_path, (1, 0.9))
    before = files_of(tmp_path)
    failing(monkeypatch, operation, number, OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))
    with pytest.raises(CheckpointError) as caught:
        save(tmp_path, (2, 0.95))
    monkeypatch.undo()
    for part in ("step-00000002", "No space left on device", "Earlier checkpoints are untouched", "--resume"):
        assert part in str(caught.value)
    assert files_of(tmp_path) == before
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == [first.name]


def test_a_disk_that_gives_back_other_bytes_publishes_nothing(tmp_path, monkeypatch):
    (first,) = save(tmp_path, (1, 0.9))

    def lossy(path, content):
        files.write_durable(path, content[:-1] + b"!" if path.name == "heads.safetensors" else content)

    monkeypatch.setattr(checkpoints, "write_durable", lossy)
    with pytest.raises(CheckpointError, match=r"heads\.safetensors has other content than was saved"):
        save(tmp_path, (2, 0.95))
    assert list_checkpoints(tmp_path / "checkpoints") == [first]


# Choice and rotation


def test_the_best_is_the_earliest_of_equals(tmp_path):
    save(tmp_path, (1, 0.2), (2, 0.7), (3, 0.7), (4, None))
    assert best(tmp_path).name == folder_name(2)
    assert latest(tmp_path).name == folder_name(4)


def test_without_scores_the_best_is_the_newest(tmp_path):
    save(tmp_path, (1, None), (2, None))
    assert best(tmp_path).name == folder_name(2)


def test_a_run_without_checkpoints_has_neither(tmp_path):
    assert (best(tmp_path), latest(tmp_path), list_checkpoints(tmp_path / "checkpoints")) == (None, None, [])


@pytest.mark.parametrize(
    ("scores", "keep_last", "kept"),
    [
        ([0.9, 0.1, 0.2, 0.3], 2, [1, 3, 4]),
        ([0.1, 0.2, 0.3, 0.4], 2, [3, 4]),
        ([0.1, 0.5, 0.3, 0.2], 1, [2, 4]),
        ([None, None, None], 1, [3]),
        ([0.4], 1, [1]),
    ],
)
def test_rotation_keeps_the_newest_and_the_best(tmp_path, scores, keep_last, kept):
    for step, score in enumerate(scores, 1):
        save(tmp_path, (step, score))
        rotate(tmp_path, keep_last=keep_last)
        assert load_checkpoint(best(tmp_path)).step
        assert latest(tmp_path).name == folder_name(step)
    assert [path.name for path in list_checkpoints(tmp_path / "checkpoints")] == [folder_name(step) for step in kept]
    assert len(list((tmp_path / "checkpoints").iterdir())) == len(kept), "nothing else is left behind"


def test_a_kill_while_removing_never_lists_a_half_checkpoint(tmp_path, monkeypatch):
    save(tmp_path, (1, 0.1), (2, 0.2), (3, 0.3))

    def half(folder, **kwargs):
        next(folder.iterdir()).unlink()
        raise Killed

    monkeypatch.setattr(shutil, "rmtree", half)
    with pytest.raises(Killed):
        rotate(tmp_path, keep_last=1)
    monkeypatch.undo()
    for folder in list_checkpoints(tmp_path / "checkpoints"):
        load_checkpoint(folder)
    assert latest(tmp_path).name == folder_name(3)


# Finding


def test_a_run_folder_means_its_best_checkpoint(tmp_path):
    first, second = save(tmp_path, (1, 0.5), (2, 0.4))
    assert find_checkpoint(tmp_path) == first
    assert find_checkpoint(second) == second


def test_a_run_that_has_no_checkpoint_yet(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    with pytest.raises(CheckpointError, match="this run has no checkpoint yet"):
        find_checkpoint(tmp_path)


def test_a_folder_of_runs_names_them(tmp_path):
    save(tmp_path / "one", (1, 0.5))
    save(tmp_path / "ner-20" / "transfer" / "seed-0", (1, 0.5))
    with pytest.raises(CheckpointError, match="It holds runs: ner-20/transfer/seed-0, one"):
        find_checkpoint(tmp_path)


def test_a_missing_folder_suggests_the_nearest(tmp_path):
    save(tmp_path / "pretrain", (1, 0.5))
    with pytest.raises(CheckpointError, match=r'pretrian: no such folder\. Did you mean ".*/pretrain"\?'):
        find_checkpoint(tmp_path / "pretrian")


# Identity


def test_differences_show_the_field_and_both_values():
    saved = {"prompt": {"length": 4, "layers": [0, 1]}, "seed": 0, "gone": True}
    current = {"prompt": {"length": 8, "layers": [0, 1]}, "seed": 0, "new": "x"}
    assert differences(saved, current) == [
        "prompt.length: checkpoint 4, now 8",
        "gone: checkpoint True, now None",
        "new: checkpoint None, now 'x'",
    ]
    assert differences(saved, saved) == []


def test_long_lists_show_what_differs():
    labels = [f"B-LABEL{number}" for number in range(30)]
    (line,) = differences({"labels": labels}, {"labels": [*labels[1:], "B-NEW"]})
    assert line == "labels: checkpoint only: ['B-LABEL0']; now only: ['B-NEW']"
    (line,) = differences({"labels": labels}, {"labels": labels[::-1]})
    assert "the order differs" in line


def test_every_field_that_differs_is_told(tmp_path):
    with pytest.raises(CheckpointError) as caught:
        require_same({"a": 1, "b": 2, "c": 3}, {"a": 1, "b": 5, "c": 6}, folder=tmp_path, remedy="Do this")
    assert "b: checkpoint 2, now 5" in str(caught.value)
    assert "c: checkpoint 3, now 6" in str(caught.value)
    assert str(caught.value).endswith("Do this")
    require_same({"a": 1}, {"a": 1}, folder=tmp_path, remedy="")
