import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from common.runs import quiet

import quickstart as stage
from mpt.base.errors import ConfigError
from mpt.base.settings import BackboneSettings


def test_it_goes_from_data_to_a_comparison(world, tmp_path, monkeypatch):
    """The real stage, over a small backbone and with fewer steps."""
    settings = []

    def small(**values):
        values["backbone"] = BackboneSettings(reference=str(world.backbone), dtype="float32")
        values["training"] = values["training"].model_copy(update={"steps": 12})
        settings.append(stage_settings(**values))
        return settings[-1]

    stage_settings = stage.PretrainSettings
    monkeypatch.setattr(stage, "PretrainSettings", small)
    real = stage.TransferSettings
    monkeypatch.setattr(
        stage,
        "TransferSettings",
        lambda **values: real(**{**values, "training": values["training"].model_copy(update={"steps": 12})}),
    )
    results = stage.quickstart(tmp_path / "quick", console=quiet())
    assert sorted(path.name for path in (tmp_path / "quick").iterdir()) == ["data", "pretrain", "transfer"]
    assert list(json.loads((tmp_path / "quick" / "pretrain" / "results.json").read_text())["dev"]) == [
        "travel",
        "newsdesk",
        "clinic",
    ]
    assert [(r.task, r.shots, r.method, r.seed) for r in results] == [
        ("support", stage.SHOTS, method, seed) for method in ("scratch", "transfer") for seed in stage.SEEDS
    ]


def test_an_existing_folder_is_left_alone(tmp_path):
    (tmp_path / "quick").mkdir()
    with pytest.raises(ConfigError, match=r"quick: exists already\. Remove it, or give another --out"):
        stage.quickstart(tmp_path / "quick", console=quiet())
    assert list((tmp_path / "quick").iterdir()) == []


def test_it_is_a_program_that_tells_errors_as_the_commands_do(tmp_path):
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "examples/quickstart.py", "--out", str(tmp_path)],
        cwd=root,
        env={**os.environ, "PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
    )
    told = f"error: {tmp_path}: exists already. Remove it, or give another --out\n"
    assert (done.returncode, done.stdout, done.stderr) == (2, "", told)


def test_without_a_folder_it_takes_the_first_that_is_not_there(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert stage.unused("runs/quickstart") == Path("runs/quickstart")
    for name in ("quickstart", "quickstart-2"):
        (tmp_path / "runs" / name).mkdir(parents=True)
    assert stage.unused("runs/quickstart") == Path("runs/quickstart-3")
