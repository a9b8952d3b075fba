"""What training lowers: cross-entropy over a word's labels, or over the words that are alternatives."""

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn import functional

from mpt.data.order.batch import Batch


def summed_loss(scores_MC: Float[Tensor, "M C"], batch: Batch) -> Float[Tensor, ""]:
    """Cross-entropy in nats, summed over the batch's terms.

    Where scores are normalised over labels, every word is a term. Where they are normalised over the words of a window
    or example, every window or example is a term: the mean over columns of the cross-entropy among its words.

    Args:
        scores_MC: Unnormalised log-scores of every word.
        batch: Has labels.
    """
    assert batch.labels_M is not None, "text without labels has no loss"
    if batch.groups_M is None:
        return functional.cross_entropy(scores_MC, batch.labels_M, reduction="sum")
    columns = torch.arange(scores_MC.shape[1], device=scores_MC.device)
    right_MC = (batch.labels_M[:, None] >> columns) & 1
    totals_GC = torch.logsumexp(_by_group(scores_MC, batch.groups_M), dim=1)
    return (totals_GC.sum() - (scores_MC * right_MC).sum()) / len(columns)


def _by_group(scores_MC: Float[Tensor, "M C"], groups_M: Int64[Tensor, " M"]) -> Float[Tensor, "G W C"]:
    """Scores with a row for each group, filled up with -inf; words of a group follow each other."""
    counts_G = torch.bincount(groups_M)
    starts_G = counts_G.cumsum(0) - counts_G
    places_M = torch.arange(len(groups_M), device=groups_M.device) - starts_G[groups_M]
    rows = scores_MC.new_full((len(counts_G), int(counts_G.max()), scores_MC.shape[1]), -torch.inf)
    return rows.index_put((groups_M, places_M), scores_MC)
