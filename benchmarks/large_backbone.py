"""A random backbone in the shape of RoBERTa-large, for measurements on a GPU: speed does not depend on the weights.

The tokenizer is that of another backbone; all that counts of it is how many word pieces sentences have.
"""

import shutil
import sys
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer, RobertaConfig, RobertaModel

from job import answer
from mpt.model.backbone.identity import locate

LARGE = {
    "hidden_size": 1024,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "intermediate_size": 4096,
    "max_position_embeddings": 514,
}
"""Source: Liu et al. 2019, "RoBERTa", arXiv:1907.11692, table 9."""

TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.txt")


def write_backbone(folder: Path, tokenizer_of: str, **sizes: Any) -> None:
    """Write a RoBERTa with random bfloat16 weights.

    Args:
        folder: Where to; it exists.
        tokenizer_of: Backbone whose tokenizer it gets.
        **sizes: Of the configuration.

    Raises:
        BackboneError: There is no such backbone.
    """
    source = locate(tokenizer_of, None)
    folder.mkdir(parents=True, exist_ok=True)
    for name in TOKENIZER_FILES:
        if (source / name).is_file():
            shutil.copyfile(source / name, folder / name)
    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    config = RobertaConfig(
        vocab_size=len(tokenizer), pad_token_id=tokenizer.pad_token_id, type_vocab_size=1, dtype="bfloat16", **sizes
    )
    torch.manual_seed(0)
    RobertaModel._from_config(config, dtype=torch.bfloat16).save_pretrained(folder)


if __name__ == "__main__":
    answer(lambda: write_backbone(Path(sys.argv[1]), sys.argv[2], **LARGE))
