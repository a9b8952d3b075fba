import json
import shutil
from dataclasses import replace

import pytest
import torch
from common.prompts import random_batch, scores_of
from common.runs import run_pretrain, write_bert
from safetensors.torch import load_file

from mpt.base.errors import BackboneError, CheckpointError, ConfigError, MptError
from mpt.model.backbone import precision
from mpt.model.scorer import Scorer
from mpt.serving.saved import find_device, open_saved
from mpt.training.checkpoint import Checkpoint, find_checkpoint, latest, load_checkpoint, save_checkpoint


def rewritten(world, folder, **changes):
    """A checkpoint with other content and matching digests, as somebody with a text editor and time would make it."""
    return save_checkpoint(folder, replace(load_checkpoint(find_checkpoint(world.run)), **changes))


def test_state_heads_and_labels_are_those_of_the_checkpoint(world):
    saved = open_saved(world.run)
    assert saved.folder == find_checkpoint(world.run)
    state = load_file(saved.folder / "state.safetensors")
    assert torch.equal(saved.state.parts["prompt"].flat, state["prompt.values"]) and len(state) == 1
    heads = load_file(saved.folder / "heads.safetensors")
    for name, head in saved.scorer.heads().items():
        assert torch.equal(head.weight, heads[f"{name}.weight"])
        assert torch.equal(head.bias, heads[f"{name}.bias"])
        assert list(head.labels) == saved.tasks[name]["labels"]
    assert list(saved.scorer.heads()) == list(saved.tasks) == ["people", "places", "words"]


def test_a_given_checkpoint_is_opened_instead_of_the_best(world):
    newest = latest(world.run)
    assert open_saved(newest).folder == newest


def test_the_declaration_of_a_task_comes_back(world):
    saved = open_saved(world.run)
    spec = saved.task_spec("places")
    assert (spec.family, spec.scheme, spec.metric, spec.columns.tag) == ("ner", "iob2", "span_f1", 1)
    with pytest.raises(MptError, match=r'no head for task "place".*Did you mean "places"\?'):
        saved.task_spec("place")


def test_a_task_must_be_named_when_there_are_several(world, tmp_path):
    with pytest.raises(CheckpointError, match=r"has several tasks \(people, places, words\)\. Name one with --task"):
        open_saved(world.run).only_task()
    run_pretrain(world, tmp_path / "one", tasks=("places",), training__steps=2)
    assert open_saved(tmp_path / "one").only_task() == "places"


def test_the_backbone_runs_as_in_training(world, tmp_path):
    changes = {"backbone__dtype": "bfloat16", "backbone__positions": "shifted", "backbone__longest_window": 40}
    changes |= {"backbone__word_state": "mean"}
    run_pretrain(world, tmp_path / "run", training__steps=2, **changes)
    backbone = open_saved(tmp_path / "run", dtype="bfloat16").scorer.backbone
    assert (backbone.dtype, backbone.shifted, backbone.word_pieces.room) == (torch.bfloat16, True, 38)
    assert backbone.word_pieces.mean


@pytest.mark.parametrize("kind", ["albert", "deberta", "deberta-v3", "glm", "gpt2"])
def test_a_run_over_any_kind_of_backbone_scores_as_it_did(world, tiny_folder, tmp_path, monkeypatch, kind):
    """Logits before saving and after loading have the same bits, recomputed layers or not."""
    scorers, scored = [], []
    build, collect = Scorer.__init__, Checkpoint.__init__

    def noted(self, *args, **kwargs):
        collect(self, *args, **kwargs)
        scored.append((self.progress["step"], logits(scorers[-1])))

    with monkeypatch.context() as patch:
        patch.setattr(Scorer, "__init__", lambda self, *a, **more: build(self, *a, **more) or scorers.append(self))
        patch.setattr(Checkpoint, "__init__", noted)
        changes = {"training__steps": 2, "backbone__gradient_checkpointing": True}
        run_pretrain(world, tmp_path / "run", backbone__reference=str(tiny_folder(kind)), **changes)
    saved = open_saved(latest(tmp_path / "run"))
    step, expected = scored[-1]
    assert step == 2 and torch.equal(logits(saved.scorer), expected)


@pytest.mark.parametrize(
    "method", ["head", "bitfit", "lora", "low-rank", "prompt+low-rank", "fine-tuning", "prompt-tuning"]
)
def test_a_run_of_any_method_scores_as_it_did(world, tmp_path, monkeypatch, method):
    scorers, build = [], Scorer.__init__
    with monkeypatch.context() as patch:
        patch.setattr(Scorer, "__init__", lambda self, *a, **more: build(self, *a, **more) or scorers.append(self))
        run_pretrain(world, tmp_path / "run", training__steps=2, method=method)
    saved = open_saved(tmp_path / "run")
    assert torch.equal(logits(saved.scorer), logits(scorers[0]))
    assert saved.state.specs == saved.checkpoint.identity["state"]


def logits(scorer):
    with torch.no_grad():
        return scores_of(scorer, random_batch(scorer.backbone, 9, 4, tasks=("people",)))


@pytest.mark.parametrize("native", [True, False])
@pytest.mark.parametrize("trained", ["float32", "bfloat16"])
def test_it_is_opened_in_its_type_unless_that_is_emulated_or_told(world, tmp_path, monkeypatch, trained, native):
    run_pretrain(world, tmp_path / "run", training__steps=2, backbone__dtype=trained)
    monkeypatch.setattr(precision, "multiplies_bfloat16", lambda device: native)
    auto = trained if native else "float32"
    for dtype, opened in (("auto", auto), ("float32", "float32"), ("bfloat16", "bfloat16")):
        saved = open_saved(tmp_path / "run", dtype=dtype)
        assert saved.dtype == opened and saved.scorer.backbone.dtype == getattr(torch, opened)
        told = (f"{saved.folder}: trained in {trained}, opened in {opened}: scores may differ slightly from those of "
                "its training",)  # fmt: skip
        assert saved.notices == (() if opened == trained else told)


def test_devices(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert find_device("auto") == find_device("cpu") == torch.device("cpu")
    for name in ("cuda", "cuda:0", "gpu"):
        with pytest.raises(ConfigError, match=rf'--device "{name}": this machine has auto, cpu\.'):
            find_device(name)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert find_device("auto") == find_device("cuda") == torch.device("cuda")
    assert (find_device("cpu").type, find_device("cuda:1").index) == ("cpu", 1)
    with pytest.raises(ConfigError, match=r'--device "cuda:2": this machine has auto, cpu, cuda, cuda:0, cuda:1\.'):
        find_device("cuda:2")


def test_prompted_layers_come_back(world, tmp_path):
    run_pretrain(world, tmp_path / "run", training__steps=2, prompt__layers=1)
    saved = open_saved(tmp_path / "run")
    prompt = saved.state.parts["prompt"]
    assert prompt.shape.layers == (1,)
    assert tuple(prompt.flat.shape) == (1, 2, 2, 4, 16)


def test_other_weights_are_refused_with_both_digests(world, tmp_path):
    other = write_bert(tmp_path / "other", seed=1)
    with pytest.raises(CheckpointError) as caught:
        open_saved(world.run, reference=str(other))
    was = load_checkpoint(find_checkpoint(world.run)).identity["backbone"]["weights_sha256"]
    assert f"backbone.weights_sha256: checkpoint '{was}', now '" in str(caught.value)
    assert "A task state works with the backbone it was trained on only" in str(caught.value)
    assert "--backbone" in str(caught.value)


def test_another_tokenizer_is_refused(world, tmp_path):
    other = shutil.copytree(world.backbone, tmp_path / "other")
    path = other / "tokenizer.json"
    content = json.loads(path.read_text())
    content["normalizer"]["lowercase"] = True
    path.write_text(json.dumps(content))
    with pytest.raises(CheckpointError, match=r"backbone\.tokenizer_sha256: checkpoint"):
        open_saved(world.run, reference=str(other))


def test_a_copy_of_the_backbone_will_do(world, tmp_path):
    moved = shutil.copytree(world.backbone, tmp_path / "moved")
    assert open_saved(world.run, reference=str(moved)).scorer.backbone.identity.reference == str(moved)


def test_a_backbone_that_is_gone_is_told_where_to_give_it(world, tmp_path):
    gone = str(tmp_path / "gone")
    checkpoint = load_checkpoint(find_checkpoint(world.run))
    identity = {**checkpoint.identity, "backbone": {**checkpoint.identity["backbone"], "reference": gone}}
    folder = rewritten(world, tmp_path / "copies", identity=identity)
    with pytest.raises(BackboneError) as caught:
        open_saved(folder)
    assert f'backbone "{gone}": no such folder' in str(caught.value)
    assert "--backbone" in str(caught.value)
    open_saved(folder, reference=str(world.backbone))


def test_a_prompt_of_another_length_is_refused(world, tmp_path):
    state = {"prompt.values": torch.zeros(2, 2, 2, 7, 16)}
    folder = rewritten(world, tmp_path / "copies", state=state)
    with pytest.raises(CheckpointError) as caught:
        open_saved(folder)
    assert "prompt values has shape (2, 2, 2, 7, 16), expected (2, 2, 2, 4, 16)" in str(caught.value)


def test_a_damaged_checkpoint_is_refused(world, tmp_path):
    folder = shutil.copytree(find_checkpoint(world.run), tmp_path / "step-00000012")
    (folder / "heads.safetensors").write_bytes(b"\0" * 100)
    with pytest.raises(CheckpointError, match=r"the checkpoint is damaged: heads\.safetensors has 100 bytes"):
        open_saved(folder)


def test_nothing_is_trainable_in_the_backbone(world):
    saved = open_saved(world.run)
    assert not any(p.requires_grad for p in saved.scorer.backbone.model.parameters())
    assert {name for name, _ in saved.scorer.named_parameters()} == set(saved.scorer.state_dict())
