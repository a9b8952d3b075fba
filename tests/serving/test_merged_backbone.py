"""Task states merged into a copy of the backbone: an ordinary model folder that computes what they did."""

import json
from pathlib import Path

import pytest
import torch
from common.backbones import KINDS, tiny_backbone
from common.prompts import random_batch, random_low_rank, random_prompt, scorer_of
from common.runs import run_pretrain, run_transfer
from safetensors.torch import load_file

from mpt.base.errors import CheckpointError
from mpt.model.backbone.backbone import load_backbone
from mpt.model.language_head import LanguageHead
from mpt.model.state.bank import TaskState
from mpt.model.state.input_prompt import InputPrompt
from mpt.model.state.merged import merged_weights
from mpt.model.state.weights import Weights
from mpt.serving.merged_backbone import ORIGIN, export_backbone
from mpt.serving.saved import SavedModel, open_saved
from mpt.training.checkpoint import Checkpoint, save_checkpoint

PIECES = [7, 11, 12]


def saved_of(backbone, folder, *parts):
    """A model as if it had been opened from a checkpoint, which has no head."""
    state = TaskState(parts).requires_grad_(False)
    identity = {"stage": "pretrain", "method": "lora", "state": state.specs, "tasks": {"t": {}}}
    progress = {"step": 7}
    empty = {name: {} for name in ("state", "networks", "heads", "optimizer")}
    checkpoint = Checkpoint(**empty, progress=progress, identity=identity)
    made = save_checkpoint(folder / "run", checkpoint)
    return SavedModel(folder=made, checkpoint=checkpoint, scorer=scorer_of(backbone, state))


def trained(backbone, *, biases=False):
    """Weights that are no longer the backbone's."""
    part = Weights(backbone, biases=biases)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for value in part.trained:
            value.add_(torch.randn(value.shape, generator=generator) * 0.05)
    part.settle()
    return part


PARTS = {
    "low_rank": lambda backbone: random_low_rank(backbone, 3),
    "weights": trained,
    "biases": lambda backbone: trained(backbone, biases=True),
}


def states_of(scorer, batch):
    with torch.no_grad():
        return scorer.word_states(batch)


def require_merged(saved, out):
    """The folder's bare model gives the hidden states of the saved one, and these are not the backbone's own."""
    ours = scorer_of(load_backbone(str(out), dtype="float32"))
    batch = random_batch(saved.scorer.backbone, 7, 4)
    expected = states_of(saved.scorer, batch)
    assert (states_of(scorer_of(saved.scorer.backbone), batch) - expected).abs().max() > 0.01
    torch.testing.assert_close(states_of(ours, batch), expected, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("kind", "part"),
    [
        *((kind, "low_rank") for kind in KINDS),
        *(("bert", part) for part in ("weights", "biases")),
        *((kind, "weights") for kind in ("deberta-v3", "gpt2", "albert")),
    ],
)
def test_the_folder_computes_what_the_state_did(load, tmp_path, kind, part):
    backbone = load(kind)
    saved = saved_of(backbone, tmp_path, PARTS[part](backbone))
    export_backbone(saved, tmp_path / "out")
    require_merged(saved, tmp_path / "out")
    ours = load_backbone(str(tmp_path / "out"), dtype="float32")
    assert ours.identity.tokenizer_sha256 == backbone.identity.tokenizer_sha256
    assert ours.identity.weights_sha256 != backbone.identity.weights_sha256
    assert ours.identity.architecture == backbone.identity.architecture


def test_updates_come_on_top_of_trained_weights(load, tmp_path):
    backbone = load("bert")
    saved = saved_of(backbone, tmp_path, random_low_rank(backbone, 3), trained(backbone))
    export_backbone(saved, tmp_path / "out")
    require_merged(saved, tmp_path / "out")


def test_transformers_loads_the_folder_in_float32(load, tmp_path):
    from transformers import AutoModel, AutoTokenizer

    backbone = load("bert")
    saved = saved_of(backbone, tmp_path, random_low_rank(backbone, 3))
    export_backbone(saved, tmp_path / "out")
    model, info = AutoModel.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert model.dtype == torch.float32 and not info["missing_keys"] and not info["mismatched_keys"]
    assert AutoTokenizer.from_pretrained(tmp_path / "out")("the river").input_ids


def test_files_in_bfloat16_are_merged_and_saved_in_float32(tmp_path, tiny_folder):
    """The sum keeps what bfloat16 would round away, whatever type the backbone was opened in."""
    from transformers import AutoModel

    AutoModel.from_pretrained(tiny_folder("bert"), dtype=torch.bfloat16).save_pretrained(tmp_path / "half")
    for path in tiny_folder("bert").glob("*tokenizer*"):
        (tmp_path / "half" / path.name).write_bytes(path.read_bytes())
    backbone = load_backbone(str(tmp_path / "half"), dtype="bfloat16")
    part = random_low_rank(backbone, 3, alpha=0.01)
    export_backbone(saved_of(backbone, tmp_path, part), tmp_path / "out")
    assert json.loads((tmp_path / "out" / "config.json").read_text())["dtype"] == "float32"
    name = "encoder.layer.1.attention.self.query.weight"
    files = [load_file(tmp_path / folder / "model.safetensors") for folder in ("half", "out")]
    assert [{tensor.dtype for tensor in file.values()} for file in files] == [{torch.bfloat16}, {torch.float32}]
    before, after = (file[name] for file in files)
    (down, up) = part.updates()[name.removesuffix(".weight")]
    assert not torch.equal(after, after.bfloat16().float())
    torch.testing.assert_close(after, before.float() + up @ down, atol=1e-7, rtol=1e-6)


def test_the_weights_are_those_of_the_files_and_not_what_they_were_rounded_to(load, tmp_path):
    backbone = load("bert", dtype="bfloat16")
    saved = saved_of(backbone, tmp_path, random_low_rank(backbone, 3))
    export_backbone(saved, tmp_path / "out")
    exact = load("bert")
    changed = merged_weights(saved.state, dict(exact.model.named_parameters()).__getitem__, exact.linears)
    after = load_file(tmp_path / "out" / "model.safetensors")
    before = load_file(Path(exact.identity.reference) / "model.safetensors")
    assert after.keys() == before.keys() and len(changed) == 18
    assert all(torch.equal(value, changed.get(name, before[name])) for name, value in after.items())


@pytest.mark.parametrize("kind", ["bert", "roberta", "distilbert", "modernbert"])
def test_the_language_models_head_stays(tmp_path, kind):
    folder = tiny_backbone(tmp_path / "masked", kind, masked=True)
    backbone = load_backbone(str(folder), dtype="float32")
    saved = saved_of(backbone, tmp_path, random_low_rank(backbone, 3))
    export_backbone(saved, tmp_path / "out")
    require_merged(saved, tmp_path / "out")
    labels = ("a", "b", "c")
    before = LanguageHead(backbone).verbalizer(PIECES, labels)
    after = LanguageHead(load_backbone(str(tmp_path / "out"), dtype="float32")).verbalizer(PIECES, labels)
    hidden = torch.randn(4, backbone.hidden_size)
    assert torch.equal(after(hidden), before(hidden))


def test_a_decoders_own_head_stays(tmp_path, tiny_folder):
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(tiny_folder("llama"))  # draws the head, which is not in the files
    model.save_pretrained(tmp_path / "whole")
    for path in tiny_folder("llama").glob("*tokenizer*"):
        (tmp_path / "whole" / path.name).write_bytes(path.read_bytes())
    backbone = load_backbone(str(tmp_path / "whole"), dtype="float32")
    saved = saved_of(backbone, tmp_path, random_low_rank(backbone, 3))
    export_backbone(saved, tmp_path / "out")
    require_merged(saved, tmp_path / "out")
    after, info = AutoModelForCausalLM.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not info["missing_keys"] and torch.equal(after.lm_head.weight, model.lm_head.weight)


def test_files_in_several_pieces_stay_so(tmp_path, tiny_folder):
    from transformers import AutoModel

    AutoModel.from_pretrained(tiny_folder("bert")).save_pretrained(tmp_path / "pieces", max_shard_size="40KB")
    for path in tiny_folder("bert").glob("*tokenizer*"):
        (tmp_path / "pieces" / path.name).write_bytes(path.read_bytes())
    backbone = load_backbone(str(tmp_path / "pieces"), dtype="float32")
    saved = saved_of(backbone, tmp_path, trained(backbone))
    export_backbone(saved, tmp_path / "out")
    pieces = [load_file(path) for path in (tmp_path / "out").glob("model-*.safetensors")]
    index = json.loads((tmp_path / "out" / "model.safetensors.index.json").read_text())
    assert len(pieces) > 1 and index["metadata"]["total_size"] == sum(it.nbytes for p in pieces for it in p.values())
    require_merged(saved, tmp_path / "out")


def test_the_folder_says_where_it_comes_from(load, tmp_path):
    backbone = load("bert")
    saved = saved_of(backbone, tmp_path, random_low_rank(backbone, 3))
    export_backbone(saved, tmp_path / "out")
    origin = json.loads((tmp_path / "out" / ORIGIN).read_text())
    seal = json.loads((saved.folder / "CHECKPOINT.json").read_text())
    assert origin["checkpoint_sha256"] == seal["sha256"] and origin["run"] == str(saved.folder)
    assert origin["backbone"] == backbone.identity.to_json()
    assert {key: origin[key] for key in ("step", "stage", "method", "tasks", "dtype")} == {
        "step": 7,
        "stage": "pretrain",
        "method": "lora",
        "tasks": ["t"],
        "dtype": "float32",
    }
    assert origin["state"] == saved.state.specs


@pytest.mark.parametrize(
    ("parts", "told"),
    [
        ((), "a task state of nothing cannot be merged into weights, expected low_rank or weights alone"),
        (("prompt",), "a task state of prompt cannot be merged into weights, since prompt acts beside them, expected"),
        (
            ("prompt", "low_rank"),
            "a task state of prompt and low_rank cannot be merged into weights, since prompt acts",
        ),
        (("input",), "a task state of input cannot be merged into weights, since input acts beside them"),
    ],
)
def test_what_weights_cannot_do_is_refused_by_name(load, tmp_path, parts, told):
    backbone = load("bert")
    made = {
        "prompt": lambda: random_prompt(backbone, 5),
        "low_rank": lambda: random_low_rank(backbone, 3),
        "input": lambda: InputPrompt(torch.zeros(5, 32)),
    }
    with pytest.raises(CheckpointError, match=f"step-00000007: {told}"):
        export_backbone(saved_of(backbone, tmp_path, *(made[part]() for part in parts)), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_existing_folder_is_left_alone(load, tmp_path):
    backbone = load("bert")
    (tmp_path / "out").mkdir()
    with pytest.raises(CheckpointError, match=r"out: cannot make this folder: it exists\. Give another"):
        export_backbone(saved_of(backbone, tmp_path, random_low_rank(backbone, 3)), tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


def test_prompts_are_pretrained_and_transferred_over_a_merged_backbone(world, tmp_path):
    """The whole way: low-rank updates over a mixture, merged, then prompts as over any other backbone."""
    run_pretrain(world, tmp_path / "first", method="lora", optimizer__low_rank_learning_rate=0.05)
    first = open_saved(tmp_path / "first")
    export_backbone(first, tmp_path / "primed")
    require_merged(first, tmp_path / "primed")
    run_pretrain(world, tmp_path / "second", backbone__reference=str(tmp_path / "primed"))
    second = open_saved(tmp_path / "second")
    assert list(second.state.parts) == ["prompt"]
    assert second.checkpoint.identity["backbone"]["weights_sha256"] != first.scorer.backbone.identity.weights_sha256
    results = run_transfer(world, tmp_path / "results", init_from=tmp_path / "second", seeds=(0,))
    assert {result.method for result in results} == {"scratch", "transfer"}
