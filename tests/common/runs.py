"""Small data, a small backbone and finished runs for the tests of training and of everything above it.

Tests only read what the session's `world` holds, and copy what they change.
"""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random

import pytest

SENTENCES = {"train": 60, "dev": 30, "test": 30}
WORDS = {"PER": "Ada Bob Cyd Dan", "LOC": "Kiev Lund Mons Nice", "ORG": "Sony Tata Uber Visa", "O": "in on to of an up"}


@dataclass(frozen=True)
class World:
    """What the tests share: a folder with `mixture.yaml` and `target.yaml`, a backbone, a pretraining run."""

    data: Path
    backbone: Path
    run: Path


def sentences(count, kinds, tag, seed):
    """Column text whose tags follow from the words alone, so that a small random backbone can learn them."""
    rng = Random(seed)
    text = ""
    for _ in range(count):
        for _ in range(rng.randrange(3, 8)):
            kind = rng.choice(["O", "O", *kinds])
            text += f"{rng.choice(WORDS[kind].split())} {tag(kind)}\n"
        text += "\n"
    return text


def entity(kind):
    return "O" if kind == "O" else f"B-{kind}"


def upos(kind):
    return "ADP" if kind == "O" else "PROPN"


TASKS = {
    "people": ("ner", ["PER"], entity),
    "places": ("ner", ["LOC", "PER"], entity),
    "words": ("pos", ["PER", "LOC"], upos),
    "firms": ("ner", ["ORG", "PER"], entity),
}


def write_tasks(folder):
    """Three source tasks (two of entities, one of words) and a target task with a type that is new."""
    for name, (_, kinds, tag) in TASKS.items():
        (folder / name).mkdir(parents=True)
        for split, count in SENTENCES.items():
            (folder / name / f"{split}.txt").write_text(sentences(count, kinds, tag, f"{name} {split}"))
    (folder / "mixture.yaml").write_text(manifest("source", ["people", "places", "words"]))
    (folder / "target.yaml").write_text(manifest("target", ["firms"]))
    return folder


def manifest(name, tasks):
    """A manifest as JSON, which YAML includes."""
    specs = {
        task: {
            "family": TASKS[task][0],
            "files": {split: f"{task}/{split}.txt" for split in SENTENCES},
            "columns": {"word": 0, "tag": 1},
            **({"scheme": "iob2"} if TASKS[task][0] == "ner" else {}),
        }
        for task in tasks
    }
    return json.dumps({"version": 1, "name": name, "root": ".", "tasks": specs}, indent=1)


def pretrain_settings(world, **changes):
    """Settings of a run of six steps with three evaluations; `changes` are dotted with __."""
    from mpt.base.settings import (
        BackboneSettings,
        EvaluationSettings,
        OptimizerSettings,
        PromptSettings,
        TrainingSettings,
    )
    from mpt.experiments.settings import PretrainSettings

    settings = PretrainSettings(
        manifest=world.data / "mixture.yaml",
        backbone=BackboneSettings(reference=str(world.backbone), dtype="float32"),
        prompt=PromptSettings(length=4, dropout=0.1),
        optimizer=OptimizerSettings(prompt_learning_rate=0.2, head_learning_rate=0.05, warmup_steps=1),
        training=TrainingSettings(steps=6, tokens_per_micro_batch=256, micro_batches=1),
        evaluation=EvaluationSettings(every_steps=2),
    )
    return changed(settings, **changes)


def transfer_settings(**changes):
    """Settings of transfer runs of six steps with two seeds."""
    from mpt.base.settings import OptimizerSettings
    from mpt.experiments.settings import (
        TransferEvaluationSettings,
        TransferSettings,
        TransferTrainingSettings,
        TuningSettings,
    )

    settings = TransferSettings(
        optimizer=OptimizerSettings(prompt_learning_rate=0.2, head_learning_rate=0.05, warmup_steps=1),
        training=TransferTrainingSettings(steps=6, tokens_per_micro_batch=256, micro_batches=1),
        evaluation=TransferEvaluationSettings(every_steps=3),
        seeds=(0, 1),
        tuning=TuningSettings(prompt_learning_rates=(), backbone_learning_rates=(), head_learning_rates=()),
    )
    return changed(settings, **changes)


def changed(settings, **changes):
    """`training__steps=4` gives a copy with that field changed; values are those of Python."""
    for path, value in changes.items():
        head, _, rest = path.partition("__")
        value = changed(getattr(settings, head), **{rest: value}) if rest else value
        settings = settings.model_copy(update={head: value})
    return settings


def quiet():
    from rich.console import Console

    return Console(quiet=True)


def run_pretrain(world, folder, *, resume="never", console=None, **changes):
    from mpt.experiments.pretrain import pretrain

    return pretrain(pretrain_settings(world, **changes), folder, resume=resume, console=console or quiet())


def run_transfer(world, folder, *, resume="never", shots=(20,), tasks=(), init_from=None, backbone=None, **changes):
    from mpt.experiments.transfer import transfer

    return transfer(
        transfer_settings(**changes),
        init_from or world.run,
        world.data / "target.yaml",
        folder,
        tasks=tasks,
        shots=shots,
        resume=resume,
        backbone=backbone,
        console=quiet(),
    )


def files_of(folder):
    """Every file below a folder by relative path, with its bytes."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def write_bert(folder, *, seed=0, positions=64, shard_size="50GB", **sizes):
    """A random BERT of two layers, and a tokenizer whose word pieces are characters."""
    import torch
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast
    from transformers.utils import logging

    logging.disable_progress_bar()
    letters = [chr(code) for code in range(33, 127)]
    specials = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    pieces = [*specials.values(), *letters, *(f"##{letter}" for letter in letters)]
    vocabulary = {piece: number for number, piece in enumerate(pieces)}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=False)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **specials).save_pretrained(folder)
    torch.manual_seed(seed)
    small = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    config = BertConfig(vocab_size=len(pieces), max_position_embeddings=positions, **(small | sizes))
    BertModel(config).save_pretrained(folder, max_shard_size=shard_size)
    logging.enable_progress_bar()
    return folder


@pytest.fixture(scope="session")
def world(tmp_path_factory):
    """Data, backbone and a pretraining run over them; read it, never change it."""
    root = tmp_path_factory.mktemp("world")
    write_bert(root / "backbone")
    made = World(data=write_tasks(root / "data"), backbone=root / "backbone", run=root / "run")
    run_pretrain(made, made.run, training__steps=12, evaluation__every_steps=4)
    return made


@pytest.fixture
def own_world(world, tmp_path):
    """The world with a copy of its data, to be changed."""
    import shutil

    shutil.copytree(world.data, tmp_path / "data")
    return replace(world, data=tmp_path / "data")


@dataclass(frozen=True)
class Parts:
    """What a step works with: the tasks of the mixture, as sentences and encoded, and a model over them."""

    loaded: list
    tasks: list
    scorer: object
    accelerator: object

    def plan(self, *, micro_batches=1, tasks_per_step=1, tokens=256):
        """Equal rates over all tasks."""
        from mpt.experiments.execution import build_plan

        settings = changed(
            transfer_settings(),
            training__micro_batches=micro_batches,
            training__tokens_per_micro_batch=tokens,
        )
        rates = {task.task.name: 1 / len(self.tasks) for task in self.tasks}
        return build_plan(self.tasks, rates, settings, tasks_per_step=tasks_per_step, accelerator=self.accelerator)


def make_parts(world, *, dropout=0.0, state=None):
    """A fresh model over the world's source tasks; `state(backbone)` is what it trains, else a prompt of length 3."""
    from accelerate import Accelerator

    from mpt.base.settings import LowRankSettings, PromptSettings
    from mpt.data.manifest.reading import load_manifest
    from mpt.data.tasks import load_tasks
    from mpt.experiments.execution import encode_tasks
    from mpt.model.backbone.backbone import load_backbone
    from mpt.model.heads import TokenHead
    from mpt.model.scorer import Scorer
    from mpt.model.state.starts import StatePlan, fresh_state

    backbone = load_backbone(str(world.backbone), dtype="float32")
    loaded, _ = load_tasks(load_manifest(world.data / "mixture.yaml"))
    tasks, _ = encode_tasks(loaded, backbone)
    plan = StatePlan(parts=("prompt",), prompt=PromptSettings(length=3, dropout=dropout), low_rank=LowRankSettings())
    made = fresh_state(plan, backbone, [tasks[0].splits["train"]], seed=0) if state is None else state(backbone)
    heads = {
        one.task.name: TokenHead(32, one.task.labels, seed=0, task=one.task.name, dropout=dropout) for one in tasks
    }
    return Parts(loaded=loaded, tasks=tasks, scorer=Scorer(backbone, made, heads), accelerator=Accelerator(cpu=True))


def state_bytes(scorer):
    """Every trained tensor's bytes by name."""
    return {name: value.detach().numpy().tobytes() for name, value in scorer.state_dict().items()}
