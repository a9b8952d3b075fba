import json
import shutil
from pathlib import Path

import pytest
import torch
from common.backbones import DECODERS, HEADS, HIDDEN, KINDS, LAYERS, POSITIONS, refused
from safetensors.torch import load_file, save_file

from mpt.base.errors import BackboneError
from mpt.model.backbone.backbone import load_backbone


@pytest.fixture
def folder(tiny_folder, tmp_path):
    """A copy of a tiny BERT that a test may spoil."""
    return Path(shutil.copytree(tiny_folder("bert"), tmp_path / "copy"))


# What is loaded


@pytest.mark.parametrize("kind", KINDS)
def test_shapes(load, kind):
    backbone = load(kind)
    groups = 2 if kind in DECODERS and kind != "gpt2" else HEADS  # grouped-query attention
    shapes = (backbone.num_layers, backbone.num_key_value_heads, backbone.head_dim, backbone.hidden_size)
    assert shapes == (LAYERS, groups, HIDDEN // HEADS, HIDDEN)
    assert backbone.max_positions == POSITIONS
    assert backbone.num_parameters == sum(parameter.numel() for parameter in backbone.model.parameters())


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("kind", KINDS)
def test_it_is_frozen(load, kind, dtype):
    backbone = load(kind, dtype=dtype)
    assert not backbone.model.training
    assert {parameter.dtype for parameter in backbone.model.parameters()} == {getattr(torch, dtype)}
    assert not any(parameter.requires_grad for parameter in backbone.model.parameters())
    assert backbone.dtype == getattr(torch, dtype) and backbone.device.type == "cpu"


def test_weights_are_those_of_the_files(load, tiny_folder):
    saved = load_file(tiny_folder("bert") / "model.safetensors")
    loaded = dict(load("bert").model.named_parameters())
    assert set(loaded) == {name for name in saved if "pooler" not in name}
    assert all(torch.equal(loaded[name], saved[name]) for name in loaded)


def test_the_longest_window(load):
    assert load("bert").word_pieces.room == POSITIONS - 2
    assert load("bert", longest_window=40).word_pieces.room == 38
    assert load("bert", longest_window=40, prompt_length=10, shifted=True).word_pieces.room == 38
    assert load("bert", longest_window=60, prompt_length=10, shifted=True).word_pieces.room == POSITIONS - 10 - 2


def test_the_same_backbone_for_text_behind_virtual_tokens(load):
    backbone = load("bert")
    moved = backbone.behind(10)
    assert moved.shifted and moved.word_pieces.room == POSITIONS - 10 - 2 and moved.model is backbone.model
    assert not backbone.shifted and backbone.word_pieces.room == POSITIONS - 2
    assert load("bert", longest_window=40).behind(10).word_pieces.room == 38
    with pytest.raises(BackboneError, match="word pieces of text fit beside the prompt"):
        backbone.behind(40)


def test_a_saved_truncation_or_padding_is_lifted(folder):
    path = folder / "tokenizer.json"
    core = json.loads(path.read_text())
    core["truncation"] = {"direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0}
    core["padding"] = {"strategy": {"Fixed": 9}, "direction": "Right", "pad_to_multiple_of": None, "pad_id": 0,
                       "pad_type_id": 0, "pad_token": "[PAD]"}  # fmt: skip
    path.write_text(json.dumps(core))
    tokenizer = load_backbone(str(folder)).word_pieces.tokenizer
    assert tokenizer.truncation is None and tokenizer.padding is None
    assert len(tokenizer.encode("low " * 30, add_special_tokens=False).ids) == 30


def test_special_pieces(load):
    found = {kind: load(kind).word_pieces for kind in KINDS}
    names = {
        kind: [pieces.tokenizer.id_to_token(piece) for piece in pieces.prefix + pieces.suffix]
        for kind, pieces in found.items()
    }
    assert names["bert"] == names["electra"] == names["modernbert"] == names["distilbert"] == ["[CLS]", "[SEP]"]
    assert names["roberta"] == names["xlm-roberta"] == ["<s>", "</s>"]
    assert names["llama"] == ["<|begin_of_text|>"] and names["qwen2"] == []
    assert {kind for kind, pieces in found.items() if pieces.last_piece} == set(DECODERS)
    pads = {kind: pieces.tokenizer.id_to_token(pieces.pad) for kind, pieces in found.items()}
    assert pads["bert"] == pads["modernbert"] == "[PAD]" and pads["roberta"] == pads["xlm-roberta"] == "<pad>"
    assert found["llama"].pad == 0 and found["llama"].unknown is None


def test_nothing_is_said_while_loading(folder, capfd):
    load_backbone(str(folder))
    assert capfd.readouterr() == ("", "")


# Files that are missing, damaged or unsafe


def test_pickled_weights_are_refused(folder):
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    torch.save(weights, folder / "pytorch_model.bin")
    message = refused(folder, "holds no .safetensors file")
    assert "Pickled weights are never loaded" in message and "save_pretrained" in message


def test_safetensors_are_read_though_a_pickle_lies_beside_them(folder):
    (folder / "pytorch_model.bin").write_bytes(b"not a pickle at all")
    load_backbone(str(folder))


def test_weights_that_would_be_random_are_refused(folder):
    path = folder / "model.safetensors"
    weights = load_file(path)
    for name in [name for name in weights if name.startswith("encoder.layer.1.")]:
        del weights[name]
    save_file(weights, path, metadata={"format": "pt"})
    message = refused(folder, r"16 weights are not in its files and would be random")
    assert "encoder.layer.1.attention.output.LayerNorm.bias" in message


def test_the_pooler_may_be_missing(folder):
    path = folder / "model.safetensors"
    save_file({k: v for k, v in load_file(path).items() if "pooler" not in k}, path, metadata={"format": "pt"})
    load_backbone(str(folder))


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json"])
@pytest.mark.parametrize("content", [None, "{", "[1]", "{}"])
def test_damaged_descriptions(folder, name, content):
    if content is None:
        (folder / name).unlink()
    else:
        (folder / name).write_text(content)
    refused(folder, "backbone")


@pytest.mark.parametrize("keep", [0, 4, 100, -200])
def test_truncated_weights(folder, keep):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:keep])
    refused(folder, "backbone")


def test_weights_of_another_shape(folder):
    config = json.loads((folder / "config.json").read_text()) | {"intermediate_size": 48}
    (folder / "config.json").write_text(json.dumps(config))
    message = refused(folder, "9 weights have another shape than its config.json says")
    assert "encoder.layer.0.intermediate.dense.bias has (64,), expected (48,)" in message


def test_an_unknown_architecture(folder):
    config = json.loads((folder / "config.json").read_text()) | {"model_type": "invented"}
    (folder / "config.json").write_text(json.dumps(config))
    refused(folder, "invented")


def test_code_of_a_repository_never_runs(folder):
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "invented", "auto_map": {"AutoConfig": "evil.Config", "AutoModel": "evil.Model"}}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "evil.py").write_text(f"open({str(folder / 'ran')!r}, 'w')\nclass Config: pass\nclass Model: pass\n")
    refused(folder, "backbone")
    assert not (folder / "ran").exists()


def test_a_tokenizer_without_its_vocabulary_is_refused(tmp_path, tiny_folder):
    """transformers would make one of nothing but special pieces."""
    for kind, gone in [("bert", ["tokenizer.json"]), ("roberta", ["tokenizer.json", "merges.txt"])]:
        folder = Path(shutil.copytree(tiny_folder(kind), tmp_path / kind))
        if kind == "roberta":
            core = json.loads((folder / "tokenizer.json").read_text())["model"]
            (folder / "vocab.json").write_text(json.dumps(core["vocab"]))
            (folder / "merges.txt").write_text("\n".join(" ".join(merge) for merge in core["merges"]))
            (folder / "tokenizer.json").rename(tmp_path / "aside")
            assert load_backbone(str(folder)).word_pieces.tokenizer.encode("low").ids  # these two will do
            (tmp_path / "aside").rename(folder / "tokenizer.json")
        for name in gone:
            (folder / name).unlink()
        refused(folder, r"holds no vocabulary, expected tokenizer\.json")


@pytest.mark.parametrize("content", ["[1]", '{"model": {"type": "Invented"}}', "not JSON"])
def test_a_damaged_tokenizer_is_refused(folder, content):
    (folder / "tokenizer.json").write_text(content)
    message = refused(folder, "its tokenizer cannot be read")
    assert message.count("\n") == 0


def test_a_tokenizer_without_a_fast_core_is_refused(folder):
    (folder / "tokenizer.json").unlink()
    (folder / "vocab.txt").write_text("a\n")
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "CanineTokenizer"}))
    refused(folder, r"no fast tokenizer \(tokenizer\.json\), which mpt needs")
