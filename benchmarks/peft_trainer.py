"""PEFT's prefix tuning and LoRA under transformers' Trainer, with the defaults of both, on the windows of mpt's arms.

What differs from a plain script costs it no time: windows and labels are mpt's, so that every arm sees the same word
pieces; they are held in memory as lists; no checkpoint is written and nothing is reported.
"""

from collections import deque
from itertools import pairwise
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from peft import (  # type: ignore[import-not-found]
    LoraConfig,
    PeftConfig,
    PeftModel,
    PrefixTuningConfig,
    TaskType,
    get_peft_model,
)
from torch import nn
from transformers import (
    AutoModelForTokenClassification,
    AutoTokenizer,
    DataCollatorForTokenClassification,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

from clock import StepClock, describe_machine, peak_memory_mib
from corpus import Corpus, read_corpus
from job import ALPHA, LONGEST_WINDOW, LOW_RANK_ARMS, RANK, WARM_UP, Answer, Job
from mpt.data.example import sentences_of
from mpt.data.families.decode import decode_many
from mpt.data.families.metrics import score
from mpt.data.families.tokenization import encode
from mpt.data.order.batch import collate, word_rows
from mpt.data.order.plan import length_groups
from mpt.data.windows import EncodedSplit
from mpt.evaluation.scoring import batch_tokens
from mpt.model.backbone.backbone import load_backbone
from mpt.model.backbone.identity import locate

IGNORED = -100  # label of a piece that is not scored, as torch's cross entropy has it

Feature = dict[str, list[int]]


class Clocked(TrainerCallback):
    """Ticks a clock at the end of every step.

    Args:
        clock: What to tick.
    """

    def __init__(self, clock: StepClock) -> None:
        self.clock = clock
        self.pieces: deque[int] = deque()
        """Real word pieces of the batches that were collated and not trained on yet."""

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Count a training step."""
        self.clock.tick(self.pieces.popleft(), last=state.global_step >= state.max_steps)


def train_peft(job: Job, device: torch.device) -> Answer:
    """Train a prefix in all layers, or low-rank updates of all linear layers, and measure it.

    Raises:
        MptError: Of the fitting class; see the modules called.
    """
    corpus, splits, pad = _encoded(job)
    features = features_of(splits["train"])
    epochs = max(1, round(job.pieces / corpus.pieces))
    clock = StepClock(pieces=epochs * corpus.pieces, warm_up=WARM_UP, device=device)
    torch.manual_seed(job.seed)
    model = new_model(job, num_labels=len(corpus.task.labels))
    with TemporaryDirectory() as folder:
        arguments = training_arguments(job, folder, epochs=epochs)
        _fit(model, features, arguments, job, Clocked(clock))
    peak = peak_memory_mib(device)
    return Answer(
        trained_pieces=clock.trained_pieces,
        timed_pieces=clock.timed_pieces,
        seconds=clock.seconds,
        peak_memory_mib=peak,
        trained_values=sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad),
        flops_per_piece=None,
        dev_f1=span_f1(model, corpus, splits["dev"], pad=pad, device=device) if job.score_dev else None,
        data=corpus.origin,
        machine=describe_machine(device),
    )


def _encoded(job: Job) -> tuple[Corpus, dict[str, EncodedSplit], int]:
    """The corpus, its windows by split, and the padding id. mpt's backbone is here for its tokenizer only."""
    word_pieces = load_backbone(job.backbone, longest_window=LONGEST_WINDOW).word_pieces
    corpus = read_corpus(word_pieces, pieces=job.pieces)
    splits = {
        str(name): encode(sentences_of(sentences), word_pieces, corpus.task.labels)[0]
        for name, sentences in corpus.task.splits.items()
    }
    return corpus, splits, word_pieces.pad


def features_of(split: EncodedSplit) -> list[Feature]:
    """Windows as the Trainer takes them: label ids at the pieces where words are scored, `IGNORED` elsewhere."""
    assert split.labels is not None, "training sentences have labels"
    features: list[Feature] = []
    for window in range(len(split)):
        pieces = split.pieces[slice(*split.piece_starts[window : window + 2])]
        words = slice(*split.word_starts[window : window + 2])
        labels = np.full(len(pieces), IGNORED)
        labels[split.positions[words]] = split.labels[words]
        features.append({"input_ids": pieces.tolist(), "attention_mask": [1] * len(pieces), "labels": labels.tolist()})
    return features


def new_model(job: Job, *, num_labels: int) -> PeftModel:
    """The backbone in float32 with a fresh head, and what the arm trains: a prefix in every layer, or LoRA."""
    model = AutoModelForTokenClassification.from_pretrained(
        locate(job.backbone, None), num_labels=num_labels, dtype=torch.float32, trust_remote_code=False
    )
    config: PeftConfig = PrefixTuningConfig(task_type=TaskType.TOKEN_CLS, num_virtual_tokens=job.prompt_length)
    if job.arm in LOW_RANK_ARMS:
        which = {"target_modules": "all-linear", "exclude_modules": ["classifier"]}  # the head is trained as it is
        config = LoraConfig(task_type=TaskType.TOKEN_CLS, r=RANK, lora_alpha=ALPHA, **which)
    peft_model = get_peft_model(model, config)
    assert isinstance(peft_model, PeftModel)
    return peft_model


def training_arguments(job: Job, folder: str, *, epochs: int) -> TrainingArguments:
    """The Trainer's defaults (batches of 8, AdamW, linear schedule), with what the arm is about."""
    return TrainingArguments(
        output_dir=folder,
        num_train_epochs=epochs,
        learning_rate=job.learning_rate,
        bf16="_bf16" in job.arm,
        seed=job.seed,
        use_cpu=job.device == "cpu",
        dataloader_pin_memory=job.device != "cpu",
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        train_sampling_strategy="group_by_length" if job.arm.endswith("_grouped") else "random",
    )


def _fit(model: PeftModel, features: list[Feature], arguments: TrainingArguments, job: Job, clocked: Clocked) -> None:
    """Train; batches are counted where they are collated, in the order in which they are trained on."""
    tokenizer = AutoTokenizer.from_pretrained(locate(job.backbone, None), trust_remote_code=False)
    pad_batch = DataCollatorForTokenClassification(tokenizer)

    def counted(rows: list[Feature]) -> dict[str, Any]:
        batch = pad_batch(rows)
        clocked.pieces.append(int(batch["attention_mask"].sum()))
        return batch

    trainer = Trainer(
        model=model,
        args=arguments,
        data_collator=counted,
        train_dataset=features,  # type: ignore[arg-type]
        callbacks=[clocked],
    )
    trainer.train()


def span_f1(model: nn.Module, corpus: Corpus, split: EncodedSplit, *, pad: int, device: torch.device) -> float:
    """Span F1 of the dev slice in [0, 1], decoded and scored as mpt's own."""
    labels = corpus.task.labels
    scores = np.zeros((len(split.positions), len(labels)), dtype=np.float32)
    model.eval()
    with torch.inference_mode():
        for windows in length_groups(split.window_pieces, tokens=batch_tokens(device)):
            batch = collate(split, windows, pad=pad).to(device)
            ids, mask = batch.input_ids_BS, batch.attention_mask_BS
            mask = torch.ones_like(ids) if mask is None else mask.long()
            logits = model(input_ids=ids, attention_mask=mask).logits
            scores[word_rows(split, windows)] = logits.flatten(0, 1)[batch.words_M].float().cpu().numpy()
    bounds = split.word_starts[split.windows_of]
    sentences = [scores[start:end] for start, end in pairwise(bounds.tolist())]
    gold = [sentence.tags or () for sentence in corpus.task.splits["dev"]]
    return score("span_f1", gold, decode_many(sentences, labels, True), labels).primary
