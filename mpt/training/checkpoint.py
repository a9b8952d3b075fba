"""Checkpoints: everything that is trained, in a few megabytes, complete or not there at all.

A checkpoint is a folder `step-00001200` with

    state.safetensors       the task state as PART.NAME: `prompt.values` [prompted layers, 2, heads, prompt length,
                            head_dim], `low_rank.LAYER.lora_A.weight` [r, in] and `.lora_B.weight` [out, r],
                            `input.embeddings` [prompt length, width of word embeddings], `weights.NAME` of trained
                            weights of the backbone; all in float32
    heads.safetensors       TASK.weight and TASK.bias of every task whose head is trained: not those of verbalizers
    optimizer.safetensors   moments and counts of every trained tensor
    networks.safetensors    weights of networks that parts come out of while they are trained; for going on with the
                            run, since state.safetensors holds their output
    progress.json           step, score, history of scores
    identity.json           what the tensors belong to: backbone digests, parts of the state, tasks and labels, ...
    CHECKPOINT.json         format version, size and SHA-256 of each file above, and its own digest; written last

Promises: a listed folder is complete (written elsewhere, flushed, renamed); any changed, missing or extra byte is
refused by name before anything is used; old checkpoints are removed only after the new one has been read back; of the
backbone nothing is in it but what was trained. Not promised: protection from somebody who can rewrite a folder with all
its digests.

A run that was stopped before the evaluation of its step was done leaves `step-00001200-unscored`; when it goes on, it
makes up for the evaluation, and the scored checkpoint takes the place of the unscored one.
"""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor

from mpt.base.errors import CheckpointError, did_you_mean
from mpt.base.files import published_folder, remove_folder, sha256_file, to_json, write_durable

FORMAT_VERSION = 2
SEAL = "CHECKPOINT.json"
TENSORS = ("state", "heads", "optimizer", "networks")
PROGRESS = "progress.json"
IDENTITY = "identity.json"
LARGEST_JSON = 64 * 1024 * 1024
UNSCORED = "-unscored"
RUNS_SHOWN = 20
LEVELS = ("*/checkpoints", "*/*/*/checkpoints")  # a folder of runs, and the results of a transfer


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """A checkpoint in memory.

    Attributes:
        state: Tensors of the task state, as PART.NAME.
        heads: `TASK.weight` and `TASK.bias` of each task whose head is trained.
        optimizer: Moments and counts by parameter name; empty where nobody goes on from it.
        networks: Weights of networks behind parts of the state, as PART.NAME.
        progress: Counters and scores; JSON types.
        identity: What the tensors belong to; JSON types.
    """

    state: Mapping[str, Tensor]
    heads: Mapping[str, Tensor]
    optimizer: Mapping[str, Tensor]
    networks: Mapping[str, Tensor]
    progress: Mapping[str, Any]
    identity: Mapping[str, Any]

    @property
    def step(self) -> int:
        """Optimizer steps behind it."""
        return int(self.progress["step"])

    @property
    def tensors(self) -> dict[str, Mapping[str, Tensor]]:
        """What a model is restored from."""
        return {"state": self.state, "networks": self.networks, "heads": self.heads}


def folder_name(step: int, *, unscored: bool = False) -> str:
    """Name of a checkpoint's folder."""
    return f"step-{step:08d}{UNSCORED * unscored}"


def save_checkpoint(parent: Path, checkpoint: Checkpoint, *, unscored: bool = False) -> Path:
    """Publish a checkpoint below `parent` and read it back.

    Args:
        parent: Folder of a run's checkpoints.
        checkpoint: What to save.
        unscored: An evaluation is due at its step and has not been done.

    Raises:
        CheckpointError: It cannot be written, or the disk gave back other bytes.
    """
    target = parent / folder_name(checkpoint.step, unscored=unscored)
    contents = {f"{name}.safetensors": safetensors.torch.save(dict(getattr(checkpoint, name))) for name in TENSORS}
    contents |= {PROGRESS: to_json(checkpoint.progress), IDENTITY: to_json(checkpoint.identity)}
    try:
        with published_folder(target) as folder:
            for name, content in contents.items():
                write_durable(folder / name, content)
            write_durable(folder / SEAL, to_json(_seal(contents)))
            verify(folder)
    except FileExistsError as error:
        raise CheckpointError(f"{target}: this checkpoint exists already; nothing published is overwritten") from error
    except CheckpointError as error:
        raise CheckpointError(f"{target}: the disk gave back other bytes than were written: {error}") from error
    except OSError as error:
        raise CheckpointError(
            f"{target}: cannot write the checkpoint: {error.strerror or error}. Earlier checkpoints are untouched; "
            "make room or mend the folder, then continue with --resume auto"
        ) from error
    return target


def _seal(contents: Mapping[str, bytes]) -> dict[str, Any]:
    """The file list with digests, sealed by a digest of its own."""
    files = {
        name: {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        for name, content in contents.items()
    }
    seal: dict[str, Any] = {"format_version": FORMAT_VERSION, "files": files}
    return {**seal, "sha256": hashlib.sha256(to_json(seal)).hexdigest()}


def verify(folder: Path) -> str:
    """Check every byte of a checkpoint and return its digest.

    Raises:
        CheckpointError: Not a checkpoint, of an unknown format version, or damaged; every damaged file is named.
    """
    if not (folder / SEAL).is_file():
        raise CheckpointError(
            f"{folder}: no {SEAL} here, so this is no checkpoint. Give a run folder or a step-... folder"
        )
    seal = read_json(folder / SEAL)
    digest = seal.pop("sha256", None)
    version = seal.get("format_version")
    intact = (folder / SEAL).read_bytes() == to_json({**seal, "sha256": digest})
    if not intact or digest != hashlib.sha256(to_json(seal)).hexdigest():
        raise CheckpointError(_damage(folder, [f"{SEAL} does not match its own digest"]))
    if version != FORMAT_VERSION:
        raise CheckpointError(
            f"{folder}: format version {version}, this mpt knows {FORMAT_VERSION}. Use the mpt that wrote it, or train "
            "again"
        )
    problems = []
    for name, facts in seal["files"].items():
        path = folder / name
        if not path.is_file():
            problems.append(f"{name} is missing")
        elif path.stat().st_size != facts["bytes"]:
            problems.append(f"{name} has {path.stat().st_size} bytes, expected {facts['bytes']}")
        elif sha256_file(path) != facts["sha256"]:
            problems.append(f"{name} has other content than was saved")
    extra = sorted({path.name for path in folder.iterdir()} - set(seal["files"]) - {SEAL})
    problems += [f"{name} does not belong to the checkpoint" for name in extra]
    if problems:
        raise CheckpointError(_damage(folder, problems))
    return digest


def _damage(folder: Path, problems: list[str]) -> str:
    others = [path.name for path in list_checkpoints(folder.parent) if path != folder]
    advice = f"remove this folder and use an older one ({', '.join(others)})" if others else "train again"
    return f"{folder}: the checkpoint is damaged: {'; '.join(problems)}. Restore it from a copy, or {advice}"


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file of sane size."""
    try:
        if path.stat().st_size > LARGEST_JSON:
            raise CheckpointError(f"{path}: larger than {LARGEST_JSON} bytes; this is no file of mpt")
        value = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: cannot be read as JSON: {error}") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{path}: expected a JSON object, got {type(value).__name__}")
    return value


def load_checkpoint(folder: Path) -> Checkpoint:
    """Read a checkpoint whose every byte is as it was saved.

    Raises:
        CheckpointError: See `verify`.
    """
    verify(folder)
    try:
        tensors = {name: safetensors.torch.load_file(folder / f"{name}.safetensors") for name in TENSORS}
    except (SafetensorError, OSError) as error:
        raise CheckpointError(_damage(folder, [str(error)])) from error
    return Checkpoint(**tensors, progress=read_json(folder / PROGRESS), identity=read_json(folder / IDENTITY))


def list_checkpoints(parent: Path) -> list[Path]:
    """Published checkpoints below a folder, by step; of two of a step the scored one is the newer."""
    if not parent.is_dir():
        return []
    found = [path for path in parent.iterdir() if re.fullmatch(rf"step-\d{{8}}({UNSCORED})?", path.name)]
    return sorted(found, key=lambda path: (path.name.removesuffix(UNSCORED), not path.name.endswith(UNSCORED)))


def latest(run: Path) -> Path | None:
    """The newest checkpoint of a run folder."""
    found = list_checkpoints(run / "checkpoints")
    return found[-1] if found else None


def best(run: Path) -> Path | None:
    """The checkpoint of a run folder with the highest dev score, the earliest of equals; else the newest."""
    scored = []
    for folder in list_checkpoints(run / "checkpoints"):
        if not (folder / PROGRESS).is_file():
            verify(folder)  # tells of damage, or of a format that had no such file
        score = read_json(folder / PROGRESS).get("score")
        if score is not None:
            scored.append((score, folder))
    return max(scored, key=lambda pair: pair[0])[1] if scored else latest(run)


def find_checkpoint(path: Path) -> Path:
    """The checkpoint that a user's path means: itself, or the best one of a run folder.

    Raises:
        CheckpointError: There is none; the nearest name is suggested.
    """
    if (path / SEAL).is_file():
        return path
    if (path / "checkpoints").is_dir():
        found = best(path)
        if found is None:
            raise CheckpointError(
                f"{path}: this run has no checkpoint yet. Wait for its first evaluation, or resume it"
            )
        return found
    if path.is_dir():
        inside = sorted(str(folder.parent.relative_to(path)) for level in LEVELS for folder in path.glob(level))
        more = f" and {len(inside) - RUNS_SHOWN} more" if len(inside) > RUNS_SHOWN else ""
        hint = f" It holds runs: {', '.join(inside[:RUNS_SHOWN])}{more}." if inside else ""
        raise CheckpointError(f"{path}: neither a run folder nor a checkpoint.{hint} Give a folder with checkpoints/")
    siblings = [str(path.parent / it.name) for it in path.parent.iterdir()] if path.parent.is_dir() else []
    raise CheckpointError(f"{path}: no such folder.{did_you_mean(str(path), siblings)}")


def rotate(run: Path, *, keep_last: int) -> None:
    """Remove all checkpoints of a run but the newest ones and the best, and those that were scored since."""
    found = list_checkpoints(run / "checkpoints")
    last_of_step = {path.name.removesuffix(UNSCORED): path for path in found}
    keep = {*list(last_of_step.values())[-keep_last:], best(run)}
    for folder in found:
        if folder not in keep:
            remove_folder(folder)


def differences(
    saved: Any, current: Any, path: str = "", *, names: tuple[str, str] = ("checkpoint", "now")
) -> list[str]:
    """Where two identities differ, one line a field, both values shown under the names given."""
    if isinstance(saved, Mapping) and isinstance(current, Mapping):
        keys = [*saved, *(key for key in current if key not in saved)]
        lines = []
        for key in keys:
            inner = f"{path}.{key}" if path else str(key)
            lines += differences(saved.get(key), current.get(key), inner, names=names)
        return lines
    if saved == current:
        return []
    before, after = names
    if isinstance(saved, list) and isinstance(current, list) and len(str(saved) + str(current)) > 160:
        gone = [item for item in saved if item not in current]
        new = [item for item in current if item not in saved]
        return [f"{path}: {before} only: {gone or 'nothing'}; {after} only: {new or 'nothing (the order differs)'}"]
    return [f"{path}: {before} {saved!r}, {after} {current!r}"]


def require_same(saved: Mapping[str, Any], current: Mapping[str, Any], *, folder: Path, remedy: str) -> None:
    """Refuse a checkpoint that belongs to something else.

    Raises:
        CheckpointError: Naming every field that differs, with both values.
    """
    found = differences(saved, current)
    if found:
        raise CheckpointError(
            f"{folder}: this checkpoint was made for something else:\n  " + "\n  ".join(found) + f"\n{remedy}"
        )
