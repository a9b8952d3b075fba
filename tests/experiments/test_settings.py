from pathlib import Path

import pytest
from pydantic import ValidationError

from mpt.base.errors import ConfigError
from mpt.base.settings import PromptSettings, TrainingSettings
from mpt.base.strict_yaml import dump
from mpt.data.manifest.reading import load_manifest
from mpt.experiments.methods import METHODS
from mpt.experiments.settings import (
    PretrainSettings,
    TransferSettings,
    load_compare_settings,
    load_pretrain_settings,
    load_transfer_settings,
)

ROOT = Path(__file__).parents[2]
MINIMAL = "manifest: data/mixture.yaml\ntraining: {steps: 100}\n"


@pytest.fixture
def config(tmp_path):
    def write(text=MINIMAL):
        (tmp_path / "run.yaml").write_text(text)
        return tmp_path / "run.yaml"

    return write


def problem(path, overrides=(), load=load_pretrain_settings):
    with pytest.raises(ConfigError) as caught:
        load(path, overrides)
    return str(caught.value)


def test_the_manifest_is_beside_the_configuration(config, tmp_path):
    path = config()
    assert load_pretrain_settings(path).manifest == tmp_path / "data" / "mixture.yaml"
    assert load_pretrain_settings(config(MINIMAL.replace("data/", "/srv/"))).manifest == Path("/srv/mixture.yaml")


def test_a_manifest_must_be_given_and_is_enough(config):
    assert "manifest: is required" in problem(config("training: {steps: 3}\n"))
    assert load_pretrain_settings(config("manifest: x.yaml\n")).training == TrainingSettings()
    assert load_pretrain_settings(config("manifest: x.yaml\ntraining: {seed: 1}\n")).training.seed == 1


def test_overrides_change_single_settings(config):
    settings = load_pretrain_settings(config(), ["training.seed=7", "prompt.layers=[0, 2]", "backbone.revision=null"])
    assert (settings.training.seed, settings.prompt.layers, settings.training.steps) == (7, (0, 2), 100)


def test_trials_are_longer_than_the_warm_up(config):
    path = config("optimizer: {warmup_steps: 5}\ntuning: {steps: 6}\n")
    assert load_transfer_settings(path).tuning.steps == 6
    told = problem(path, ["tuning.steps=5"], load_transfer_settings)
    assert "tuning.steps: 5 is not above optimizer.warmup_steps (5). Let trials train longer or warm up less" in told


def test_transfer_needs_no_file():
    settings = load_transfer_settings(None, ["seeds=[5]", "head=from:ner"])
    assert (settings.seeds, settings.head) == ((5,), "from:ner")
    assert load_transfer_settings(None) == TransferSettings()


def test_changing_one_setting_of_a_transfer_leaves_its_neighbours():
    settings = load_transfer_settings(None, ["training.head_dropout=0.2", "evaluation.patience=3"])
    assert (settings.training.steps, settings.training.micro_batches) == (100, 2)
    assert (settings.evaluation.every_steps, settings.evaluation.dev_limit) == (25, 300)


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("training.steps=0", "must be at least 1, got 0"),
        ("training.steps=1.5", "expected a whole number"),
        ("training.tokens_per_micro_batch=10", "must be at least 64"),
        ("training.head_dropout=1.0", "must be below 1"),
        ("optimizer.prompt_learning_rate=0", "must be above 0"),
        ("optimizer.prompt_learning_rate=.nan", "finite"),
        ("optimizer.gamma=1.5", "must be at most 1"),
        ("optimizer.schedule=cosine", '"cosine" is not one of linear, epoch'),
        ("backbone.dtype=float16", '"float16" is not one of auto, bfloat16, float32'),
        ("backbone.longest_window=8", "must be at least 32"),
        ("prompt.length=0", "must be at least 1"),
        ("prompt.initialisation=txt", 'Did you mean "text"?'),
        ("prompt.layers=0", "must be at least 1"),
        ("prompt.layers=some", "all"),
        ("evaluation.patience=0", "must be at least 1"),
        ("checkpoints.keep_last=0", "must be at least 1"),
        ("training.seed=-1", "must be at least 0"),
        ("training.sed=1", 'unknown key. Did you mean "seed"?'),
    ],
)
def test_what_is_out_of_range_is_told_at_its_key(config, override, told):
    message = problem(config(), [override])
    assert message.startswith(f"--set {override.split('=')[0]}: ")
    assert told in message


@pytest.mark.parametrize(("head", "told"), [("by-lable", "by-label"), ("from:", "from:TASK"), ("", "fresh")])
def test_the_head_is_one_of_three(head, told):
    message = problem(None, [f'head="{head}"'], load=load_transfer_settings)
    assert f'"{head}" is not one of fresh, by-label, from:TASK.' in message
    assert told in message


@pytest.mark.parametrize("warmup", [100, 101])
def test_a_warm_up_ends_before_the_run(config, warmup):
    message = problem(config(), [f"optimizer.warmup_steps={warmup}"])
    assert f"optimizer.warmup_steps: {warmup} is not below training.steps (100)" in message
    load_pretrain_settings(config(), ["optimizer.warmup_steps=99"])


def test_there_is_at_least_one_seed():
    assert "needs at least 1" in problem(None, ["seeds=[]"], load=load_transfer_settings)


def test_what_a_run_saves_reads_back(config, tmp_path):
    settings = load_pretrain_settings(config(), ["prompt.layers=[0, 1]", "tasks=[ner]", "evaluation.patience=3"])
    (tmp_path / "saved.yaml").write_text(dump(settings))
    assert load_pretrain_settings(tmp_path / "saved.yaml") == settings


def test_settings_are_frozen():
    settings = PretrainSettings(manifest=Path("x"), training=TrainingSettings(steps=100))
    with pytest.raises(ValidationError):
        settings.training.steps = 3


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*.yaml")), ids=lambda path: path.name)
def test_every_reference_configuration_is_valid(path):
    load = load_transfer_settings if path.name.startswith("transfer") else load_pretrain_settings
    settings = load(path)
    if isinstance(settings, PretrainSettings):
        assert settings.manifest.is_file()


COMPARISONS = [
    *(ROOT / "configs" / "compare").glob("*.yaml"),
    *(path for path in (ROOT / "configs" / "paper").glob("*.yaml") if not path.name.startswith("pretrain")),
]


@pytest.mark.parametrize("path", sorted(COMPARISONS), ids=lambda path: path.name)
def test_every_comparison_is_valid_and_its_tasks_exist(path, tmp_path, monkeypatch):
    monkeypatch.setenv("MPT_DATA", str(tmp_path))
    rows = load_compare_settings(path)
    settings = next(iter(rows.values()))
    manifest = load_manifest(settings.manifest)
    assert set(settings.tasks) <= set(manifest.tasks)
    assert {row.method for row in settings.rows.values()} <= set(METHODS)
    if settings.pretrain is not None:
        pretraining = load_pretrain_settings(settings.pretrain)
        assert set(pretraining.tasks) <= set(load_manifest(pretraining.manifest).tasks)
        assert pretraining.backbone == settings.backbone, "rows differ in their methods alone"


@pytest.mark.parametrize(("kind", "rate"), [("mlp", 0.01), ("residual_mlp", 0.001), ("lstm", 0.01)])
def test_a_network_behind_a_prompt_has_a_rate_of_its_own_unless_told(kind, rate):
    settings = PromptSettings(reparameterisation=kind)
    assert settings.chosen_network_rate == rate
    assert settings.model_copy(update={"network_rate": 0.5}).chosen_network_rate == 0.5
