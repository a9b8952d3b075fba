"""What a run works on: the backbone, and tasks as its word pieces."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from accelerate import Accelerator

from mpt.base.disk_cache import default_folder
from mpt.base.errors import every
from mpt.base.settings import BackboneSettings
from mpt.data.cache import read_tasks, text_cache
from mpt.data.encoded import EncodedTask, encode_task
from mpt.data.families.tokenization import WordPieces
from mpt.data.manifest.reading import Manifest
from mpt.data.manifest.task_spec import Split
from mpt.data.tasks import Task
from mpt.data.windows import EncodedSplit
from mpt.model.backbone.backbone import Backbone, load_backbone
from mpt.model.backbone.probe import probe
from mpt.model.backbone.sharding import Sharding
from mpt.training.ranks import one_first


def open_backbone(
    settings: BackboneSettings, *, prompt_length: int, accelerator: Accelerator, sharding: Sharding | None = None
) -> Backbone:
    """Load the backbone on this rank's device and prove that it listens to prompts."""
    backbone = load_backbone(
        settings.reference,
        revision=settings.revision,
        dtype=settings.dtype,
        prompt_length=prompt_length,
        shifted=settings.positions == "shifted",
        longest_window=settings.longest_window,
        word_state=settings.word_state,
        gradient_checkpointing=settings.gradient_checkpointing,
        device=accelerator.device,
        sharding=sharding,
    )
    probe(backbone)
    return backbone


def encode_tasks(tasks: Sequence[Task], backbone: Backbone) -> tuple[list[EncodedTask], list[str]]:
    """Encode all splits of all tasks; returns notices too.

    Raises:
        DataError: With the problems of all tasks.
    """
    encoded = every(lambda task: encode_task(task, backbone.word_pieces), tasks)
    return [task for task, _ in encoded], [notice for _, said in encoded for notice in said]


def open_tasks(
    manifest: Manifest,
    names: Sequence[str] | None,
    backbone: Backbone,
    settings: BackboneSettings,
    accelerator: Accelerator,
) -> tuple[list[EncodedTask], list[str]]:
    """Train and dev of a mixture as word pieces, which one process of a machine keeps for all; notices too.

    Raises:
        MptError: With the problems of all tasks and all files.
    """
    gib = settings.text_cache_gib
    kept = text_cache(default_folder("text"), int(gib * 2**30)) if gib else None
    return one_first(accelerator, lambda: read_tasks(manifest, backbone.word_pieces, names=names, kept=kept))


@dataclass(frozen=True, slots=True, kw_only=True)
class Inputs:
    """The tasks of a comparison as word pieces: every split is encoded once, when it is first asked for.

    Methods that shift positions have other windows, so what is kept is kept for each way of a backbone with text.

    Attributes:
        kept: Encoded splits by task, name and tokenizer.
    """

    kept: dict[tuple[str, Split, WordPieces], EncodedSplit] = field(default_factory=dict)

    def of(self, task: Task, word_pieces: WordPieces, *names: Split) -> EncodedTask:
        """A task with some of its splits.

        Raises:
            DataError: See `encode_task`.
        """
        missing = {name: task.splits[name] for name in names if (task.name, name, word_pieces) not in self.kept}
        if missing:
            encoded, _ = encode_task(replace(task, splits=missing), word_pieces)
            self.kept.update({(task.name, name, word_pieces): split for name, split in encoded.splits.items()})
        splits: dict[Split, EncodedSplit] = {name: self.kept[task.name, name, word_pieces] for name in names}
        return EncodedTask(task=replace(task, splits={}), splits=splits)
