"""Launches under an engine: what `accelerate launch` puts into the environment for the files in configs/accelerate."""

import json
from importlib.util import find_spec
from pathlib import Path

import pytest

CONFIGS = Path(__file__).parents[2] / "configs"
NO_DEEPSPEED = "deepspeed is not installed; pip install -e '.[dev]' has it"
ENGINES = ("zero1", "zero2", "zero3", "fsdp2")


def engine(name, *marks):
    """A parameter of a test; skipped with a reason where the engine is not installed."""
    missing = name.startswith("zero") and find_spec("deepspeed") is None
    return pytest.param(name, marks=[*marks, pytest.mark.skipif(missing, reason=NO_DEEPSPEED)])


def environment(name, **changes):
    """Variables of a launch; `changes` replace fields of ZeRO's section, in a copy, or variables of FSDP."""
    if name == "fsdp2":
        return {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2", "FSDP_RESHARD_AFTER_FORWARD": "true"} | changes
    if name == "plain":
        return {}
    path = CONFIGS / "deepspeed" / f"{name}.json"
    if changes:
        config = json.loads(path.read_text())
        config["zero_optimization"] |= changes
        path = Path("deepspeed.json").resolve()
        path.write_text(json.dumps(config))
    return {"ACCELERATE_USE_DEEPSPEED": "true", "ACCELERATE_DEEPSPEED_CONFIG_FILE": str(path)}
