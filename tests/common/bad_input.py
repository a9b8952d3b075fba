"""Inputs that are wrong, and what mpt says: the source of docs/errors.md and of the tests of messages.

In tests/, `python -m common.bad_input > ../docs/errors.md` writes the page anew.
"""

import hashlib
import json
import re
import shutil
import sys
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass, replace
from io import StringIO
from pathlib import Path

import pyarrow
from common import record
from common.backbones import tiny_backbone, tiny_model
from common.runs import write_bert
from common.squad import asked, document, write
from pyarrow import parquet

from mpt.base.files import sha256_file, to_json
from mpt.training.checkpoint import SEAL, load_checkpoint, save_checkpoint

CONFIG = """manifest: data/mixture.yaml
backbone: {reference: backbone, dtype: float32}
prompt: {length: 4}
optimizer: {warmup_steps: 1}
training: {steps: 4, tokens_per_micro_batch: 256, micro_batches: 1}
evaluation: {every_steps: 4}
checkpoints: {every_steps: 2}
"""
PRETRAIN = ("pretrain", "--config", "run.yaml", "--out", "new")
RESUME = ("pretrain", "--config", "run.yaml", "--out", "run", "--resume", "must")
TRANSFER = ("transfer", "--init-from", "run", "--manifest", "data/target.yaml", "--out", "new")
EVALUATE = ("evaluate", "run", "--manifest", "data/mixture.yaml", "--out", "new")
PREDICT = ("predict", "run", "data/people/test.txt", "--out", "new", "--task", "people")
EXPORT = ("export", "run", "new", "--task", "people")
IMPORT = ("import", "peft", "adapter", "new", "--manifest", "data/mixture.yaml", "--task", "people")

PAGE = """# Errors

What a user can get wrong is told in one message: where, what, what was expected, what was found and what to do. All
problems of a file are told at once. The command ends with status 2, without a traceback, and leaves no run folder.
Whatever ends in a traceback is a bug in mpt; please report it.

The messages below come from running mpt on broken input; a test holds this page to them. `SHA-256` stands for a digest.
"""

PROPS = "Ada - (A0*)\nsaw see (V*)\nBob - (A1*)\n"
TRAIN = Path("data/people/train.txt")
DEV = Path("data/people/dev.txt")
MIXTURE = Path("data/mixture.yaml")


@dataclass(frozen=True, kw_only=True)
class Case:
    """One mistake.

    Attributes:
        topic: Heading on the page.
        what: The mistake in a few words; unique.
        change: Makes it, in a folder with `run.yaml`, `data/`, `backbone/` and a finished `run/`.
        command: Arguments of mpt.
        parts: What the message must hold, whatever else it says.
    """

    topic: str
    what: str
    change: Callable[[], object] = lambda: None
    command: tuple[str, ...] = PRETRAIN
    parts: tuple[str, ...]


def replace_once(path, old, new):
    text = path.read_text()
    assert old in text, (path, old)
    path.write_text(text.replace(old, new, 1))


def edit(change, path=MIXTURE):
    """Change a manifest's tasks."""
    content = json.loads(path.read_text())
    change(content["tasks"])
    path.write_text(json.dumps(content, indent=1))


def texts(form, train, *, dev=None, **fields):
    """Add a task of whole texts to the mixture."""
    for split, content in (("train", train), ("dev", dev or train)):
        Path("data/texts.txt" if split == "train" else "data/texts.txt.dev").write_text(content)
    files = {"train": "texts.txt", "dev": "texts.txt.dev"}
    edit(lambda tasks: tasks.update(texts={"family": "classification", "format": form, "files": files, **fields}))


def predicates(train, **fields):
    """Add a task of predicates with their arguments to the mixture."""
    for split, content in (("train", train), ("dev", PROPS)):
        Path(f"data/props.{split}").write_text(content)
    spec = {
        "family": "srl",
        "format": "props",
        "columns": {"word": 0, "predicate": 1, "arguments": 2},
        "files": {"train": "props.train", "dev": "props.dev"},
    }
    declared = {name: value for name, value in (spec | fields).items() if value is not None}
    edit(lambda tasks: tasks.update(props=declared))


def insert_byte():
    content = TRAIN.read_bytes()
    TRAIN.write_bytes(content[:20] + b"\xff" + content[20:])


def write_qa(*entries):
    """A manifest of one task of questions about a passage."""
    write(Path("data/qa.json"), document([("Z\u00fcrich is not Lund.", entries)]))
    task = {"family": "qa", "format": "squad", "files": {"train": "qa.json"}, "dev_fraction": 0.5}
    Path("qa.yaml").write_text(json.dumps({"version": 1, "name": "qa", "root": "data", "tasks": {"qa": task}}))


def write_record(*queries):
    """A manifest of one task of ReCoRD's form."""
    record.write(Path("data/record.jsonl"), [record.line(0, "Z\u00fcrich is not Lund.", *queries)])
    task = {"family": "qa", "format": "record", "files": {"train": "record.jsonl"}, "dev_fraction": 0.5}
    made = {"version": 1, "name": "record", "root": "data", "tasks": {"record": task}}
    Path("record.yaml").write_text(json.dumps(made))


def long_sentence(words=40):
    TRAIN.write_text("Kiev O\n" * words + "\n" + TRAIN.read_text())


def flip_bit(path):
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)


def as_format_1(folder):
    """Give a checkpoint's files the names and the version that they had."""
    (folder / "state.safetensors").rename(folder / "prompts.safetensors")
    (folder / "progress.json").rename(folder / "state.json")
    (folder / "networks.safetensors").unlink()
    files = {
        path.name: {"bytes": path.stat().st_size, "sha256": sha256_file(path)}
        for path in sorted(folder.iterdir())
        if path.name != SEAL
    }
    seal = {"format_version": 1, "files": files}
    (folder / SEAL).write_bytes(to_json({**seal, "sha256": hashlib.sha256(to_json(seal)).hexdigest()}))


def without_moments(folder):
    """Leave of a checkpoint what the runs of a transfer keep."""
    checkpoint = replace(load_checkpoint(folder), optimizer={})
    shutil.rmtree(folder)
    save_checkpoint(folder.parent, checkpoint)


def write_parquet(**columns):
    """Make people a task of one Parquet file."""
    parquet.write_table(pyarrow.table(columns), TRAIN.with_suffix(".parquet"))
    parquet.write_table(pyarrow.table({"tokens": [["Ada"]], "tags": [["B-PER"]]}), DEV.with_suffix(".parquet"))
    files = {"train": "people/train.parquet", "dev": "people/dev.parquet"}
    people = {"family": "ner", "format": "parquet", "scheme": "iob2", "labels": ["PER"], "streamed": True}
    edit(lambda tasks: tasks.update(people={**people, "files": files}))


def write_adapter(labels=None, **changes):
    """An adapter as PEFT saves it, of a head with three rows over `backbone/`."""
    import torch
    from safetensors.torch import save_file

    config = {"peft_type": "PREFIX_TUNING", "task_type": "TOKEN_CLS", "base_model_name_or_path": "backbone"}
    sizes = {"num_virtual_tokens": 4, "num_layers": 2, "num_attention_heads": 2, "token_dim": 32}
    Path("adapter").mkdir()
    content = config | sizes | {"num_transformer_submodules": 1} | changes
    Path("adapter/adapter_config.json").write_text(json.dumps(content))
    head = {"base_model.classifier.weight": torch.zeros(3, 32), "base_model.classifier.bias": torch.zeros(3)}
    save_file({"prompt_embeddings": torch.ones(4, 128)} | head, "adapter/adapter_model.safetensors")
    if labels:
        Path("adapter/config.json").write_text(json.dumps({"id2label": dict(enumerate(labels))}))


def write_lora(layer="encoder.layer.0.attention.self.query", **changes):
    """LoRA as PEFT saves it, of one layer and a head with three rows over `backbone/`."""
    import torch
    from safetensors.torch import save_file

    config = {"peft_type": "LORA", "task_type": "TOKEN_CLS", "base_model_name_or_path": "backbone"}
    Path("adapter").mkdir()
    Path("adapter/adapter_config.json").write_text(json.dumps(config | {"r": 4, "lora_alpha": 8} | changes))
    tensors = {"classifier.weight": torch.zeros(3, 32), "classifier.bias": torch.zeros(3)}
    tensors |= {f"bert.{layer}.lora_{side}.weight": torch.ones(s) for side, s in (("A", (4, 32)), ("B", (32, 4)))}
    named = {f"base_model.model.{name}": value for name, value in tensors.items()}
    save_file(named, "adapter/adapter_model.safetensors")
    Path("adapter/config.json").write_text(json.dumps({"id2label": dict(enumerate(("O", "B-PER", "I-PER")))}))


CASES = (
    Case(
        topic="Command line",
        what="An existing run folder",
        command=("pretrain", "--config", "run.yaml", "--out", "run"),
        parts=("run: this run folder exists", "--resume", "--out"),
    ),
    Case(
        topic="Command line",
        what="A file where the run folder should be",
        change=lambda: Path("file").write_text(""),
        command=("pretrain", "--config", "run.yaml", "--out", "file/run"),
        parts=("file/run: cannot make this folder: File exists", "Give another --out"),
    ),
    Case(
        topic="Command line",
        what="Nothing to resume",
        command=(*PRETRAIN, "--resume", "must"),
        parts=("new: nothing to resume", "--resume auto"),
    ),
    Case(
        topic="Command line",
        what="A run that does not exist",
        command=("predict", "rum", "data/people/test.txt", "--out", "new"),
        parts=("rum: no such folder", 'Did you mean "run"?'),
    ),
    Case(
        topic="Command line",
        what="An unknown task",
        command=(*EVALUATE, "--task", "peple"),
        parts=('"peple"', "people, places, words", 'Did you mean "people"?'),
    ),
    Case(
        topic="Command line",
        what="A model of several tasks, and none named",
        command=("export", "run", "new"),
        parts=("has several tasks (people, places, words)", "--task"),
    ),
    Case(
        topic="Command line",
        what="A task that two of the opened models have",
        command=("predict", "run", "data/people/test.txt", "--out", "new", "--with", "run"),
        parts=("task people, places, words is open already, from run/checkpoints/", "open them apart"),
    ),
    Case(
        topic="Command line",
        what="An unknown format",
        command=(*PREDICT, "--format", "conl"),
        parts=('--format "conl"', 'Did you mean "conll"?'),
    ),
    Case(
        topic="Command line",
        what="An unknown split",
        command=(*EVALUATE, "--split", "tset"),
        parts=('--split "tset" is not one of train, dev, test', 'Did you mean "test"?'),
    ),
    Case(
        topic="Command line",
        what="Shots that are no numbers",
        command=(*TRANSFER, "--shots", "10,many"),
        parts=('--shots "10,many": expected whole numbers from 1',),
    ),
    Case(
        topic="Command line",
        what="More shots than sentences",
        command=(*TRANSFER, "--shots", "10,1000"),
        parts=('task "firms": 1000 shots asked for, train has 60 sentences',),
    ),
    Case(
        topic="Command line",
        what="An unknown way to start the head",
        command=(*TRANSFER, "--head", "by-lable"),
        parts=('"by-lable" is not one of fresh, by-label, from:TASK', 'Did you mean "by-label"?'),
    ),
    Case(
        topic="Command line",
        what="An unknown baseline",
        command=(*TRANSFER, "--baseline", "scratch,fine-tunning"),
        parts=(
            '"fine-tunning" is not one of head, bitfit, lora, low-rank, prompt+low-rank, fine-tuning',
            'Did you mean "fine-tuning"?',
        ),
    ),
    Case(
        topic="Command line",
        what="An unknown method",
        command=(*PRETRAIN, "--set", "method=low_rank"),
        parts=('"low_rank" is not one of prompt, head, bitfit, lora', 'Did you mean "low-rank"?'),
    ),
    Case(
        topic="Command line",
        what="Low-rank updates under two names",
        command=(*PRETRAIN, "--set", "low_rank.rank=4", "--set", "lora.alpha=8"),
        parts=("lora: is low_rank by another name. Keep one of them",),
    ),
    Case(
        topic="Command line",
        what="A head of an unknown task",
        command=(*TRANSFER, "--head", "from:peopel"),
        parts=("head from:peopel: no such task", "people, places, words", 'Did you mean "people"?'),
    ),
    Case(
        topic="Command line",
        what="A head of a task with other labels",
        command=(*TRANSFER, "--head", "from:people"),
        parts=('does not fit task "firms": labels differ', "B-ORG", "--head by-label"),
    ),
    Case(
        topic="Configuration",
        what="A configuration that does not exist",
        command=("pretrain", "--config", "rum.yaml", "--out", "new"),
        parts=("rum.yaml: configuration not found", 'Did you mean "run.yaml"?'),
    ),
    Case(
        topic="Configuration",
        what="An unknown key and a wrong type, both told",
        change=lambda: (
            replace_once(Path("run.yaml"), "length: 4", "lenght: 4"),
            replace_once(Path("run.yaml"), "steps: 4,", "steps: four,"),
        ),
        parts=(
            'run.yaml:3:10: prompt.lenght: unknown key. Did you mean "length"?',
            'run.yaml:5:19: training.steps: expected a whole number, got "four"',
        ),
    ),
    Case(
        topic="Configuration",
        what="An unknown key on the command line",
        command=(*PRETRAIN, "--set", "optimizer.warm_up=3"),
        parts=("--set optimizer.warm_up: unknown key", "warmup_steps"),
    ),
    Case(
        topic="Configuration",
        what="A key that occurs twice",
        change=lambda: replace_once(Path("run.yaml"), "prompt:", "training: {steps: 9}\nprompt:"),
        parts=("training: defined twice, first at run.yaml:", "Keep one"),
    ),
    Case(
        topic="Configuration",
        what="A warm-up longer than the run",
        command=(*PRETRAIN, "--set", "optimizer.warmup_steps=4"),
        parts=("optimizer.warmup_steps: 4 is not below training.steps (4)",),
    ),
    Case(
        topic="Configuration",
        what="Prompted layers that the backbone does not have",
        command=(*PRETRAIN, "--set", "prompt.layers=3"),
        parts=("prompt.layers: 3 over a backbone of 2 layers", "up to 2"),
    ),
    Case(
        topic="Configuration",
        what="A selection by an unknown task",
        command=(*PRETRAIN, "--set", "evaluation.select_by=peple"),
        parts=('evaluation.select_by: "peple"', 'Did you mean "people"?'),
    ),
    Case(
        topic="Manifest",
        what="An unknown key",
        change=lambda: edit(lambda tasks: tasks["people"].update(lables=["PER"])),
        parts=("data/mixture.yaml:", 'tasks.people.lables: unknown key. Did you mean "labels"?'),
    ),
    Case(
        topic="Manifest",
        what="A key that occurs twice",
        change=lambda: replace_once(MIXTURE, '"name": "source",', '"name": "source",\n "name": "again",'),
        parts=("data/mixture.yaml:4:2: name: defined twice, first at data/mixture.yaml:3:2",),
    ),
    Case(
        topic="Manifest",
        what="A data file that does not exist",
        change=lambda: TRAIN.rename("data/people/trian.txt"),
        parts=('tasks.people.files.train: "people/train.txt" not found', "people/trian.txt"),
    ),
    Case(
        topic="Manifest",
        what="A task that the manifest does not have",
        command=(*PRETRAIN, "--set", "tasks=[peple]"),
        parts=('no task "peple". It has: people, places, words. Did you mean "people"?',),
    ),
    Case(
        topic="Data",
        what="A column that is missing",
        change=lambda: replace_once(TRAIN, "Ada B-PER", "Ada"),
        parts=("data/people/train.txt:2: line has 1 column, columns.tag asks for index 1", 'Line: "Ada"'),
    ),
    Case(
        topic="Data",
        what="A tag that the scheme does not know",
        change=lambda: replace_once(TRAIN, "Ada B-PER", "Ada PER"),
        parts=('data/people/train.txt:2: tag "PER" is not one of iob2, which knows O, B-TYPE, I-TYPE',),
    ),
    Case(
        topic="Data",
        what="A tag that cannot follow the one before",
        change=lambda: replace_once(TRAIN, "Ada B-PER", "Ada I-LOC"),
        parts=('data/people/train.txt:2: "I-LOC" follows "O": iob2 expects "B-LOC"', "set repair"),
    ),
    Case(
        topic="Data",
        what="A label in dev that train does not have",
        change=lambda: replace_once(DEV, "Ada B-PER", "Ada B-NEW"),
        parts=('data/people/dev.txt:5: label "NEW" (1x in dev, first here)', "write labels: [PER, NEW]"),
    ),
    Case(
        topic="Data",
        what="Bytes that are not UTF-8",
        change=insert_byte,
        parts=("data/people/train.txt:4:1: byte 0xff (offset 20) is not utf-8", "encoding: latin-1"),
    ),
    Case(
        topic="Data",
        what="An empty file",
        change=lambda: TRAIN.write_bytes(b""),
        parts=("data/people/train.txt: the file is empty", "at least one sentence"),
    ),
    Case(
        topic="Data",
        what="A word without word pieces, with no_piece: error",
        change=lambda: (
            edit(lambda tasks: tasks["people"].update(no_piece="error")),
            replace_once(TRAIN, "Ada B-PER", "\u200b O"),
        ),
        parts=("data/people/train.txt:2", "no word piece", "set no_piece: unknown"),
    ),
    Case(
        topic="Data",
        what="A sentence that is too long, with long: error",
        change=lambda: (edit(lambda tasks: tasks["people"].update(long="error")), long_sentence()),
        parts=("data/people/train.txt:1 (40 words, 160 word pieces)", "62 word pieces", "set long: window"),
    ),
    Case(
        topic="Data",
        what="A file to tag that does not exist",
        command=("predict", "run", "data/people/tset.txt", "--out", "new", "--task", "people"),
        parts=("data/people/tset.txt: no such file", 'Did you mean "test.txt"?'),
    ),
    Case(
        topic="Data",
        what="An answer that is not at its offset, and a question without an answer",
        change=lambda: write_qa(asked("q1", "Where?", ("Lund", 15)), asked("q2", "When?", is_impossible=True)),
        command=(*PRETRAIN, "--set", "manifest=qa.yaml"),
        parts=(
            'data/qa.json:10: data[0].paragraphs[0].qas[0] (id "q1"): answers[0]',
            "The offset counts bytes of UTF-8",
            "Set no_answer: true",
        ),
    ),
    Case(
        topic="Data",
        what="An answer of ReCoRD whose end is not its last character, and an idx that is no number",
        change=lambda: write_record(
            {"idx": 0, "query": "@placeholder", "answers": [{"text": "Lund", "start": 14, "end": 18}]},
            record.query("1", "@placeholder", ("Lund", 14)),
        ),
        command=(*PRETRAIN, "--set", "manifest=record.yaml"),
        parts=(
            "data/record.jsonl:1: qas[0] (idx 0): answers[0]: end must be 17",
            'data/record.jsonl:1: qas[1] (idx "1"): idx must be a whole number',
        ),
    ),
    Case(
        topic="Data",
        what="Ids that occur twice",
        change=lambda: write_qa(asked("q1", "Where?", ("Lund", 14)), asked("q1", "Who?", ("Z\u00fcrich", 0))),
        command=(*PRETRAIN, "--set", "manifest=qa.yaml"),
        parts=("the id is that of data[0].paragraphs[0].qas[0]", "Ids name predictions"),
    ),
    Case(
        topic="Whole texts and choices",
        what="A row of CSV with too many columns, and a text that is empty",
        change=lambda: texts("csv", "text,label\nAda came,person\nto Kiev, then,place\n ,place\n"),
        parts=("data/texts.txt:3: 3 columns, the header line has 2 (text, label)", "data/texts.txt:4: text is empty"),
    ),
    Case(
        topic="Whole texts and choices",
        what="A label of a text in dev that train does not have",
        change=lambda: texts("csv", "text,label\nAda,person\n", dev="text,label\nSony,firm\n"),
        parts=('data/texts.txt.dev:2: label "firm" (1x in dev, first here)', "write labels: [person, firm]"),
    ),
    Case(
        topic="Whole texts and choices",
        what="A right choice that there is not, and a question with one choice",
        change=lambda: texts(
            "jsonl",
            '{"text": "who", "choices": ["Ada", "Kiev"], "label": 2}\n'
            '{"text": "who", "choices": ["Ada"], "label": 0}\n',
            family="choice",
        ),
        parts=(
            'data/texts.txt:1: label must be the number of a choice, 0 to 1, got "2"',
            "data/texts.txt:2: 1 choice; a question needs at least two",
        ),
    ),
    Case(
        topic="Whole texts and choices",
        what="Lists of examples in a line that are missing, empty or hold no objects",
        change=lambda: texts(
            "jsonl",
            '{"asked": [{"answers": [{"text": "Ada", "label": 1}, "Bob"]}, {"answers": []}, {"replies": []}]}\n',
            each="asked.answers",
            fields={"text": "asked.answers.text", "label": "asked.answers.label"},
        ),
        parts=(
            "data/texts.txt:1: asked[0].answers[1] must be an object",
            "data/texts.txt:1: asked[1].answers is an empty list, which gives no example",
            'data/texts.txt:1: asked[2]: no field "answers" among replies',
        ),
    ),
    Case(
        topic="Whole texts and choices",
        what="The F1 of a label that the task does not have",
        change=lambda: texts("csv", "text,label\na,spam\nb,ham\n", score="f1", positive="spma"),
        parts=('tasks.texts.positive: "spma" is not one of the 2 labels: spam, ham. Did you mean "spam"?',),
    ),
    Case(
        topic="Whole texts and choices",
        what="Texts put together from a field that there is not, or from one inside of what is no object",
        change=lambda: texts(
            "jsonl",
            '{"wrd": "bank", "label": "x", "target": {"a": "b"}}\n{"word": "bank", "label": "x", "target": "b"}\n',
            fields={"text": "{word}: {target.a}"},
        ),
        parts=(
            'data/texts.txt:1: no field "word" among wrd, label, target. Did you mean "wrd"?',
            "data/texts.txt:2: target must be an object with a field a, got",
        ),
    ),
    Case(
        topic="Whole texts and choices",
        what="A brace that is not closed",
        change=lambda: texts("jsonl", '{"word": "a", "label": "x"}\n', fields={"text": "{word: it"}),
        parts=('tasks.texts.fields.text: "{word: it" has a brace without its partner', "Write names as {name}"),
    ),
    Case(
        topic="Whole texts and choices",
        what="Plain lines without a label for their file",
        change=lambda: texts("text", "Ada came\n"),
        parts=("tasks.texts.label_of: is required", "{reviews.pos: positive}"),
    ),
    Case(
        topic="Whole texts and choices",
        what="Fields that have no meaning for whole texts",
        change=lambda: texts("csv", "text,label\na,b\n", scheme="iob2", long="window"),
        parts=(
            "tasks.texts.scheme: has no meaning in family classification",
            "tasks.texts.long: window has no meaning in family classification. Use cut or error",
        ),
    ),
    Case(
        topic="Whole texts and choices",
        what="A verbalizer that lacks a label, and a template without a gap",
        change=lambda: texts(
            "csv", "text,label\na,x\n", labels=["x", "y"], verbalizer={"x": "good"}, template="{text} is {msk}"
        ),
        parts=(
            "tasks.texts.verbalizer: needs one word for each of labels (without a word: y; not in labels: none)",
            'holds {msk}, which is none of {text}, {mask}. Did you mean "{mask}"?',
        ),
    ),
    Case(
        topic="Whole texts and choices",
        what="A verbalizer for a backbone that cannot fill gaps",
        change=lambda: texts("csv", "text,label\na,x\n", verbalizer={"x": "good"}),
        parts=('task "texts": verbalizer needs a backbone with a mask piece', "Choose a masked language model"),
    ),
    Case(
        topic="Whole texts and choices",
        what="Words that the backbone does not know as one piece",
        change=lambda: (
            tiny_backbone(Path("masked"), "bert", masked=True),
            texts("csv", "text,label\na,x\nb,y\n", verbalizer={"x": "lower", "y": "doctors"}),
        ),
        command=(*PRETRAIN, "--set", "backbone.reference=./masked"),
        parts=(
            'task "texts": verbalizer.x: the backbone\'s tokenizer must know "lower" as one piece, got 2: low, ##er',
            "verbalizer.y",
            "Give another word",
        ),
    ),
    Case(
        topic="Predicates and their arguments",
        what="Arguments inside an argument",
        change=lambda: predicates("Ada - (A0*\nsaw see (V*)\nBob - *)\n\n" + PROPS.replace("(A1*)", "(A1(A2*))")),
        parts=(
            'data/props.train:2: column 2: "(V*)", yet (A0 of line 1 is open; arguments neither overlap nor nest',
            'data/props.train:7: column 2: "(A1(A2*))" is none of *, (ROLE*, *) and (ROLE*)',
        ),
    ),
    Case(
        topic="Predicates and their arguments",
        what="An argument that is not closed, and one that was not opened",
        change=lambda: predicates(PROPS.replace("(A1*)", "(A1*") + "\n" + PROPS.replace("(A0*)", "*)")),
        parts=(
            "data/props.train:3: column 2: (A1 is not closed in its sentence",
            'data/props.train:5: column 2: "*)" closes what was not opened',
        ),
    ),
    Case(
        topic="Predicates and their arguments",
        what="Fewer columns than predicates",
        change=lambda: predicates(PROPS.replace("Bob -", "Bob bob")),
        parts=("data/props.train:1: 1 columns of arguments (from index 2) for 2 predicates", 'than "-" in column 1'),
    ),
    Case(
        topic="Predicates and their arguments",
        what="A predicate without its V, and one outside of it",
        change=lambda: predicates(
            PROPS.replace("(V*)", "*") + "\n" + PROPS.replace("(V*)", "(A1*)").replace("Bob - (A1*)", "Bob - (V*)")
        ),
        parts=(
            'data/props.train:2: the predicate "saw" has 0 spans V among its arguments; it needs one',
            'data/props.train:6: the predicate "saw" is not inside its V, which is "Bob"',
        ),
    ),
    Case(
        topic="Predicates and their arguments",
        what="A role in dev that train does not have",
        change=lambda: predicates(PROPS.replace("A0", "A2")),
        parts=('data/props.dev:1: label "A0" (1x in dev, first here)', "to keep them write labels: ["),
    ),
    Case(
        topic="Predicates and their arguments",
        what="A predicate outside its sentence, in JSON lines",
        change=lambda: predicates(
            '{"tokens": ["Ada", "saw"], "tags": ["O", "B-V"], "predicate": 2}\n',
            format="jsonl",
            scheme="iob2",
            columns=None,
        ),
        parts=('props.train:1: predicate must be the number of a word, 0 to 1, or null, got "2"',),
    ),
    Case(
        topic="Predicates and their arguments",
        what="Columns that are not declared",
        change=lambda: predicates(PROPS, columns={"word": 0}),
        parts=("tasks.props.columns: is required, for example columns: {word: 1, predicate: 4, arguments: 6}",),
    ),
    Case(
        topic="Predicates and their arguments",
        what="A predicate marked by its segment, which the backbone has not",
        change=lambda: (write_bert(Path("single"), type_vocab_size=1), predicates(PROPS, predicate="segment")),
        command=(*PRETRAIN, "--set", "backbone.reference=single"),
        parts=("predicate: segment marks the predicate by its segment", "this backbone has 1. Set predicate: suffix"),
    ),
    Case(
        topic="Backbone",
        what="A folder that does not exist",
        command=(*PRETRAIN, "--set", "backbone.reference=./bakbone"),
        parts=('backbone "./bakbone": no such folder', "package:NAME/FOLDER"),
    ),
    Case(
        topic="Backbone",
        what="Dropout in a backbone that has none",
        change=lambda: tiny_backbone(Path("decoder"), "llama"),
        command=(*PRETRAIN, "--set", "backbone.reference=./decoder", "--set", "training.backbone_dropout=0.1"),
        parts=("training.backbone_dropout: LlamaModel (./decoder) has no dropout", "Set it to 0"),
    ),
    Case(
        topic="Backbone",
        what="A hub id without its commit",
        command=(*PRETRAIN, "--set", "backbone.reference=google-bert/bert-base-cased"),
        parts=('backbone "google-bert/bert-base-cased"', "backbone.revision", "40-character commit hash"),
    ),
    Case(
        topic="Backbone",
        what="A package that is not installed",
        command=(*PRETRAIN, "--set", "backbone.reference=package:nowhere/model"),
        parts=('no Python package "nowhere" is installed', "pip install"),
    ),
    Case(
        topic="Backbone",
        what="A backbone that would ignore prompts",
        change=lambda: tiny_model(Path("deaf"), "mpnet"),
        command=(*PRETRAIN, "--set", "backbone.reference=deaf"),
        parts=("prompts would be ignored", "BERT, RoBERTa"),
    ),
    Case(
        topic="Backbone",
        what="A backbone whose attention changes scores in a way of its own",
        change=lambda: tiny_model(Path("capped"), "gemma2", head_dim=8, num_key_value_heads=2),
        command=(*PRETRAIN, "--set", "backbone.reference=capped"),
        parts=("uses attention with softcap", "BERT, RoBERTa"),
    ),
    Case(
        topic="Backbone",
        what="An encoder-decoder",
        change=lambda: tiny_model(Path("pair"), "t5", d_model=32, d_kv=8, d_ff=64, num_layers=1, num_heads=4),
        command=(*PRETRAIN, "--set", "backbone.reference=pair"),
        parts=("t5 is an encoder-decoder", "BERT, RoBERTa"),
    ),
    Case(
        topic="Backbone",
        what="A prompt that leaves no room, with shifted positions",
        command=(*PRETRAIN, "--set", "backbone.positions=shifted", "--set", "prompt.length=40"),
        parts=("only 22 word pieces of text fit beside the prompt", "positions: unshifted"),
    ),
    Case(
        topic="Checkpoints",
        what="A damaged checkpoint",
        change=lambda: flip_bit(Path("run/checkpoints/step-00000004/heads.safetensors")),
        command=RESUME,
        parts=("step-00000004: the checkpoint is damaged: heads.safetensors", "(step-00000002)"),
    ),
    Case(
        topic="Checkpoints",
        what="A run of an earlier mpt",
        change=lambda: [as_format_1(path) for path in Path("run/checkpoints").iterdir()],
        command=EVALUATE,
        parts=("format version 1, this mpt knows 2. Use the mpt that wrote it, or train again",),
    ),
    Case(
        topic="Checkpoints",
        what="Resuming one of a transfer's runs",
        change=lambda: without_moments(Path("run/checkpoints/step-00000004")),
        command=RESUME,
        parts=("holds no moments of the optimizer", "Resume the transfer or comparison as a whole (--resume auto)"),
    ),
    Case(
        topic="Checkpoints",
        what="Resuming with another prompt length",
        command=(*RESUME, "--set", "prompt.length=5"),
        parts=("prompt.length: checkpoint 4, now 5", "start a new run"),
    ),
    Case(
        topic="Checkpoints",
        what="A prompt of another backbone",
        change=lambda: write_bert(Path("other"), seed=1),
        command=(*TRANSFER, "--backbone", "other"),
        parts=("backbone.weights_sha256: checkpoint '", "now '", "--backbone"),
    ),
    Case(
        topic="Checkpoints",
        what="A backbone that is gone",
        change=lambda: Path("backbone").rename("moved"),
        command=PREDICT,
        parts=('backbone "backbone"', "--backbone"),
    ),
    Case(
        topic="Checkpoints",
        what="Another label map",
        change=lambda: edit(lambda tasks: tasks["people"].update(label_map={"PER": "person"})),
        command=EVALUATE,
        parts=(
            'task "people": the label map differs',
            "checkpoint ['O', 'B-PER', 'I-PER'], now ['O', 'B-person', 'I-person']",
        ),
    ),
    Case(
        topic="Streams",
        what="A streamed task without labels and dev files",
        change=lambda: edit(
            lambda tasks: (tasks["people"].update(streamed=True, dev_fraction=0.1), tasks["people"]["files"].pop("dev"))
        ),
        parts=("tasks.people.labels: list them", "tasks.people.dev_fraction: a streamed task is never held whole"),
    ),
    Case(
        topic="Streams",
        what="A Parquet file without the column of words",
        change=lambda: write_parquet(token=[["Ada"]], tags=[["B-PER"]]),
        parts=('people/train.parquet: no field "tokens" among token, tags', 'Did you mean "token"?'),
    ),
    Case(
        topic="Streams",
        what="Rows of a Parquet file that hold something else",
        change=lambda: write_parquet(tokens=[["Ada"], ["Bob", "in"], []], tags=[["B-PER"], ["B-PER"], []]),
        parts=("train.parquet:2: tokens has 2 items, tags has 1", "train.parquet:3: tokens is empty"),
    ),
    Case(
        topic="Streams",
        what="Numbers of tags instead of their names",
        change=lambda: write_parquet(tokens=[["Ada"]], tags=[[1]]),
        parts=("train.parquet:1: tags[0] must be a string, got", "names of the tags"),
    ),
    Case(
        topic="Streams",
        what="A file that is no Parquet",
        change=lambda: (
            write_parquet(tokens=[["Ada"]], tags=[["B-PER"]]),
            TRAIN.with_suffix(".parquet").write_text("tokens,tags"),
        ),
        parts=("train.parquet: cannot be read as Parquet",),
    ),
    Case(
        topic="PEFT",
        what="A prompt that PEFT cannot express",
        command=EXPORT,
        parts=("PEFT cannot express this prompt", "unshifted", "backbone.positions=shifted"),
    ),
    Case(
        topic="PEFT",
        what="A folder that is no adapter",
        change=lambda: Path("adapter").mkdir(),
        command=IMPORT,
        parts=("adapter: no adapter_config.json here", "Give a folder that PEFT saved"),
    ),
    Case(
        topic="PEFT",
        what="An adapter of another method",
        change=lambda: write_adapter(peft_type="IA3", task_type="SEQ_CLS"),
        command=IMPORT,
        parts=("peft_type: expected PREFIX_TUNING or LORA, got IA3", "task_type: expected TOKEN_CLS, got SEQ_CLS"),
    ),
    Case(
        topic="PEFT",
        what="LoRA with what mpt does not have",
        change=lambda: write_lora(use_dora=True, bias="all"),
        command=IMPORT,
        parts=("use_dora: expected false, got True", "bias: expected none, got all", "merge_and_unload"),
    ),
    Case(
        topic="PEFT",
        what="LoRA of a layer that the backbone does not have",
        change=lambda: write_lora("encoder.layer.7.attention.self.query"),
        command=IMPORT,
        parts=("linear layer encoder.layer.7.attention.self.query: the adapter has 32 to 32, backbone", "--backbone"),
    ),
    Case(
        topic="PEFT",
        what="Sizes that contradict the weights",
        change=lambda: write_adapter(num_virtual_tokens=8),
        command=IMPORT,
        parts=("prompt_embeddings has shape (4, 128), expected (8, 128)", "save the adapter again"),
    ),
    Case(
        topic="PEFT",
        what="A head whose labels are not known",
        change=write_adapter,
        command=IMPORT,
        parts=("the names of the head's 3 rows are not in it", "--labels, for example O,B-PER,I-PER"),
    ),
    Case(
        topic="PEFT",
        what="A head with other labels than the task's",
        change=lambda: write_adapter(labels=("O", "B-ORG", "I-ORG")),
        command=IMPORT,
        parts=('does not fit task "people"', "named O, B-ORG, I-ORG; the manifest has O, B-PER, I-PER"),
    ),
    Case(
        topic="PEFT",
        what="An adapter of another model",
        change=lambda: (write_adapter(labels=("O", "B-PER", "I-PER")), write_bert(Path("wide"), hidden_size=64)),
        command=(*IMPORT, "--backbone", "wide"),
        parts=("values of a virtual token: the adapter has 128, backbone", "256", "--backbone"),
    ),
    Case(
        topic="Merged backbones",
        what="A prompt that weights cannot express",
        command=(*EXPORT[:3], "--format", "backbone"),
        parts=("a task state of prompt cannot be merged into weights", "expected low_rank or weights alone"),
    ),
    Case(
        topic="Merged backbones",
        what="A task for a backbone",
        command=(*EXPORT, "--format", "backbone"),
        parts=("--task people: a backbone has no head", "Leave --task out"),
    ),
)


def call(*arguments):
    """Run mpt in this process: (exit status, what it printed, what it said on stderr)."""
    from mpt.cli import main

    out, err = StringIO(), StringIO()
    before, sys.argv = sys.argv, ["mpt", *arguments]
    try:
        with redirect_stdout(out), redirect_stderr(err):
            main()
        status = 0
    except SystemExit as end:
        status = end.code or 0
    finally:
        sys.argv = before
    return status, out.getvalue(), err.getvalue()


def shown(message):
    """A message as the page shows it: no folders above the current one, no digests, no space at the end."""
    message = message.replace(f"{Path.cwd()}/", "")
    message = re.sub(r"[0-9a-f]{64}", "SHA-256", message)
    return "\n".join(line.rstrip() for line in message.strip().splitlines())


def page(messages):
    """The whole of docs/errors.md from the messages by `Case.what`."""
    text, topic = PAGE, None
    for case in CASES:
        if case.topic != topic:
            topic = case.topic
            text += f"\n## {topic}\n"
        command = " ".join(case.command)
        text += f"\n### {case.what}\n\n```text\n$ mpt {command}\n{messages[case.topic, case.what]}\n```\n"
    return text


def prepare(source, folder):
    """A folder to break, as `Case.change` expects it."""
    shutil.copytree(source, folder, dirs_exist_ok=True)


def write_sound(folder, tasks, backbone):
    """What every case starts from; must be called with `folder` as the current one."""
    shutil.copytree(tasks, folder / "data")
    shutil.copytree(backbone, folder / "backbone")
    (folder / "run.yaml").write_text(CONFIG)
    status, _, err = call("pretrain", "--config", "run.yaml", "--out", "run")
    assert status == 0, err


def main():
    """Print the page."""
    import os
    from tempfile import TemporaryDirectory

    from common.runs import write_tasks

    os.environ["DS_ACCELERATOR"] = "cpu"  # or DeepSpeed looks for one, and says on the page that it has found none
    messages = {}
    with TemporaryDirectory() as name:
        root = Path(name)
        write_tasks(root / "tasks")
        write_bert(root / "bert")
        (root / "sound").mkdir()
        os.chdir(root / "sound")
        write_sound(root / "sound", root / "tasks", root / "bert")
        for number, case in enumerate(CASES):
            folder = root / f"case-{number}"
            prepare(root / "sound", folder)
            os.chdir(folder)
            case.change()
            status, _, err = call(*case.command)
            assert status == 2, (case, err)
            messages[case.topic, case.what] = shown(err)
        os.chdir("/")
    print(page(messages), end="")


if __name__ == "__main__":
    main()
