"""What a run is trained and scored on: the tasks of its mixture as word pieces."""

from collections.abc import Sequence

from accelerate import Accelerator

from mpt.base.disk_cache import default_folder
from mpt.base.settings import BackboneSettings
from mpt.data.cache import read_tasks, text_cache
from mpt.data.encoded import EncodedTask
from mpt.data.manifest.reading import Manifest
from mpt.model.backbone.backbone import Backbone
from mpt.training.ranks import one_first


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
