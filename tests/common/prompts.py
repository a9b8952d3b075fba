"""Random task states and texts for a loaded backbone."""

from dataclasses import replace

import torch

from mpt.data.order.batch import Batch, RowGroup
from mpt.model.heads import TokenHead
from mpt.model.scorer import Scorer
from mpt.model.state.bank import TaskState
from mpt.model.state.low_rank import fresh_low_rank
from mpt.model.state.prompt import Prompt, PromptShape

LABELS = ("O", "B-X", "I-X", "B-Y", "I-Y")


def shape_of(backbone, length, layers=None):
    """A prompt's shape; all layers unless told."""
    return PromptShape(
        num_layers=backbone.num_layers,
        layers=tuple(range(backbone.num_layers)) if layers is None else layers,
        num_heads=backbone.num_key_value_heads,
        length=length,
        head_dim=backbone.head_dim,
    )


def random_prompt(backbone, length, layers=None, *, seed=0, dropout=0.0):
    """A prompt of N(0, 1)."""
    generator = seed if isinstance(seed, torch.Generator) else torch.Generator().manual_seed(seed)
    shape = shape_of(backbone, length, layers)
    return Prompt(torch.randn(shape.tensor_shape, generator=generator), shape, dropout=dropout)


def random_low_rank(backbone, rank, *, alpha=None, targets="all", layers=None, seed=0):
    """Updates of a quarter of the size of what they are added to, unless alpha is told."""
    layers = range(backbone.num_layers) if layers is None else layers
    alpha = rank / 4 if alpha is None else alpha
    part = fresh_low_rank(backbone, rank=rank, alpha=alpha, targets=targets, layers=list(layers), seed=seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for value in part.parameters():
            value.copy_(torch.randn(value.shape, generator=generator) / value.shape[1] ** 0.5)
    return part


def random_states(backbone, *slots, seed=0, dropout=0.0):
    """A state of one N(0, 1) prompt for each slot, which is a length, or (length, layers)."""
    generator = torch.Generator().manual_seed(seed)
    shapes = [slot if isinstance(slot, tuple) else (slot,) for slot in slots]
    return [TaskState([random_prompt(backbone, *shape, seed=generator, dropout=dropout)]) for shape in shapes]


def random_batch(backbone, *lengths, seed=0, tasks=("t",)):
    """A row of random pieces for each length, every piece a word with a random label, all rows in slot 0."""
    generator = torch.Generator().manual_seed(seed)
    vocabulary = backbone.word_pieces.tokenizer.get_vocab_size()
    ids = torch.full((len(lengths), max(lengths)), backbone.word_pieces.pad)
    mask = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    ids[mask] = torch.randint(10, vocabulary, (sum(lengths),), generator=generator)
    return Batch(
        input_ids_BS=ids,
        attention_mask_BS=None if bool(mask.all()) else mask,
        words_M=mask.flatten().nonzero().flatten(),
        labels_M=torch.randint(0, len(LABELS), (sum(lengths),), generator=generator),
        rows=(RowGroup(slot=0, tasks=tuple(tasks), rows=len(lengths), words=sum(lengths)),),
    )


def row_numbers(batch):
    """Row of each word."""
    return batch.words_M // batch.input_ids_BS.shape[1]


def rows_of(batch, *rows):
    """Some rows of a batch, cut to the longest of them, in the first row's slot."""
    lengths = [int((row_numbers(batch) == row).sum()) for row in rows]
    mask = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    (first, *_) = batch.rows
    return Batch(
        input_ids_BS=batch.input_ids_BS[list(rows), : max(lengths)],
        attention_mask_BS=None if bool(mask.all()) else mask,
        words_M=mask.flatten().nonzero().flatten(),
        labels_M=None,
        rows=(replace(first, rows=len(rows), words=sum(lengths)),),
    )


def in_slots(batch, slots, tasks=("t",)):
    """The same batch with a slot for each row."""
    counts = torch.bincount(row_numbers(batch), minlength=len(slots)).tolist()
    groups = (RowGroup(slot=slot, tasks=tuple(tasks), rows=1, words=n) for slot, n in zip(slots, counts, strict=True))
    return replace(batch, rows=tuple(groups))


def scorer_of(backbone, *states, task="t", dropout=0.0, **options):
    """A scorer of these states, or of a bare one, which share one head."""
    head = TokenHead(backbone.hidden_size, LABELS, seed=0, task=task, dropout=dropout)
    first, *others = states or [TaskState()]
    scorer = Scorer(backbone, first, {task: head}, **options)
    for state in others:
        scorer.add(state, {task: head})
    return scorer


def scores_of(scorer, batch, generator=None):
    """Label scores of all words of a batch whose rows have one task each."""
    return torch.cat(scorer(batch, generator))


def states_by_row(scorer, batch, slots=None):
    """Hidden states of every row's words, without gradient; all rows in slot 0 unless told."""
    with torch.no_grad():
        states = scorer.word_states(batch if slots is None else in_slots(batch, slots))
    return [states[row_numbers(batch) == row] for row in range(len(batch.input_ids_BS))]
