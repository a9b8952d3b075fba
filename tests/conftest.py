"""Every test runs offline, from fixed seeds, in a folder of its own and without the user's settings."""

import os
import random
import socket
import sys
from functools import cache
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from hypothesis import settings

# Before anything imports transformers or datasets, which read these once.
_home = TemporaryDirectory(prefix="mpt-tests-")
os.environ |= {
    "HF_HOME": _home.name,
    "MPT_CACHE": _home.name,
    "HF_HUB_OFFLINE": "1",
    "HF_DATASETS_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "OMP_NUM_THREADS": "1",  # tiny models are slower on several threads, much slower on a busy machine
    "TOKENIZERS_PARALLELISM": "false",
    "NO_COLOR": "1",
}
for name in ("COLUMNS", "FORCE_COLOR", "HF_TOKEN", "MPT_LOG"):
    os.environ.pop(name, None)

# The same examples in every run: a failure that was seen once is seen again. No deadline: machines differ.
settings.register_profile("mpt", derandomize=True, deadline=None)
settings.load_profile("mpt")

# After the above: the fixtures of training runs import torch, when they are asked for.
pytest_plugins = ["common.runs"]

_connect = socket.socket.connect


def _local_only(self, address):
    """Refuse every connection that leaves this machine."""
    host = address[0] if isinstance(address, tuple) else None
    if host not in (None, "localhost", "127.0.0.1", "::1"):
        raise AssertionError(f"a test tried to reach {host}: tests run without a network")
    return _connect(self, address)


@pytest.fixture(autouse=True)
def _isolated(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(socket.socket, "connect", _local_only)
    random.seed(0)
    np.random.seed(0)
    if torch := sys.modules.get("torch"):
        torch.manual_seed(0)


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory):
    """`tiny_folder(kind)` is the folder of a tiny random backbone of that kind; tests only read it."""
    from common.backbones import tiny_backbone

    @cache
    def folder(kind):
        return tiny_backbone(tmp_path_factory.mktemp("backbones") / kind, kind)

    return folder


@pytest.fixture
def load(tiny_folder):
    """`load(kind, ...)` loads such a backbone, in float32 unless told; see `load_backbone`."""
    from mpt.model.backbone.backbone import load_backbone

    def loaded(kind, *, dtype="float32", **options):
        return load_backbone(str(tiny_folder(kind)), dtype=dtype, **options)

    return loaded
