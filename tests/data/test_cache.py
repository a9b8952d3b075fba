import errno
import json
import os
import shutil
import sys
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest

from mpt.base.disk_cache import ENTRY
from mpt.base.errors import DataError, ManifestError
from mpt.data import cache as module
from mpt.data.cache import TEXT, UNREAD, read_tasks, text_cache
from mpt.data.manifest.reading import load_manifest

CONLLU = "1\t{}\t_\t{}\t_\t_\t0\troot\t_\t_\n"
COLUMNS = {"columns": {"word": 0, "tag": 1}, "scheme": "iob2"}
FORMATS = {
    "conll": ("Ada B-PER\nin O\n\nOslo B-LOC\nsat O\n", COLUMNS),
    "conllu": (CONLLU.format("Ada", "PROPN") + "\n" + CONLLU.format("sat", "VERB"), {"columns": {"tag": "upos"}}),
    "jsonl": ('{"tokens": ["Ada", "in"], "tags": ["B-PER", "O"]}\n{"tokens": ["a"], "tags": ["O"]}\n', {}),
    "jsonl_spans": ('{"text": "Ada in Oslo", "spans": [[0, 3, "PER"]]}\n{"text": "low", "spans": []}\n', {}),
    "snips": ('{"I": [{"data": [{"text": "Ada", "entity": "PER"}, {"text": " in"}]}, {"data": [{"text": "a"}]}]}', {}),
    "rasa": (
        json.dumps(
            {
                "rasa_nlu_data": {
                    "common_examples": [
                        {"text": "Ada in", "entities": [{"start": 0, "end": 3, "entity": "PER", "value": "Ada"}]},
                        {"text": "a low river", "entities": []},
                    ]
                }
            }
        ),
        {},
    ),
}
FORMATS["jsonl"][1]["scheme"] = "iob2"


@pytest.fixture
def bert(load):
    return load("bert").word_pieces


@pytest.fixture
def cache(tmp_path):
    return text_cache(tmp_path / "cache", 1 << 20)


@pytest.fixture
def data(tmp_path):
    """Writes a manifest of one task and its files, and loads it."""

    def write(form="conll", text=None, root="data", **more):
        folder = tmp_path / root
        folder.mkdir(exist_ok=True)
        for split in ("train", "dev"):
            (folder / f"{split}.txt").write_text(text or FORMATS[form][0])
        task = {
            "family": "pos" if form == "conllu" else "ner",
            "format": form,
            "files": {"train": "train.txt", "dev": "dev.txt"},
            **FORMATS[form][1],
            **more,
        }
        (folder / "manifest.yaml").write_text(json.dumps({"version": 1, "name": "m", "tasks": {"t": task}}))
        return load_manifest(folder / "manifest.yaml")

    return write


def entries(cache):
    return sorted(cache.folder.iterdir()) if cache.folder.is_dir() else []


def same(found, expected):
    """Everything of a task is equal, to the types of its arrays; notices too."""
    (tasks, notices), (others, other_notices) = found, expected
    assert notices == other_notices
    assert len(tasks) == len(others)
    for task, other in zip(tasks, others, strict=True):
        assert task.task == other.task and list(task.splits) == list(other.splits)
        for name, split in task.splits.items():
            for field in fields(split):
                if field.name not in ("places", "trunk"):
                    mine, yours = (getattr(it, field.name) for it in (split, other.splits[name]))
                    np.testing.assert_array_equal(mine, yours, strict=True)
            places, theirs = split.places, other.splits[name].places
            assert places.paths == theirs.paths
            np.testing.assert_array_equal(places.files, theirs.files, strict=True)
            np.testing.assert_array_equal(places.lines, theirs.lines, strict=True)


def unread(monkeypatch):
    """From here on, text must not be read."""

    def refused(*args, **kwargs):
        raise AssertionError("text is read")

    monkeypatch.setattr(module, "load_task", refused)


@pytest.mark.parametrize("mean", [False, True])
@pytest.mark.parametrize("form", FORMATS)
def test_what_is_kept_is_what_is_read(data, bert, cache, form, mean, monkeypatch):
    manifest, bert = data(form), replace(bert, mean=mean)
    expected = read_tasks(manifest, bert)
    same(read_tasks(manifest, bert, kept=cache), expected)
    unread(monkeypatch)
    same(read_tasks(manifest, bert, kept=cache), expected)
    assert len(entries(cache)) == 1


def test_data_of_the_hub_is_kept_too(bert, cache, tmp_path, monkeypatch):
    from mpt.data import tasks
    from mpt.data.example import Sentence

    hub = {"path": "o/n", "revision": "0" * 40, "dev": "validation"}
    task = {"family": "ner", "format": "hub", "hub": hub, "scheme": "iob2"}
    (tmp_path / "m.yaml").write_text(json.dumps({"version": 1, "name": "m", "tasks": {"t": task}}))
    manifest = load_manifest(tmp_path / "m.yaml")
    row = Sentence(words=("Ada", "low"), tags=("B-PER", "O"), path="o/n@0/train", lines=(3, 3))
    monkeypatch.setattr(tasks, "read_hub", lambda *_: [row])
    expected = read_tasks(manifest, bert)
    same(read_tasks(manifest, bert, kept=cache), expected)
    unread(monkeypatch)
    same(read_tasks(manifest, bert, kept=cache), expected)


def test_samples_dev_splits_renamed_labels_and_notices_are_kept(data, bert, cache, monkeypatch):
    text = "".join(f"w{i} B-{'PER' if i % 3 else 'LOC'}\n\u200b O\n" + "low O\n" * i + "\n" for i in range(70))
    manifest = data(
        text=text,
        files={"train": "train.txt"},
        dev_fraction=0.2,
        max_examples=20,
        labels=["person"],
        label_map={"PER": "person"},
        on_unseen_label="map_to_o",
        no_piece="unknown",
    )
    expected = read_tasks(manifest, bert)
    assert len(expected[1]) >= 5 and len(expected[0][0].splits["train"].places) == 20
    same(read_tasks(manifest, bert, kept=cache), expected)
    unread(monkeypatch)
    same(read_tasks(manifest, bert, kept=cache), expected)
    assert cache.folder.is_dir()


def test_only_the_wanted_splits_and_tasks(data, bert, cache):
    manifest = data()
    (task,), _ = read_tasks(manifest, bert, splits=("dev",), kept=cache)
    assert list(task.splits) == ["dev"]
    (task,), _ = read_tasks(manifest, bert, kept=cache)
    assert list(task.splits) == ["train", "dev"]
    with pytest.raises(ManifestError, match='no task "u"'):
        read_tasks(manifest, bert, names=["u"], kept=cache)


CHANGES = {
    "labels": {"labels": ["LOC", "PER"]},
    "label_map": {"label_map": {"LOC": "PER"}},
    "scheme": {"scheme": "iob1", "repair": "begin"},
    "repair": {"repair": "begin"},
    "dev": {"files": {"train": "train.txt"}, "dev_fraction": 0.5},
    "max_examples": {"max_examples": 1},
    "text": {"text": "Oslo B-LOC\nsat O\n\nAda B-PER\n"},
    "root": {"root": "elsewhere"},
}


@pytest.mark.parametrize("change", CHANGES)
def test_another_declaration_or_text_is_another_entry(data, bert, cache, change):
    read_tasks(data(), bert, kept=cache)
    manifest = data(**CHANGES[change])
    same(read_tasks(manifest, bert, kept=cache), read_tasks(manifest, bert))
    assert len(entries(cache)) == 2


def test_another_tokenizer_is_another_entry(data, load, bert, cache):
    manifest = data(text="Don't B-PER\n[SEP] O\n" + "low O\n" * 70)
    others = [
        bert,
        replace(bert, room=9),
        replace(bert, prefix=(5, 6)),
        replace(bert, suffix=()),
        replace(bert, unknown=7),
        replace(bert, last_piece=True),
        replace(bert, before_word=" "),
        load("electra", longest_window=60).word_pieces,
        load("roberta").word_pieces,
    ]
    for number, word_pieces in enumerate(others, 1):
        same(read_tasks(manifest, word_pieces, kept=cache), read_tasks(manifest, word_pieces))
        assert len(entries(cache)) == number
    bert.tokenizer.encode_special_tokens = False
    same(read_tasks(manifest, bert, kept=cache), read_tasks(manifest, bert))
    bert.tokenizer.add_tokens(["low"])
    same(read_tasks(manifest, bert, kept=cache), read_tasks(manifest, bert))
    assert len(entries(cache)) == len(others) + 2


def test_other_code_is_another_entry(data, bert, cache, monkeypatch):
    read_tasks(data(), bert, kept=cache)
    monkeypatch.setattr(module, "_code_digest", lambda: "0" * 64)
    read_tasks(data(), bert, kept=cache)
    assert len(entries(cache)) == 2


def test_the_digest_of_the_code_is_of_every_module_beside_and_below_it(tmp_path, monkeypatch):
    shutil.copytree(Path(module.__file__).parent, tmp_path / "data")
    monkeypatch.setattr(module, "__file__", str(tmp_path / "data" / "cache.py"))
    digest = module._code_digest.__wrapped__
    assert digest() == digest()
    before = digest()
    with (tmp_path / "data" / "formats" / "columns.py").open("a") as file:
        file.write("# corrected\n")
    assert digest() != before


def test_what_changes_nothing_of_the_text_is_the_same_entry(data, bert, cache, monkeypatch):
    read_tasks(data(), bert, kept=cache)
    more = {"license": "x", "citation": "y", "shots": [1], "max_epochs": 3.0, "loss_weight": 2.0}
    assert more.keys() < UNREAD
    unread(monkeypatch)
    (task,), _ = read_tasks(data(**more), bert, kept=cache)
    assert task.task.spec.loss_weight == 2.0, "the declaration is that of now"


@pytest.mark.parametrize("damage", ["byte", "short", "entry", "entry gone", "text gone", "of another"])
def test_a_damaged_entry_is_told_and_made_anew(data, bert, cache, damage):
    manifest = data()
    expected = read_tasks(manifest, bert)
    read_tasks(manifest, bert, kept=cache)
    (entry,) = entries(cache)
    content = bytearray((entry / TEXT).read_bytes())
    if damage == "byte":
        content[-9] ^= 1
        (entry / TEXT).write_bytes(content)
    elif damage == "short":
        (entry / TEXT).write_bytes(content[:-4])
    elif damage == "entry":
        (entry / ENTRY).write_bytes(b"{")
    elif damage.endswith("gone"):
        (entry / (ENTRY if damage.startswith("entry") else TEXT)).unlink()
    else:
        about = json.loads((entry / ENTRY).read_bytes())
        (entry / ENTRY).write_text(json.dumps({**about, "tokenizer_sha256": "0" * 64}))
    tasks, (notice,) = read_tasks(manifest, bert, kept=cache)
    same((tasks, []), expected)
    assert notice == f"{entry}: this entry of the text cache is damaged; it is computed anew."
    same(read_tasks(manifest, bert, kept=cache), expected)


def test_an_entry_of_another_text_in_its_place_is_refused(data, bert, cache, tmp_path):
    first = data()
    expected = read_tasks(first, bert)
    read_tasks(first, bert, kept=cache)
    (mine,) = entries(cache)
    second = data(root="other", text="Oslo B-LOC\nlow O\n")
    read_tasks(second, bert, kept=cache)
    (yours,) = [path for path in entries(cache) if path != mine]
    shutil.rmtree(mine)
    shutil.copytree(yours, mine)
    tasks, (notice,) = read_tasks(first, bert, kept=cache)
    same((tasks, []), expected)
    assert "is damaged" in notice


def test_a_full_disk_is_told_and_leaves_nothing(data, bert, cache, monkeypatch):
    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    expected = read_tasks(data(), bert)
    monkeypatch.setattr(os, "fsync", full)
    tasks, (notice,) = read_tasks(data(), bert, kept=cache)
    same((tasks, []), expected)
    assert entries(cache) == []
    assert notice == (
        f"{cache.folder}: the text cache cannot be used (No space left on device); every start reads and tokenises the "
        "text anew."
    )


def test_a_folder_that_cannot_be_made_is_told(data, bert, tmp_path):
    (tmp_path / "file").touch()
    tasks, (notice,) = read_tasks(data(), bert, kept=text_cache(tmp_path / "file" / "cache", 1 << 20))
    same((tasks, []), read_tasks(data(), bert))
    assert "the text cache cannot be used (Not a directory)" in notice


def test_what_exceeds_the_whole_cache_is_told(data, bert, cache):
    tasks, (notice,) = read_tasks(data(), bert, kept=replace(cache, max_bytes=100))
    same((tasks, []), read_tasks(data(), bert))
    assert "a task's word pieces, 0 MiB, exceed the cache's 0 MiB" in notice
    assert "Raise backbone.text_cache_gib" in notice and not cache.folder.exists()


def test_another_process_may_be_first(data, bert, cache, monkeypatch):
    """It publishes the entry while this one is reading the text."""
    manifest, real = data(), module.load_task

    def overtaken(*args, **kwargs):
        monkeypatch.setattr(module, "load_task", real)
        read_tasks(manifest, bert, kept=cache)
        return real(*args, **kwargs)

    monkeypatch.setattr(module, "load_task", overtaken)
    same(read_tasks(manifest, bert, kept=cache), read_tasks(manifest, bert))
    assert len(entries(cache)) == 1


def test_a_file_that_changes_while_it_is_read_is_not_kept(data, bert, cache, monkeypatch):
    manifest, real = data(), module.load_task

    def rewritten(*args, **kwargs):
        (manifest.root / "train.txt").write_text("Oslo B-LOC\nlow O\n\nAda B-PER\n")
        return real(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(module, "load_task", rewritten)
        read_tasks(manifest, bert, kept=cache)
    assert entries(cache) == []
    same(read_tasks(data(), bert, kept=cache), read_tasks(data(), bert))


def test_declared_hashes_are_held_against_the_files_of_a_kept_text(data, bert, cache):
    manifest = data()
    (task,), _ = read_tasks(manifest, bert, kept=cache)
    digests = dict(task.task.digests)
    read_tasks(data(sha256=digests), bert, kept=cache)
    with pytest.raises(DataError, match="the data changed"):
        read_tasks(data(sha256={**digests, "dev.txt": "0" * 64}), bert, kept=cache)


@pytest.mark.parametrize("kept", [True, False])
def test_problems_of_all_tasks_are_raised_at_once_and_nothing_is_kept(data, bert, cache, kept):
    manifest = data(text="low O\n" * 99 + "\nAda B-PER\n", long="error")
    (manifest.root / "bad.txt").write_text("low\n")
    content = json.loads((manifest.root / "manifest.yaml").read_text())
    task = content["tasks"]["t"]
    content["tasks"]["u"] = {**task, "files": {"train": "bad.txt", "dev": "dev.txt"}}
    (manifest.root / "manifest.yaml").write_text(json.dumps(content))
    with pytest.raises(DataError) as caught:
        read_tasks(load_manifest(manifest.root / "manifest.yaml"), bert, kept=cache if kept else None)
    assert "train.txt:1" in str(caught.value) and "bad.txt:1" in str(caught.value)
    assert entries(cache) == []


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_kept_arrays_are_mapped_from_the_file(data, bert, cache):
    tasks, _ = read_tasks(data(), bert, kept=cache)
    (entry,) = entries(cache)
    assert str(entry / TEXT) in Path("/proc/self/maps").read_text()
    del tasks
    assert str(entry / TEXT) not in Path("/proc/self/maps").read_text()
