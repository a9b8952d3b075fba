import pytest
from common.runs import files_of

from mpt.base.errors import ConfigError
from mpt.experiments.run_folder import open_run_folder


def test_a_run_folder_is_made_once(tmp_path):
    given = {"config.yaml": b"x", "manifest.json": b"y"}
    open_run_folder(tmp_path / "a" / "run", given, resume="never")
    assert files_of(tmp_path / "a") == {"run/config.yaml": b"x", "run/manifest.json": b"y"}, "and nothing besides"
    with pytest.raises(ConfigError, match=r"run: this run folder exists\. Continue it with --resume auto, or"):
        open_run_folder(tmp_path / "a" / "run", given, resume="never")
    (tmp_path / "empty").mkdir()
    open_run_folder(tmp_path / "empty", given, resume="never")


def test_an_automatic_start_goes_on_with_a_folder_that_was_made_for_the_same_run(tmp_path):
    given = {"config.yaml": b"x", "manifest.json": b"y"}
    for _ in range(2):
        open_run_folder(tmp_path / "run", given, resume="auto")
    with pytest.raises(ConfigError, match=r"run: cannot resume, this call differs .* in config\.yaml\. "):
        open_run_folder(tmp_path / "run", {**given, "config.yaml": b"z"}, resume="auto")
    assert (tmp_path / "run" / "config.yaml").read_bytes() == b"x"
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "letters").touch()
    with pytest.raises(ConfigError, match=r"home: nothing to resume, config\.yaml, manifest\.json not found"):
        open_run_folder(tmp_path / "home", given, resume="auto")


def test_what_must_be_resumed_must_be_there(tmp_path):
    with pytest.raises(ConfigError, match="run: nothing to resume, there is no such run"):
        open_run_folder(tmp_path / "run", {}, resume="must")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("out", ["file", "file/run"])
def test_a_file_in_the_way_of_a_run_folder(tmp_path, out):
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"cannot make this folder: .*Give another --out"):
        open_run_folder(tmp_path / out, {}, resume="never")
