"""Scores of verbalizer words, beside transformers' own masked language models."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from common.backbones import tiny_backbone
from common.prompts import random_states, scores_of
from safetensors.torch import load_file, save_file
from torch.nn import functional
from transformers import AutoModelForMaskedLM, AutoTokenizer

from mpt.base.errors import BackboneError, DataError
from mpt.data.encoded import encode_task
from mpt.data.example import TextExample
from mpt.data.manifest.format_specs import CsvSpec
from mpt.data.manifest.source_spec import Fields, Files
from mpt.data.order.batch import collate
from mpt.data.tasks import Task
from mpt.model import language_head
from mpt.model.backbone.backbone import load_backbone
from mpt.model.heads import TokenHead
from mpt.model.language_head import LanguageHead, new_heads, verbalizer_notices
from mpt.model.losses import summed_loss
from mpt.model.scorer import Scorer
from mpt.model.state.bank import TaskState

MASKED = ("bert", "roberta", "xlm-roberta", "electra", "albert", "distilbert", "modernbert", "deberta", "deberta-v3")
WORDS = {"bad": "low", "good": "new"}
TEMPLATE = "{text} in the {mask} river ."


@pytest.fixture(scope="module")
def masked(tmp_path_factory):
    """`masked(kind)` is the folder of a tiny masked language model."""
    made = {}

    def folder(kind, **config):
        key = (kind, *sorted(config.items()))
        if key not in made:
            place = tmp_path_factory.mktemp("masked") / kind
            made[key] = tiny_backbone(place, kind, masked=True, **config)
        return made[key]

    return folder


def spec_of(*, pair=False, words=None, template=TEMPLATE, labels="auto"):
    return CsvSpec(
        family="classification",
        format="csv",
        files=Files(train=("a.csv",), dev=("b.csv",)),
        fields=Fields(pair="pair" if pair else None),
        labels=labels,
        **({} if words == {} else {"verbalizer": words or WORDS, "template": template}),
    )


def task_of(spec, *texts, name="t"):
    """A task of such texts or pairs, all with the first label."""
    labels = tuple(spec.verbalizer) or ("bad", "good")
    inputs = [text if isinstance(text, tuple) else (text,) for text in texts]
    examples = tuple(
        TextExample(inputs=(own,), tags=(labels[0],), path="a.csv", lines=(line,)) for line, own in enumerate(inputs, 1)
    )
    return Task(name=name, spec=spec, labels=tuple(labels), digests={}, splits={"train": examples})


def model_of(folder, task, *, state=None, **options):
    backbone = load_backbone(str(folder), dtype="float32", **options)
    return Scorer(backbone, TaskState() if state is None else state(backbone), new_heads(backbone, [task], seed=0))


def batch_of(scorer, task):
    split = encode_task(task, scorer.backbone.word_pieces)[0].splits["train"]
    return collate(split, np.arange(len(split)), pad=scorer.backbone.word_pieces.pad, tasks=(task.name,))


def reference_scores(folder, text, words):
    """What transformers' model says at the mask of a text, tokenised whole."""
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModelForMaskedLM.from_pretrained(folder)
    ids = torch.tensor([tokenizer(text)["input_ids"]])
    with torch.no_grad():
        scores = model(ids).logits[0]
    (column,) = (ids[0] == tokenizer.mask_token_id).nonzero().flatten().tolist()
    pieces = [tokenizer.encode(word, add_special_tokens=False) for word in words]
    assert all(len(piece) == 1 for piece in pieces)
    return scores[column, [piece[0] for piece in pieces]]


@pytest.mark.parametrize("kind", MASKED)
def test_scores_are_those_of_the_masked_language_model(masked, kind):
    folder = masked(kind)
    task = task_of(spec_of(), "the low river is new")
    scorer = model_of(folder, task)
    with torch.no_grad():
        found = scores_of(scorer, batch_of(scorer, task))
    mask = AutoTokenizer.from_pretrained(folder).mask_token
    space = " " if kind in ("roberta", "modernbert") else ""
    expected = reference_scores(
        folder, f"the low river is new in the {mask} river .", [space + word for word in WORDS.values()]
    )
    torch.testing.assert_close(found[0], expected, atol=2e-5, rtol=1e-4)
    assert found[0].std() > 0.01


@pytest.mark.parametrize("kind", ["bert", "roberta"])
def test_pairs_are_one_text_in_one_segment(masked, kind):
    folder = masked(kind)
    task = task_of(spec_of(pair=True, template="is {pair} , {text} ? {mask} ."), ("the low river", "new doctor"))
    scorer = model_of(folder, task)
    batch = batch_of(scorer, task)
    with torch.no_grad():
        found = scores_of(scorer, batch)
    mask = AutoTokenizer.from_pretrained(folder).mask_token
    space = " " if kind == "roberta" else ""
    text = f"is new doctor , the low river ? {mask} ."
    torch.testing.assert_close(
        found[0], reference_scores(folder, text, [space + word for word in WORDS.values()]), atol=2e-5, rtol=1e-4
    )
    assert batch.segments_BS is None


def test_output_embeddings_of_their_own(masked):
    folder = masked("bert", tie_word_embeddings=False)
    task = task_of(spec_of(), "the river")
    scorer = model_of(folder, task)
    with torch.no_grad():
        found = scores_of(scorer, batch_of(scorer, task))
    expected = reference_scores(folder, "the river in the [MASK] river .", WORDS.values())
    torch.testing.assert_close(found[0], expected, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("kind", ["deberta", "deberta-v3"])
def test_debertas_head_under_the_names_that_it_was_published_with(masked, tmp_path, kind):
    """Published configurations do not say so: the files do."""
    folder = masked(kind, legacy=False)
    assert "lm_predictions.lm_head.dense.weight" in load_file(folder / "model.safetensors")
    expected = reference_scores(folder, "the river in the [MASK] river .", WORDS.values())
    silent = Path(shutil.copytree(folder, tmp_path / "silent"))
    config = json.loads((folder / "config.json").read_text())
    del config["legacy"]
    (silent / "config.json").write_text(json.dumps(config))
    task = task_of(spec_of(), "the river")
    scorer = model_of(silent, task)
    with torch.no_grad():
        torch.testing.assert_close(scores_of(scorer, batch_of(scorer, task))[0], expected, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("kind", ["bert", "roberta", "deberta-v3", "electra"])
def test_no_second_body_is_made_and_no_vocabulary_held(masked, monkeypatch, kind):
    """Of what is put into memory nothing is as large as the word embeddings."""
    backbone = load_backbone(str(masked(kind)), dtype="float32")
    made, fill = [], language_head.fill
    monkeypatch.setattr(language_head, "fill", lambda unit, *a, **more: made.append(unit) or fill(unit, *a, **more))
    new_heads(backbone, [task_of(spec_of(), "a")], seed=0)
    (head,) = made
    held = {name: weight.shape for name, weight in head.named_parameters()}
    assert held and not any(weight.is_meta for weight in head.parameters())
    assert not any("embeddings" in name or "encoder" in name for name in held)
    assert all(len(shape) == 1 or shape[0] <= backbone.hidden_size for shape in held.values())


def test_the_first_names_of_berts_layer_norm(masked, tmp_path):
    """The files of bert-base-uncased say gamma and beta."""
    task = task_of(spec_of(), "the river")
    scorer = model_of(masked("bert"), task)
    expected = scores_of(scorer, batch_of(scorer, task))
    folder = tiny_backbone(tmp_path / "old", "bert", masked=True)
    names = {"LayerNorm.weight": "LayerNorm.gamma", "LayerNorm.bias": "LayerNorm.beta"}
    weights = load_file(folder / "model.safetensors")
    renamed = {}
    for key, value in weights.items():
        for new, old in names.items():
            key = key.replace(new, old)
        renamed[key] = value
    save_file(renamed, folder / "model.safetensors", metadata={"format": "pt"})
    scorer = model_of(folder, task)
    torch.testing.assert_close(scores_of(scorer, batch_of(scorer, task)), expected)


def test_without_a_head_the_input_embeddings_are_used_and_it_is_told(tiny_folder, masked):
    task = task_of(spec_of(), "the river")
    scorer = model_of(tiny_folder("bert"), task)
    backbone = scorer.backbone
    batch = batch_of(scorer, task)
    pieces = [backbone.word_pieces.tokenizer.token_to_id(word) for word in WORDS.values()]
    rows = backbone.model.get_input_embeddings().weight[pieces]
    with torch.no_grad():
        expected = functional.linear(scorer.word_states(batch), rows)
        torch.testing.assert_close(scores_of(scorer, batch), expected)
    (notice,) = verbalizer_notices(backbone, [task, replace(task, name="u")])
    assert notice.startswith("verbalizer of t, u: the backbone's files hold no language-model head")
    plain = replace(task, spec=spec_of(words={}, labels=("bad", "good")))
    assert verbalizer_notices(backbone, [plain]) == []
    assert verbalizer_notices(load_backbone(str(masked("bert"))), [task]) == []


def test_embeddings_of_another_size_are_refused_without_a_head(tiny_folder):
    with pytest.raises(BackboneError, match="output embeddings have size 16, and what they are compared with 32"):
        model_of(tiny_folder("electra"), task_of(spec_of(), "the river"))


def test_part_of_a_head_is_refused(tmp_path):
    folder = tiny_backbone(tmp_path / "bert", "bert", masked=True)
    weights = load_file(folder / "model.safetensors")
    weights = {key: value for key, value in weights.items() if "transform.LayerNorm.bias" not in key}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(BackboneError, match=r"part of a language-model head, but no cls\.predictions\.transform\.Lay"):
        model_of(folder, task_of(spec_of(), "the river"))


def test_gradients_reach_the_prompt_alone(masked):
    task = task_of(spec_of(), "the low river", "new")
    scorer = model_of(masked("roberta"), task, state=lambda backbone: random_states(backbone, 3)[0])
    head = scorer.head("t")
    assert list(head.parameters()) == [] and head.state_dict() == {}
    assert (
        [name for name, _ in scorer.named_parameters()]
        == list(scorer.state_dict())
        == ["bank._slots.0._parts.prompt.flat"]
    )
    summed_loss(scores_of(scorer, batch_of(scorer, task)), batch_of(scorer, task)).backward()
    assert scorer.state.parts["prompt"].flat.grad.abs().max() > 0
    assert all(weight.grad is None for weight in scorer.backbone.model.parameters())


def test_scores_are_float32_over_bfloat16(masked):
    task = task_of(spec_of(), "the low river")
    backbone = load_backbone(str(masked("bert")), dtype="bfloat16")
    scorer = Scorer(backbone, TaskState(), new_heads(backbone, [task], seed=0))
    assert scores_of(scorer, batch_of(scorer, task)).dtype == torch.float32


def test_heads_of_a_mixture_share_the_transform(masked):
    backbone = load_backbone(str(masked("bert")), dtype="float32")
    tasks = [task_of(spec_of(), "a", name="t"), task_of(spec_of(), "a", name="u")]
    plain = task_of(spec_of(words={}, labels=("bad", "good")), "a", name="v")
    heads = new_heads(backbone, [*tasks, plain], seed=0, dropout=0.5)
    assert heads["t"].transform is heads["u"].transform
    assert isinstance(heads["v"], TokenHead) and heads["v"].dropout == 0.5
    assert torch.equal(heads["v"].weight, TokenHead(32, ("bad", "good"), seed=0, task="v").weight)


def test_rows_follow_the_labels(masked):
    backbone = load_backbone(str(masked("bert")), dtype="float32")
    task = task_of(spec_of(labels=("good", "bad")), "a")
    turned = replace(task, labels=("good", "bad"))
    heads = [new_heads(backbone, [one], seed=0)["t"] for one in (task, turned)]
    assert heads[1].labels == ("good", "bad")
    assert torch.equal(heads[0].weight, heads[1].weight.flip(0)) and torch.equal(heads[0].bias, heads[1].bias.flip(0))
    assert not isinstance(LanguageHead(backbone).transform, torch.nn.Identity)


@pytest.mark.parametrize(
    ("kind", "words", "template", "problem"),
    [
        (
            "bert",
            {"x": "low", "y": "lower"},
            TEMPLATE,
            r'verbalizer\.y: .* must know "lower" as one piece, got 2: low, ##er',
        ),
        ("bert", {"x": "low", "y": "\ufe0f"}, TEMPLATE, r"verbalizer\.y: .* got 0: nothing\. Give another word"),
        (
            "bert",
            {"x": "low", "y": "Low"},
            TEMPLATE,
            r'verbalizer\.y: "Low" is the same piece as another label\'s word: low',
        ),
        ("roberta", {"x": "new", "y": "est"}, TEMPLATE, r'verbalizer\.y: .* must know "est" as one piece'),
        ("gpt2", {"x": "low", "y": "new"}, TEMPLATE, r'task "t": verbalizer needs a backbone with a mask piece'),
        ("bert", WORDS, "low " * 60 + "{text} {mask}", r"template leaves 1 of the backbone's 64 word pieces"),
    ],
)
def test_what_a_backbone_cannot_fill_in_is_refused(tiny_folder, kind, words, template, problem):
    word_pieces = load_backbone(str(tiny_folder(kind)), dtype="float32").word_pieces
    with pytest.raises(DataError, match=problem):
        encode_task(task_of(spec_of(words=words, template=template), "the river"), word_pieces)
