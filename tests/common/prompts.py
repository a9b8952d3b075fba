"""Random prompts and texts for a loaded backbone."""

import torch

from mpt.data.order.batch import Batch
from mpt.model.heads import TokenHead
from mpt.model.scorer import Tagger
from mpt.model.state.bank import PromptBank, PromptShape

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


def random_bank(backbone, *slots, seed=0, dropout=0.0):
    """A bank of N(0, 1) prompts: each slot a length, or (length, layers)."""
    generator = torch.Generator().manual_seed(seed)
    shapes = [shape_of(backbone, *(slot if isinstance(slot, tuple) else (slot,))) for slot in slots]
    prompts = [torch.randn(shape.tensor_shape, generator=generator) for shape in shapes]
    return PromptBank(prompts, shapes, dropout=dropout)


def random_batch(backbone, *lengths, seed=0):
    """A row of random pieces for each length, every piece a word with a random label."""
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
    )


def rows_of(batch, *rows):
    """Some rows of a batch, cut to the longest of them."""
    lengths = [int((batch.words_M // batch.input_ids_BS.shape[1] == row).sum()) for row in rows]
    mask = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    return Batch(
        input_ids_BS=batch.input_ids_BS[list(rows), : max(lengths)],
        attention_mask_BS=None if bool(mask.all()) else mask,
        words_M=mask.flatten().nonzero().flatten(),
        labels_M=None,
    )


def tagger_of(backbone, bank, *, task="t", dropout=0.0, **parts):
    """A tagger with one head."""
    head = TokenHead(backbone.hidden_size, LABELS, seed=0, task=task, dropout=dropout)
    return Tagger(backbone, bank, {task: head}, **parts)


def states_by_row(tagger, batch, slots=None):
    """Hidden states of every row's words, without gradient."""
    with torch.no_grad():
        states = tagger.word_states(batch, slots_B=None if slots is None else torch.tensor(slots))
    rows = batch.words_M // batch.input_ids_BS.shape[1]
    return [states[rows == row] for row in range(len(batch.input_ids_BS))]
