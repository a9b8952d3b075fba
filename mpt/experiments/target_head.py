"""Where the head of a target task starts: fresh, from rows of the same label, or from one source task."""

from mpt.base.errors import CheckpointError, did_you_mean
from mpt.data.tasks import Task
from mpt.model.heads import Head, TokenHead
from mpt.model.language_head import new_heads
from mpt.serving.saved import SavedModel


def build_head(saved: SavedModel, task: Task, *, mode: str, seed: int, dropout: float) -> Head:
    """A head for a target task.

    Args:
        saved: The pretrained model.
        task: The target task.
        mode: "fresh" draws it, "by-label" then copies each label's row from the pretrained heads that have a label of
            that name (their mean, letter case aside), "from:TASK" copies the head of one pretrained task. A verbalizer
            is the backbone's own head whatever the mode.
        seed: Names the fresh weights.
        dropout: Of the head.

    Raises:
        CheckpointError: The source task is not in the checkpoint, or its labels are not the target's.
    """
    head = new_heads(saved.scorer.backbone, [task], seed=seed, dropout=dropout)[task.name]
    if not isinstance(head, TokenHead):
        return head
    if mode.startswith("from:"):
        source = _source(saved, task, mode.removeprefix("from:"))
        for label in task.labels:
            head.copy_label(label, [(source, label)])
    elif mode == "by-label":
        for label in task.labels:
            sources = namesakes(saved, label)
            if sources:
                head.copy_label(label, sources)
    return head


def namesakes(saved: SavedModel, label: str) -> list[tuple[TokenHead, str]]:
    """Trained heads with a label of that name, letter case aside, and how they write it."""
    return [
        (head, theirs)
        for head in saved.scorer.heads().values()
        if isinstance(head, TokenHead)
        for theirs in head.labels
        if theirs.casefold() == label.casefold()
    ]


def _source(saved: SavedModel, task: Task, name: str) -> TokenHead:
    known = list(saved.scorer.heads())
    if name not in known:
        raise CheckpointError(
            f"{saved.folder}: head from:{name}: no such task in the checkpoint, it has {', '.join(known)}."
            f"{did_you_mean(name, known)}"
        )
    source = saved.scorer.head(name)
    if not isinstance(source, TokenHead):
        raise CheckpointError(
            f'{saved.folder}: head from:{name} does not fit task "{task.name}": {name} has a verbalizer, whose head is '
            "the backbone's. Use --head fresh, or give the target a verbalizer"
        )
    missing = [label for label in task.labels if label not in source.labels]
    extra = [label for label in source.labels if label not in task.labels]
    if missing or extra:
        raise CheckpointError(
            f'{saved.folder}: head from:{name} does not fit task "{task.name}": labels differ '
            f"(only in the target: {', '.join(missing) or 'none'}; only in {name}: {', '.join(extra) or 'none'}). "
            "Use --head by-label, which copies the labels that both have"
        )
    return source
