"""A small batch, what a step computes of it, and what plain torch does over a stock model."""

import torch
from torch.nn.functional import cross_entropy
from transformers import AutoModel

from mpt.data.order.batch import Batch, RowGroup
from mpt.model.heads import TokenHead
from mpt.model.scorer import Scorer
from mpt.model.state.bank import TaskState
from mpt.training.gradients import GradientVectors

HIDDEN = 32
IDS = torch.tensor([[5, 6, 7, 8, 9], [6, 9, 5, 0, 0]])
MASK = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]], dtype=torch.bool)
WORDS = torch.tensor([0, 2, 4, 5, 7])
LABELS = torch.tensor([0, 1, 2, 1, 0])
BATCH = Batch(
    input_ids_BS=IDS,
    attention_mask_BS=MASK,
    words_M=WORDS,
    labels_M=LABELS,
    rows=(RowGroup(slot=0, tasks=("t",), rows=2, words=5),),
)


def scorer_over(backbone, *parts):
    """A model of one task with such parts."""
    return Scorer(backbone, TaskState(parts), {"t": TokenHead(HIDDEN, ("O", "A", "B"), seed=0, task="t")})


def gradients(scorer):
    """Loss, gradient of what is shared, and of the head, as a step computes them."""
    vectors = GradientVectors(scorer, ["t"])
    (scores,) = scorer(BATCH)
    loss = cross_entropy(scores, LABELS)
    vectors.assign([vectors.vector("t", loss)], ["t"])
    return loss.item(), [p.grad for p in vectors.shared], [p.grad for p in scorer.head("t").parameters()]


def plain_model(folder):
    """The model as transformers runs it, in float32."""
    return AutoModel.from_pretrained(folder, attn_implementation="eager", dtype=torch.float32).eval()


def plain_loss(scorer, states):
    """The loss of a linear layer like the scorer's head over states that something else has computed."""
    head = torch.nn.Linear(HIDDEN, 3)
    head.load_state_dict(scorer.head("t").state_dict())
    loss = cross_entropy(head(states.flatten(0, 1)[WORDS]), LABELS)
    return loss, head


def assert_equal(ours, theirs):
    """Within rounding."""
    for mine, yours in zip(ours, theirs, strict=True):
        assert torch.allclose(mine, yours, atol=1e-5, rtol=1e-4), (mine - yours).abs().max()
