import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from mpt.base import disk_cache
from mpt.base.disk_cache import ENTRY, DiskCache, default_folder

ROOT = Path(__file__).parents[2]
ABOUT = {"version": 1, "pieces": (1, 2), "names": {"a": None}}


@pytest.fixture
def cache(tmp_path):
    return made(tmp_path / "cache")


def made(folder, max_bytes=1000):
    return DiskCache(
        folder=folder,
        max_bytes=max_bytes,
        name="number cache",
        content="the numbers",
        instead="they are counted again",
        setting="numbers.cache",
    )


def write(content):
    return lambda folder: (folder / "numbers").write_bytes(content)


def read(folder):
    return (folder / "numbers").read_bytes()


def entries(cache):
    return sorted(path for path in cache.folder.iterdir())


def test_what_was_added_is_found(cache):
    assert cache.find(ABOUT, read) == (None, [])
    assert cache.add(ABOUT, 5, write(b"12345"), read) == (b"12345", [])
    assert cache.find(ABOUT, read) == (b"12345", [])
    assert cache.find({**ABOUT, "version": 2}, read) == (None, [])


@pytest.mark.parametrize("damage", ["byte", "file gone", "entry gone", "not JSON", "no object", "no digests", "other"])
def test_a_damaged_entry_is_never_read(cache, damage):
    cache.add(ABOUT, 5, write(b"12345"), read)
    (entry,) = entries(cache)
    about = json.loads((entry / ENTRY).read_bytes())
    if damage == "byte":
        (entry / "numbers").write_bytes(b"12346")
    elif damage.endswith("gone"):
        (entry / (ENTRY if damage.startswith("entry") else "numbers")).unlink()
    elif damage == "no digests":
        (entry / ENTRY).write_text(json.dumps({name: value for name, value in about.items() if name != "sha256"}))
    else:
        text = {"not JSON": "{", "no object": "[]", "other": json.dumps({**about, "version": 2})}[damage]
        (entry / ENTRY).write_text(text)
    assert cache.find(ABOUT, read) == (
        None,
        [f"{entry}: this entry of the number cache is damaged; it is computed anew."],
    )
    assert entries(cache) == []


def test_an_entry_that_vanishes_while_it_is_opened_is_told(cache):
    cache.add(ABOUT, 5, write(b"12345"), read)

    def gone(folder):
        raise FileNotFoundError(2, "No such file or directory")

    expected = f"{cache.folder}: the number cache cannot be used (No such file or directory); they are counted again."
    assert cache.find(ABOUT, gone) == (None, [expected])


def test_what_does_not_fit_is_told_and_not_written(cache):
    found, (notice,) = cache.add(ABOUT, 1001, write(b""), read)
    assert found is None and not cache.folder.exists()
    assert "the numbers, 0 MiB, exceed the cache's 0 MiB; they are counted again. Raise numbers.cache" in notice


def test_the_longest_unused_entry_makes_room(cache):
    size = 600
    for number in range(2):
        cache.add({"number": number}, 100, write(b"x" * 100), read)
        os.utime(max(entries(cache), key=lambda path: (path / ENTRY).stat().st_mtime_ns) / ENTRY, (number, number))
    assert cache.find({"number": 0}, read)[0] is not None  # used again: now the other is the oldest
    cache.add({"number": 2}, size, write(b"x" * size), read)
    assert [cache.find({"number": number}, read)[0] is not None for number in range(3)] == [True, False, True]


def test_a_failure_to_write_is_told_and_leaves_nothing(cache):
    def full(folder):
        (folder / "numbers").write_bytes(b"1")
        raise OSError(28, "No space left on device")

    found, (notice,) = cache.add(ABOUT, 5, full, read)
    assert found is None and entries(cache) == []
    assert "the number cache cannot be used (No space left on device); they are counted again." in notice


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_may_not_be_written_is_told(cache):
    cache.folder.mkdir(mode=0o500)
    found, (notice,) = cache.add(ABOUT, 5, write(b"12345"), read)
    assert found is None and "cannot be used (Permission denied)" in notice


FILL = """
import sys
from pathlib import Path
from test_disk_cache import made, read

cache = made(Path(sys.argv[1]), max_bytes=1 << 20)
for number in range(40):
    about = {"number": number}
    content = bytes([number])
    found, notices = cache.find(about, read)
    if found is None:
        found, said = cache.add(about, 1, lambda folder: (folder / "numbers").write_bytes(content), read)
        notices += said
    assert (found, notices) == (content, []), (found, notices)
"""


def test_two_processes_may_fill_it_at_once(tmp_path):
    cache = made(tmp_path / "cache", max_bytes=1 << 20)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests" / "base")])}
    command = [sys.executable, "-c", FILL, str(cache.folder)]
    processes = [subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    errors = [process.communicate()[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], errors
    assert len(entries(cache)) == 40 and not any(path.name.startswith(".") for path in entries(cache))


def test_the_folder_is_the_users(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    monkeypatch.delenv("MPT_CACHE", raising=False)
    assert default_folder("text") == tmp_path / "xdg" / "mpt" / "text"
    monkeypatch.setenv("MPT_CACHE", str(tmp_path / "mine"))
    assert default_folder("text") == tmp_path / "mine" / "text"


def test_what_a_crash_left_goes_after_a_day(cache):
    cache.folder.mkdir()
    for name in (".tmp-old", ".trash-old", ".tmp-new"):
        (cache.folder / name).mkdir()
        if name.endswith("old"):
            age = disk_cache.time.time() - disk_cache.STALE_SECONDS - 60
            os.utime(cache.folder / name, (age, age))
    cache.add(ABOUT, 5, write(b"12345"), read)
    assert [path.name for path in entries(cache) if path.name.startswith(".")] == [".tmp-new"]
