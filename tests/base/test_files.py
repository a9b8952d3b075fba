import hashlib
import json
import os
import shutil
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpt.base import files
from mpt.base.files import (
    published_folder,
    remove_folder,
    remove_leftovers,
    replace_durable,
    sha256_file,
    to_json,
    write_durable,
)


class Killed(BaseException):
    """Stands for the end of the process."""


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@given(st.binary(max_size=5000))
def test_the_digest_is_that_of_the_bytes(tmp_path_factory, content):
    path = tmp_path_factory.mktemp("digest") / "file"
    path.write_bytes(content)
    assert sha256_file(path) == hashlib.sha256(content).hexdigest()


def test_a_file_is_written_once(tmp_path):
    write_durable(tmp_path / "a", b"one")
    with pytest.raises(FileExistsError):
        write_durable(tmp_path / "a", b"two")
    assert (tmp_path / "a").read_bytes() == b"one"


def test_files_and_folders_are_flushed(tmp_path, monkeypatch):
    flushed = []
    real = os.fsync
    monkeypatch.setattr(os, "fsync", lambda descriptor: (flushed.append(os.fstat(descriptor).st_ino), real(descriptor)))
    with published_folder(tmp_path / "out") as folder:
        write_durable(folder / "a", b"one")
        inside = [(folder / "a").stat().st_ino, folder.stat().st_ino]
    assert flushed == [*inside, tmp_path.stat().st_ino]


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=10,
)


@given(json_values)
def test_json_reads_back_and_is_a_function_of_the_value(value):
    try:
        content = to_json(value)
    except UnicodeEncodeError:
        assert any("\ud800" <= char <= "\udfff" for char in json.dumps(value, ensure_ascii=False))
        return
    assert json.loads(content) == value
    assert to_json(json.loads(content)) == content
    assert content.endswith(b"\n")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_json_has_no_number_that_json_does_not_know(value):
    with pytest.raises(ValueError, match="not JSON compliant"):
        to_json({"loss": value})


def test_replacing_gives_the_new_content_and_leaves_nothing_else(tmp_path):
    replace_durable(tmp_path / "a", b"one")
    replace_durable(tmp_path / "a", b"two")
    assert (tmp_path / "a").read_bytes() == b"two"
    assert names(tmp_path) == ["a"]


@pytest.mark.parametrize("operation", ["write_durable", "replace"])
def test_a_replacement_that_fails_leaves_the_old_content(tmp_path, monkeypatch, operation):
    replace_durable(tmp_path / "a", b"one")

    def fail(*_):
        raise OSError("disk")

    monkeypatch.setattr(*((files, "write_durable") if operation == "write_durable" else (Path, "replace")), fail)
    with pytest.raises(OSError, match="disk"):
        replace_durable(tmp_path / "a", b"two")
    assert (tmp_path / "a").read_bytes() == b"one"
    assert names(tmp_path) == ["a"]


def test_a_published_folder_appears_whole(tmp_path):
    with published_folder(tmp_path / "deep" / "out") as folder:
        write_durable(folder / "a", b"one")
        assert not (tmp_path / "deep" / "out").exists()
        assert folder.parent == tmp_path / "deep", "beside its target, or the rename would copy"
    assert (tmp_path / "deep" / "out" / "a").read_bytes() == b"one"
    assert names(tmp_path / "deep") == ["out"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, Killed])
def test_a_folder_that_fails_vanishes(tmp_path, error):
    with pytest.raises(error), published_folder(tmp_path / "out") as folder:
        write_durable(folder / "a", b"one")
        raise error
    assert names(tmp_path) == []


def test_a_published_folder_is_not_overwritten(tmp_path):
    (tmp_path / "out").mkdir()
    with pytest.raises(FileExistsError), published_folder(tmp_path / "out"):
        raise AssertionError("the block must not run")
    assert names(tmp_path) == ["out"]


def test_a_removed_folder_loses_its_name_first(tmp_path, monkeypatch):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "a").write_bytes(b"one")
    seen = []
    real = shutil.rmtree
    monkeypatch.setattr(shutil, "rmtree", lambda path, **_: (seen.append(names(tmp_path)), real(path)))
    remove_folder(tmp_path / "out")
    assert len(seen) == 1
    assert all(name.startswith(files.TRASH) for name in seen[0])
    assert names(tmp_path) == []


def test_leftovers_of_a_killed_process_go_and_nothing_else(tmp_path):
    for name in (".tmp-step-1-ab", ".trash-step-2-cd", "step-3", "tmp-mine"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "part").write_bytes(b"one")
    (tmp_path / ".tmp-metrics.jsonl-ef").write_bytes(b"two")
    remove_leftovers(tmp_path)
    assert names(tmp_path) == ["step-3", "tmp-mine"]
