"""Tiny random backbones in the form in which real ones come: a folder with config, safetensors and tokenizer."""

from inspect import signature
from pathlib import Path

import pytest
import torch
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import (
    AlbertConfig,
    AutoConfig,
    AutoModel,
    AutoModelForMaskedLM,
    BertConfig,
    BertModel,
    BertTokenizer,
    DebertaConfig,
    DebertaV2Config,
    DistilBertConfig,
    ElectraConfig,
    GlmConfig,
    GPT2Config,
    LlamaConfig,
    MistralConfig,
    ModernBertConfig,
    PreTrainedConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2Tokenizer,
    Qwen3Config,
    RobertaConfig,
    RobertaTokenizer,
    XLMRobertaConfig,
    XLMRobertaTokenizer,
)

from mpt.base.errors import BackboneError
from mpt.model.backbone.backbone import load_backbone

ENCODERS = (
    *("bert", "roberta", "xlm-roberta", "electra", "albert", "distilbert", "modernbert"),
    *("deberta", "deberta-v2", "deberta-v3"),
)
DECODERS = ("glm", "llama", "mistral", "qwen2", "qwen3", "gpt2")
KINDS = ENCODERS + DECODERS

LAYERS, HEADS, HIDDEN, POSITIONS = 3, 4, 32, 64

prefix_tuning = pytest.mark.skipif(
    "past_key_values" not in signature(BertModel.forward).parameters,
    reason="transformers from 5.24 on calls past_key_values cache; PEFT 0.21's prefix tuning looks for the old name",
)
"""Of tests that run PEFT's prefix tuning."""

WORDS = ("the", "low", "new", "river", "in", "is", "not", "a", "doctor", "saw")
ENDINGS = ("er", "est", "s", "ing")
MERGES = (
    *("l o", "lo w", "\u0120 low", "e r", "e s", "es t", "t h", "th e", "\u0120 the"),
    *("n e", "ne w", "\u0120 new", "\u0120 n", "i n", "\u0120 in", "\u0120 a"),
)
"""Merges of byte pairs; \u0120 stands for the space before a word, so "low" differs from " low"."""

LLAMA_3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""How Llama 3 splits text before merging bytes."""


def tiny_backbone(folder: Path, kind: str, *, seed: int = 0, masked: bool = False, **config: object) -> Path:
    """Write a random backbone of a kind, 3 layers of 4 heads of 8, with 64 positions.

    Args:
        folder: Where to; made when it is missing.
        kind: One of `KINDS`.
        seed: Names the weights.
        masked: With the head of a masked language model.
        **config: Changes to the configuration.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = _tokenizer(kind)
    tokenizer.save_pretrained(folder)
    family = AutoModelForMaskedLM if masked else AutoModel
    model = family.from_config(_config(kind, len(tokenizer), config))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            # Weights large enough for every layer to matter: an initialiser's 0.02 would hide mistakes.
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(noise / parameter.shape[-1] ** 0.5 if parameter.dim() > 1 else parameter + 0.1 * noise)
    model.save_pretrained(folder)
    return folder


def tiny_model(folder: Path, family: str, **config: object) -> Path:
    """Write a random model of any family that transformers knows, without a tokenizer, to see it refused."""
    sizes = {"vocab_size": 99, "hidden_size": HIDDEN, "num_hidden_layers": 2, "num_attention_heads": HEADS}
    sizes |= {"intermediate_size": 2 * HIDDEN, "max_position_embeddings": POSITIONS, "pad_token_id": 0}
    AutoModel.from_config(AutoConfig.for_model(family, **(sizes | config))).save_pretrained(folder)
    return folder


def refused(reference, match: str, **options) -> str:
    """The message with which loading a backbone is refused, which names it."""
    with pytest.raises(BackboneError, match=match) as caught:
        load_backbone(str(reference), **options)
    assert str(reference) in str(caught.value)
    return str(caught.value)


def _config(kind: str, vocab_size: int, changes: dict[str, object]) -> PreTrainedConfig:
    """The configuration, with what its family calls the same sizes."""
    sizes = {
        "vocab_size": vocab_size,
        "hidden_size": HIDDEN,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "intermediate_size": 2 * HIDDEN,
        "max_position_embeddings": POSITIONS,
    }
    if kind == "bert":
        return BertConfig(**(sizes | changes))
    if kind == "electra":
        return ElectraConfig(**(sizes | {"embedding_size": HIDDEN // 2} | changes))
    if kind in ("roberta", "xlm-roberta"):
        # Positions of this family start behind the padding index, which is 1.
        family = RobertaConfig if kind == "roberta" else XLMRobertaConfig
        ids = {"pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2, "type_vocab_size": 1}
        return family(**(sizes | ids | {"max_position_embeddings": POSITIONS + 2} | changes))
    if kind == "distilbert":
        own = {"dim": HIDDEN, "hidden_dim": 2 * HIDDEN, "n_layers": LAYERS, "n_heads": HEADS}
        return DistilBertConfig(vocab_size=vocab_size, **(own | {"max_position_embeddings": POSITIONS} | changes))
    if kind == "modernbert":
        # Layer 0 sees everything, layers 1 and 2 four pieces to each side.
        ids = dict.fromkeys(("pad_token_id", "bos_token_id", "eos_token_id", "cls_token_id", "sep_token_id"), 0)
        window = {"global_attn_every_n_layers": 3, "local_attention": 8}
        return ModernBertConfig(**(sizes | ids | window | changes))
    if kind == "albert":
        return AlbertConfig(**(sizes | {"embedding_size": HIDDEN // 2} | changes))
    if kind.startswith("deberta"):
        return _deberta_config(kind, sizes, changes)
    return _decoder_config(kind, sizes, changes)


def _deberta_config(kind: str, sizes: dict[str, object], changes: dict[str, object]) -> PreTrainedConfig:
    """As deberta-base, deberta-v2-xlarge (with a convolution) and deberta-v3-base, with fewer relative positions."""
    own = {"relative_attention": True, "position_biased_input": False, "type_vocab_size": 0}
    own |= {"pos_att_type": ["c2p", "p2c"], "max_relative_positions": 12}
    if kind == "deberta":
        return DebertaConfig(**(sizes | own | changes))
    # Eight distances to each side have a bucket of their own half, farther ones share; 12 is still told from 64.
    own |= {"position_buckets": 8, "max_relative_positions": POSITIONS, "norm_rel_ebd": "layer_norm"}
    own |= {"conv_kernel_size": 3, "conv_act": "gelu"} if kind == "deberta-v2" else {"share_att_key": True}
    return DebertaV2Config(**(sizes | own | changes))


def _decoder_config(kind: str, sizes: dict[str, object], changes: dict[str, object]) -> PreTrainedConfig:
    """Grouped-query attention, but for GPT-2; Mistral's sees eight pieces back."""
    if kind == "gpt2":
        own = {"n_embd": HIDDEN, "n_layer": LAYERS, "n_head": HEADS, "n_positions": POSITIONS, "n_inner": 2 * HIDDEN}
        return GPT2Config(vocab_size=sizes["vocab_size"], **({"bos_token_id": 0, "eos_token_id": 0} | own | changes))
    grouped = sizes | {"num_key_value_heads": 2}
    if kind in ("glm", "qwen3"):
        family = GlmConfig if kind == "glm" else Qwen3Config
        return family(**(grouped | {"head_dim": HIDDEN // HEADS, "pad_token_id": 0} | changes))
    if kind == "qwen2":
        return Qwen2Config(**(grouped | changes))
    ids = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": None}
    if kind == "mistral":
        return MistralConfig(**(grouped | ids | {"sliding_window": 8} | changes))
    assert kind == "llama", kind
    return LlamaConfig(**(grouped | ids | changes))


def _tokenizer(kind: str) -> PreTrainedTokenizerFast:
    """The tokenizer that real models of this kind have, over a vocabulary written by hand."""
    if kind == "roberta":
        vocab, merges = _byte_pairs("<s>", "<pad>", "</s>", "<unk>", "<mask>")
        return RobertaTokenizer(vocab=vocab, merges=merges, mask_token=AddedToken("<mask>", lstrip=True, special=True))
    if kind == "xlm-roberta":
        return XLMRobertaTokenizer(vocab=_unigrams("<s>", "<pad>", "</s>", "<unk>"))
    if kind == "modernbert":
        return _modernbert()
    if kind in ("llama", "mistral"):
        return _llama()
    if kind in ("qwen2", "qwen3", "glm", "gpt2"):
        vocab, merges = _byte_pairs("<|endoftext|>")
        return Qwen2Tokenizer(vocab=vocab, merges=merges)
    return BertTokenizer(vocab=_word_pieces("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"))


def _word_pieces(*specials: str) -> dict[str, int]:
    letters = [chr(code) for code in range(ord("!"), ord("~") + 1) if not chr(code).isupper()]
    pieces = [*specials, *letters, *(f"##{letter}" for letter in letters), *WORDS, *(f"##{end}" for end in ENDINGS)]
    return {piece: index for index, piece in enumerate(dict.fromkeys(pieces))}


def _unigrams(*specials: str) -> list[tuple[str, float]]:
    """Pieces with log-probabilities; \u2581 stands for the space before a word."""
    letters = [chr(code) for code in range(ord("!"), ord("~") + 1)]
    words = [f"\u2581{word}" for word in WORDS]
    scores = {"\u2581": -4.0} | dict.fromkeys(words, -3.0) | dict.fromkeys(ENDINGS, -4.0)
    return [(special, 0.0) for special in specials] + [*({letter: -6.0 for letter in letters} | scores).items()]


def _byte_pairs(*specials: str) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Vocabulary and merges over all 256 bytes."""
    merges = [(left, right) for left, right in (merge.split() for merge in MERGES)]
    pieces = [*specials, *sorted(pre_tokenizers.ByteLevel.alphabet()), *(left + right for left, right in merges)]
    return {piece: index for index, piece in enumerate(pieces)}, merges


def _modernbert() -> PreTrainedTokenizerFast:
    vocab, merges = _byte_pairs("[UNK]", "[CLS]", "[SEP]", "[PAD]", "[MASK]")
    core = Tokenizer(models.BPE(vocab=vocab, merges=merges))
    core.normalizer = normalizers.NFC()
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    core.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", vocab["[CLS]"]), ("[SEP]", vocab["[SEP]"])]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        pad_token="[PAD]",
        mask_token=AddedToken("[MASK]", lstrip=True, special=True),
    )


def _llama() -> PreTrainedTokenizerFast:
    """Llama 3: byte pairs behind a regular expression, a start piece, neither padding nor unknown piece."""
    vocab, merges = _byte_pairs("<|begin_of_text|>", "<|end_of_text|>")
    core = Tokenizer(models.BPE(vocab=vocab, merges=merges))
    core.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(LLAMA_3), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    core.decoder = decoders.ByteLevel()
    core.post_processor = processors.TemplateProcessing(
        single="<|begin_of_text|> $A", special_tokens=[("<|begin_of_text|>", 0)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=core, bos_token="<|begin_of_text|>", eos_token="<|end_of_text|>")
