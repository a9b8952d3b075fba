"""A program for each of several ranks: run a backbone larger than the memory that a rank may have.

python limited.py BACKBONE SMALL_BACKBONE MIB: the limit is on what the process allocates (RLIMIT_DATA) after torch and
the engine are in memory, which the small backbone has seen to.
"""

import re
import resource
import sys
from pathlib import Path

import torch

from mpt.base.errors import BackboneError
from mpt.data.order.batch import Batch, RowGroup
from mpt.model.backbone.backbone import load_backbone
from mpt.model.scorer import Scorer
from mpt.model.state.bank import TaskState
from mpt.model.state.prompt import Prompt, PromptShape
from mpt.training.engines import find_engine, join_launch


def train(folder, accelerator, engine):
    """Load, and compute the gradient of a prompt."""
    backbone = load_backbone(folder, dtype="float32", device=accelerator.device, sharding=engine.sharding)
    layers = backbone.num_layers
    shape = PromptShape(
        num_layers=layers, layers=tuple(range(layers)), num_heads=backbone.num_key_value_heads, length=2, head_dim=16
    )
    scorer = Scorer(backbone, TaskState([Prompt(torch.randn(shape.tensor_shape), shape)]), {})
    pieces = torch.arange(1, 9).view(1, -1)
    rows = (RowGroup(slot=0, tasks=(), rows=1, words=8),)
    batch = Batch(input_ids_BS=pieces, attention_mask_BS=None, words_M=torch.arange(8), labels_M=None, rows=rows)
    (gradient,) = torch.autograd.grad(scorer.word_states(batch).square().sum(), scorer.state.leaves())
    assert bool((gradient.flatten(1).abs().sum(1) > 0).all()), "every layer's prompt has a gradient"
    return backbone


def main(folder, small, mebibytes):
    accelerator = join_launch()
    engine = find_engine(accelerator, clip_norm=1.0)
    train(small, accelerator, engine)
    status = Path("/proc/self/status").read_text()
    taken = int(re.search(r"VmData:\s+(\d+) kB", status)[1]) * 1024
    resource.setrlimit(resource.RLIMIT_DATA, (taken + mebibytes * 2**20,) * 2)
    backbone = train(folder, accelerator, engine)
    size = backbone.num_parameters * 4 / 2**20
    del backbone
    try:
        load_backbone(folder, dtype="float32")
        print("the whole backbone fits too")
    except (BackboneError, MemoryError, RuntimeError):
        print(f"{engine.name}: ran {size:.0f} MiB of weights in {mebibytes} MiB")
    accelerator.end_training()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
