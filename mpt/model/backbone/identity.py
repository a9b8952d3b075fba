"""Which language model is meant: found by its name, and told from every other by the content of its files.

A backbone is named in one of three ways: a hub id with a pinned revision, a local folder, or
`package:NAME/FOLDER` for weights that an installed Python package carries.
"""

import hashlib
import importlib.util
import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled

from mpt.base.errors import BackboneError

HUB_FILES = ["*.json", "*.safetensors", "*.txt", "*.model"]


@dataclass(frozen=True, slots=True, kw_only=True)
class BackboneIdentity:
    """What makes two backbones the same for a prompt; stored in every checkpoint.

    Attributes:
        reference: How the user named it.
        revision: Commit of a hub repository, else None.
        architecture: Class of the model.
        weights_sha256: Digest over the configuration and the weight files.
        tokenizer_sha256: Digest over the tokenizer files.
    """

    reference: str
    revision: str | None
    architecture: str
    weights_sha256: str
    tokenizer_sha256: str

    def to_json(self) -> dict[str, Any]:
        """As a JSON object."""
        return asdict(self)


def locate(reference: str, revision: str | None) -> Path:
    """The folder that a reference names; a hub repository is downloaded to the local cache first."""
    if reference.startswith("package:"):
        return _in_package(reference)
    if Path(reference).is_dir():
        return Path(reference)
    if reference.startswith((".", "/", "~")) or not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", reference):
        raise BackboneError(f'backbone "{reference}": no such folder. Give a folder, a hub id or package:NAME/FOLDER')
    if revision is None or not re.fullmatch(r"[0-9a-f]{40}", revision):
        raise BackboneError(
            f'backbone "{reference}": there is no such folder, and a hub id needs backbone.revision, the full '
            f"40-character commit hash, so that the weights cannot change (got {revision!r})"
        )
    try:
        return Path(snapshot_download(reference, revision=revision, allow_patterns=HUB_FILES))
    except (HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled, OSError) as error:
        raise BackboneError(
            f'backbone "{reference}" at {revision}: not in the local cache, and the hub cannot be used '
            f"({type(error).__name__}). Check the id and the network, or download it and give its folder"
        ) from error


def _in_package(reference: str) -> Path:
    name, _, folder = reference.removeprefix("package:").partition("/")
    spec = importlib.util.find_spec(name) if name.isidentifier() else None
    if spec is None or not spec.submodule_search_locations:
        raise BackboneError(
            f'backbone "{reference}": no Python package "{name}" is installed. '
            "The quickstart's backbone comes with: pip install 'mpt-prompts[minilm]'"
        )
    path = Path(spec.submodule_search_locations[0]) / folder
    if not (path / "config.json").is_file():
        raise BackboneError(f'backbone "{reference}": package "{name}" has no folder "{folder}" with a config.json')
    return path


def identify(folder: Path, reference: str, revision: str | None, architecture: str) -> BackboneIdentity:
    """What is in the folder that a reference names."""
    return BackboneIdentity(
        reference=reference,
        revision=revision,
        architecture=architecture,
        **digests(folder),
    )


def digests(folder: Path) -> dict[str, str]:
    """What a backbone's files are, as an identity has it; needs no model in memory."""
    return {
        "weights_sha256": _digest(folder, ["config.json", "*.safetensors"]),
        "tokenizer_sha256": _digest(folder, ["tokenizer*.json", "vocab.*", "merges.txt", "*.model"]),
    }


def _digest(folder: Path, patterns: Iterable[str]) -> str:
    """SHA-256 over names and contents of the files, in name order."""
    digest = hashlib.sha256()
    for path in sorted({path for pattern in patterns for path in folder.glob(pattern)}):
        digest.update(path.name.encode() + b"\0")
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()
