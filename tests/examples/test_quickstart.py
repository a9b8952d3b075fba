import json

import pytest
from common.runs import quiet

from mpt.base.errors import ConfigError
from mpt.base.settings import BackboneSettings
from mpt.examples import quickstart as stage


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
