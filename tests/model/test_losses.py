import torch
from torch.nn import functional

from mpt.data.order.batch import Batch
from mpt.model.losses import summed_loss


def batch(labels, groups=None):
    return Batch(
        input_ids_BS=torch.zeros((1, len(labels)), dtype=torch.long),
        attention_mask_BS=None,
        words_M=torch.arange(len(labels)),
        labels_M=torch.tensor(labels),
        groups_M=None if groups is None else torch.tensor(groups),
    )


def test_labels_of_a_word_compete():
    scores = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([3, 0, 2])
    expected = sum(functional.cross_entropy(scores[i], labels[i]) for i in range(3))
    torch.testing.assert_close(summed_loss(scores, batch([3, 0, 2])), expected)


def test_words_of_a_group_compete_in_every_column():
    generator = torch.Generator().manual_seed(0)
    scores = torch.randn(6, 2, generator=generator).mul(5).requires_grad_()
    # Group 0: words 0 to 3, begins at 1 and ends at 2. Group 1: words 4 and 5, both at 5.
    loss = summed_loss(scores, batch([0, 1, 2, 0, 0, 3], [0, 0, 0, 0, 1, 1]))
    first = [functional.cross_entropy(scores[:4, column], torch.tensor(right)) for column, right in ((0, 1), (1, 2))]
    second = [functional.cross_entropy(scores[4:, column], torch.tensor(1)) for column in (0, 1)]
    expected = sum(first) / 2 + sum(second) / 2
    torch.testing.assert_close(loss, expected)
    (gradient,) = torch.autograd.grad(loss, scores, retain_graph=True)
    (wanted,) = torch.autograd.grad(expected, scores)
    torch.testing.assert_close(gradient, wanted)
    assert gradient.isfinite().all()


def test_scores_far_apart_stay_finite():
    loss = summed_loss(torch.tensor([[1e4], [-1e4], [0.0]]), batch([0, 1, 1], [0, 0, 1]))
    torch.testing.assert_close(loss, torch.tensor(2e4))
