"""Backbones read straight to the ranks: the same weights, a unit at a time, on as many ranks as share them."""

import json
from pathlib import Path

import pytest
import torch
from common.backbones import KINDS
from common.engines import engine, environment
from common.ranks import run_ranks
from safetensors.torch import load_file, save_file

from mpt.base.errors import BackboneError
from mpt.data.order.batch import Batch
from mpt.model.backbone.backbone import load_backbone
from mpt.model.backbone.forward import ForwardPass
from mpt.model.backbone.sharding import Sharding

PIECES = torch.arange(1, 9).view(1, -1)


class Recorder:
    """Shares nothing out; notes what would be."""

    def __init__(self):
        self.units, self.finished = [], []
        self.sharding = Sharding(shard=self.shard, finish=self.finished.append)

    def shard(self, unit):
        assert not any(parameter.is_meta for parameter in unit.parameters()), "weights are read before"
        self.units.append(unit)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("kind", KINDS)
def test_weights_read_by_units_are_those_of_the_files(kind, dtype, tiny_folder):
    whole = load_backbone(str(tiny_folder(kind)), dtype=dtype)
    recorder = Recorder()
    shared = load_backbone(str(tiny_folder(kind)), dtype=dtype, sharding=recorder.sharding)
    assert shared.sharded and not whole.sharded
    assert shared.identity == whole.identity and shared.num_parameters == whole.num_parameters
    for mine, theirs in (("parameters", "named_parameters"), ("buffers", "named_buffers")):
        ours = dict(getattr(shared.model, theirs)())
        expected = dict(getattr(whole.model, theirs)())
        assert ours.keys() == expected.keys(), mine
        for name, value in expected.items():
            assert ours[name].dtype == value.dtype and torch.equal(ours[name], value), name
            assert not ours[name].requires_grad
    with torch.no_grad():
        assert torch.equal(shared.model(PIECES).last_hidden_state, whole.model(PIECES).last_hidden_state)


@pytest.mark.parametrize("kind", KINDS)
def test_no_unit_holds_two_layers(kind, tiny_folder):
    recorder = Recorder()
    backbone = load_backbone(str(tiny_folder(kind)), sharding=recorder.sharding)
    seen, batch = [], Batch(input_ids_BS=PIECES, attention_mask_BS=None, words_M=PIECES[0, :0], labels_M=None)
    backbone(batch, ForwardPass(observe=lambda module, keys, values: seen.append(module)))
    attentions = set(seen)
    held = [sum(module in attentions for module in unit.modules()) for unit in recorder.units]
    assert max(held) == 1 and sum(held) == len(attentions)
    assert recorder.finished == [backbone.model]
    shared_out = {id(parameter) for unit in recorder.units for parameter in unit.parameters()}
    named = backbone.model.named_parameters()
    # What is read without a call stays with the whole model.
    assert shared_out == {id(parameter) for name, parameter in named if "rel_embeddings" not in name}


def spoilt(tiny_folder, tmp_path, change):
    """A copy of a tiny BERT whose weights are changed."""
    source = tiny_folder("bert")
    for path in source.iterdir():
        if path.name != "model.safetensors":
            (tmp_path / path.name).write_bytes(path.read_bytes())
    weights = load_file(source / "model.safetensors")
    change(weights)
    save_file(weights, tmp_path / "model.safetensors")
    return str(tmp_path)


def test_a_missing_weight_is_an_error_as_in_a_plain_launch(tiny_folder, tmp_path):
    name = "encoder.layer.1.output.dense.weight"
    folder = spoilt(tiny_folder, tmp_path, lambda weights: weights.pop(name))
    messages = []
    for sharding in (None, Recorder().sharding):
        with pytest.raises(BackboneError, match="1 weights are not in its files") as caught:
            load_backbone(folder, sharding=sharding)
        messages.append(str(caught.value))
    assert messages[0] == messages[1]


def test_a_weight_of_another_shape_is_an_error(tiny_folder, tmp_path):
    name = "encoder.layer.1.output.dense.weight"
    folder = spoilt(tiny_folder, tmp_path, lambda weights: weights.update({name: weights[name][:-1].clone()}))
    with pytest.raises(BackboneError, match=f"{name} has .31, 64., expected .32, 64."):
        load_backbone(folder, sharding=Recorder().sharding)


def test_a_file_that_is_cut_off_is_an_error(tiny_folder, tmp_path):
    folder = spoilt(tiny_folder, tmp_path, lambda weights: None)
    content = (tmp_path / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(content[: len(content) // 2])
    with pytest.raises(BackboneError, match="backbone "):
        load_backbone(folder, sharding=Recorder().sharding)


def test_weights_spread_over_files_are_found_by_their_index(tiny_folder, tmp_path):
    folder = spoilt(tiny_folder, tmp_path, lambda weights: None)
    weights = load_file(tmp_path / "model.safetensors")
    names = sorted(weights)
    files = {name: f"model-0000{1 + (index % 2)}-of-00002.safetensors" for index, name in enumerate(names)}
    for file in sorted(set(files.values())):
        save_file({name: weights[name] for name in names if files[name] == file}, tmp_path / file)
    (tmp_path / "model.safetensors").unlink()
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": files}))
    shared = load_backbone(folder, dtype="float32", sharding=Recorder().sharding)
    expected = load_backbone(str(tiny_folder("bert")), dtype="float32").model.state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in shared.model.state_dict().items())


KEPT_BY_ZERO_3 = ("albert", "deberta", "deberta-v3")
"""Kinds that call a part twice in a pass, or read it without a call: ZeRO-3 leaves such a part whole on every rank."""


def share(rank, folders, dtype):
    """On every rank: load, look at what it holds, run, and run backward."""
    from mpt.model.backbone.probe import probe
    from mpt.training.engines import find_engine, join_launch

    accelerator = join_launch()
    engine = find_engine(accelerator, clip_norm=1.0)
    for folder in folders:
        whole = load_backbone(folder, dtype=dtype)
        backbone = load_backbone(folder, dtype=dtype, sharding=engine.sharding)
        assert backbone.identity == whole.identity and backbone.num_parameters == whole.num_parameters
        for _ in range(2):
            held = sum(_held(parameter) for parameter in backbone.model.parameters())
            slack = sum(parameter[0].numel() for parameter in whole.model.parameters())  # FSDP2 shares out rows
            if engine.name != "DeepSpeed ZeRO-3" or Path(folder).name not in KEPT_BY_ZERO_3:
                assert held <= backbone.num_parameters / accelerator.num_processes + slack, (folder, held)
            with torch.no_grad():
                ours = backbone.model(PIECES).last_hidden_state
                torch.testing.assert_close(ours, whole.model(PIECES).last_hidden_state, atol=2e-2, rtol=0)
            probe(backbone)  # a backward pass too


def _held(parameter):
    """Elements of a weight that are on this rank between two passes."""
    if hasattr(parameter, "ds_tensor"):  # ZeRO-3: the share, and what is still gathered
        return parameter.ds_tensor.numel() + parameter.numel()
    return parameter.to_local().numel()


NOTHING_PERSISTS = {"stage3_param_persistence_threshold": 0}


@pytest.mark.parametrize("name", [engine("zero3"), engine("fsdp2")])
def test_a_rank_holds_its_share_and_no_more(name, tiny_folder, tmp_path):
    changes = NOTHING_PERSISTS if name == "zero3" else {}
    folders = [str(tiny_folder("bert"))]
    run_ranks(2, tmp_path / "out", share, folders, "float32", environment=environment(name, **changes))


@pytest.mark.distributed
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("ranks", [1, 3])
@pytest.mark.parametrize("name", [engine("zero3"), engine("fsdp2")])
def test_every_kind_of_backbone_can_be_shared(name, ranks, dtype, tiny_folder, tmp_path):
    changes = NOTHING_PERSISTS if name == "zero3" else {}
    folders = [str(tiny_folder(kind)) for kind in KINDS]
    run_ranks(ranks, tmp_path / "out", share, folders, dtype, environment=environment(name, **changes))
