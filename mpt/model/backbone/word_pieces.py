"""The tokenizer that belongs to a backbone: read from its files, and what it puts around a text found out."""

from pathlib import Path
from typing import Any

from transformers import AutoTokenizer

from mpt.base.errors import BackboneError, first_line
from mpt.data.families.tokenization import WordPieces

SMALLEST_WINDOW = 32
VOCABULARIES = (("tokenizer.json",), ("vocab.txt",), ("vocab.json", "merges.txt"), ("*.model",))


def load_word_pieces(
    folder: Path, *, reference: str, room: int, causal: bool, segments: int, mean: bool = False
) -> WordPieces:
    """The tokenizer of a backbone, ready for words.

    Args:
        folder: Holds the tokenizer's files.
        reference: What the user calls the backbone, for messages.
        room: Positions of a window, special pieces included.
        causal: A piece sees only those before it, so that a word's last piece is the one that has seen the word.
        segments: Segments (token types) that the backbone tells apart; 0 for none.
        mean: The mean of a word's pieces stands for it, not one of them.

    Raises:
        BackboneError: There is no vocabulary, it is damaged, has no fast tokenizer, or leaves too little room for text.
    """
    # Without its vocabulary transformers makes a tokenizer that knows nothing, and says nothing.
    if not any(all(any(folder.glob(name)) for name in names) for names in VOCABULARIES):
        raise BackboneError(
            f'backbone "{reference}": {folder} holds no vocabulary, expected tokenizer.json (or vocab.txt, a .model '
            "file, or vocab.json with merges.txt). Get the tokenizer's files too"
        )
    try:
        tokenizer: Any = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    except Exception as error:  # tokenizers raises Exception itself, and transformers what a damaged file leads to
        raise BackboneError(
            f'backbone "{reference}": its tokenizer cannot be read: {first_line(error)}. Get its files again'
        ) from error
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise BackboneError(f'backbone "{reference}": it has no fast tokenizer (tokenizer.json), which mpt needs')
    backend.no_truncation()
    backend.no_padding()
    backend.encode_special_tokens = True  # "[SEP]" in a user's text is text
    text = backend.encode("a", add_special_tokens=False).ids
    whole = backend.encode("a").ids
    start = next(i for i in range(len(whole)) if whole[i : i + len(text)] == text)
    prefix, suffix = tuple(whole[:start]), tuple(whole[start + len(text) :])
    between, segment = _between(backend, text, prefix, suffix)
    room -= len(prefix) + len(suffix)
    require_room(reference, room)
    return WordPieces(
        tokenizer=backend,
        prefix=prefix,
        suffix=suffix,
        between=between,
        second_segment=min(segment, max(segments - 1, 0)),
        segments=segments,
        unknown=tokenizer.unk_token_id,
        pad=tokenizer.pad_token_id if tokenizer.pad_token_id is not None else 0,
        mask=tokenizer.mask_token_id,
        room=room,
        # Byte-level BPE marks a word's start by the space before it, which a split text lacks. Its own option for that
        # (add_prefix_space) is not everywhere obeyed, and puts spaces inside of words ("Don 't") elsewhere.
        before_word="" if _words_are_alike(backend) else " ",
        last_piece=causal,
        mean=mean,
    )


def require_room(reference: str, room: int) -> None:
    """Refuse a prompt that leaves too few positions to the text.

    Raises:
        BackboneError: Fewer than `SMALLEST_WINDOW`.
    """
    if room < SMALLEST_WINDOW:
        raise BackboneError(
            f'backbone "{reference}": only {room} word pieces of text fit beside the prompt and special pieces, fewer '
            f"than {SMALLEST_WINDOW}. Use a shorter prompt, or positions: unshifted, where prompts take no positions"
        )


def _between(
    backend: Any, text: list[int], prefix: tuple[int, ...], suffix: tuple[int, ...]
) -> tuple[tuple[int, ...], int]:
    """(special pieces between the texts of a pair, segment of the second text)."""
    pair = backend.encode("a", "a")
    first, second = [i for i in range(len(pair.ids)) if pair.ids[i : i + len(text)] == text][:2]
    framed = pair.ids[:first] == list(prefix) and pair.ids[second + len(text) :] == list(suffix)
    # A tokenizer without a rule for pairs: the first text is closed as one alone is.
    between = tuple(pair.ids[first + len(text) : second]) if framed else suffix
    return between, pair.type_ids[second]


def _words_are_alike(backend: Any) -> bool:
    """Whether a word has the same pieces as first and as second word of a split text, and those of running text."""
    pieces = backend.encode(["low", "low"], is_pretokenized=True, add_special_tokens=False).ids
    running = backend.encode("low low", add_special_tokens=False).ids
    half = len(pieces) // 2
    return pieces[:half] == pieces[half:] and pieces[half:] == running[len(running) - half :]
