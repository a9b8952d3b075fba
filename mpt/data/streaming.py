"""Streamed tasks: every file of train is read, encoded and kept by itself, and opened when its turn comes.

Nothing but the size of a file limits how much is held at once, so a task may have any number of files.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

from mpt.base.errors import DataError, every
from mpt.data.encoded import EncodedTask, Shards, ShardSize, size_of
from mpt.data.manifest.files import find_files
from mpt.data.manifest.reading import Manifest
from mpt.data.manifest.source_spec import Files
from mpt.data.manifest.task_spec import Split
from mpt.data.windows import EncodedSplit

NOTICES_SHOWN = 5  # of a task with thousands of files

Read = Callable[[Manifest, str, Sequence[Split]], tuple[EncodedTask, list[str]]]
"""Reads and encodes splits of a task, or finds them in a cache."""


def stream_task(manifest: Manifest, name: str, splits: Sequence[Split], read: Read) -> tuple[EncodedTask, list[str]]:
    """Open a streamed task: every file is read once, one at a time, to know what is in it.

    Args:
        manifest: Declares it.
        name: The task.
        splits: Which splits; one without files is left out, and all but train are held whole.
        read: How a file becomes word pieces.

    Returns:
        The task with its shards, and what a user should know about it.

    Raises:
        MptError: With the problems of all files.
    """
    files = find_files(manifest, name, ["train", *(split for split in splits if split != "train")])
    shards = list(files.pop("train"))
    found = every(lambda shard: _measured(manifest, name, [shard], read), shards)
    sizes = [size for _, size, _ in found]
    notices = [notice for *_, said in found for notice in said]
    if len(notices) > NOTICES_SHOWN:
        notices = [*notices[:NOTICES_SHOWN], f"{name}: ... and {len(notices) - NOTICES_SHOWN:,} more notices of files."]
    others = every(lambda split: _alone(manifest, name, list(files[split]), read), list(files))
    digests = {path: digest for task, *_ in found for path, digest in task.task.digests.items()}
    for other, said in others:
        digests |= other.task.digests
        notices += said
    task = replace(found[0][0].task, spec=manifest.spec(name), digests=digests)
    held: dict[Split, EncodedSplit] = {
        split: other.splits["train"] for split, (other, _) in zip(files, others, strict=True)
    }

    def open_shard(number: int) -> EncodedSplit:
        again, _ = _alone(manifest, name, [shards[number]], read)
        if again.task.digests != {shards[number]: digests[shards[number]]}:
            raise DataError(
                f"{manifest.root / shards[number]}: the file has changed since the run began. Put the old one back and "
                "go on with --resume auto, or start a new run"
            )
        return again.splits["train"]

    return EncodedTask(task=task, splits=held, shards=Shards(sizes, open_shard)), notices


def _measured(
    manifest: Manifest, name: str, paths: Sequence[str], read: Read
) -> tuple[EncodedTask, ShardSize, list[str]]:
    """A file as a task without its arrays, and what is in it."""
    encoded, notices = _alone(manifest, name, paths, read)
    return replace(encoded, splits={}), size_of(encoded.splits["train"]), notices


def _alone(manifest: Manifest, name: str, paths: Sequence[str], read: Read) -> tuple[EncodedTask, list[str]]:
    """Read some files as if they were all of the task's train."""
    spec = manifest.spec(name).model_copy(update={"files": Files(train=tuple(paths)), "streamed": False})
    return read(replace(manifest, tasks={name: spec}), name, ["train"])
