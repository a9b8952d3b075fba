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
        ("method=fine-tunning", '"fine-tunning" is not one of prompt, head, bitfit, lora, low-rank, prompt+low-rank, '),
        ("method=fine-tunning", 'Did you mean "fine-tuning"?'),
        ("method=low_rank", 'Did you mean "low-rank"?'),
        ("method=transfer", '"transfer" is not one of prompt, head, '),
        ("low_rank.targets=query", '"query" is not one of all, attention, feed-forward, peft.'),
        ("lora.rank=0", "must be at least 1, got 0"),
        ("lora.rnk=4", 'unknown key. Did you mean "rank"?'),
        ("backbone.trunk_cache_gib=0", "unknown key."),
        ("prompt.reparameterisation=residual_mlp", '"residual_mlp" is not one of none, mlp, lstm.'),
    ],
)
def test_what_is_out_of_range_is_told_at_its_key(config, override, told):
    message = problem(config(), [override])
    assert message.startswith(f"--set {override.split('=')[0]}: ")
    assert told in message


def test_a_prompt_is_called_as_it_is_beside_a_transfer_too(config):
    for name in ("prompt", "scratch"):
        assert load_pretrain_settings(config(), [f"method={name}"]) == load_pretrain_settings(config())
        assert load_transfer_settings(None, [f"baselines=[{name}, low-rank]"]).baselines == ("scratch", "low-rank")
    text = "title: t\nmanifest: m.yaml\nrows: {a: {method: prompt}, b: {method: scratch}}\n"
    rows = load_compare_settings(config(text))
    assert {row.method for row in rows["a"].rows.values()} == {"scratch"}


@pytest.mark.parametrize(
    ("former", "now"),
    [
        ("lora: {rank: 4}", "low_rank: {rank: 4}"),
        ("lora: {targets: default}", "low_rank: {targets: peft}"),
        ("lora: {targets: all-linear, alpha: 2}", "low_rank: {targets: all, alpha: 2}"),
        ("low_rank: {targets: default, layers: 2}", "low_rank: {targets: peft, layers: 2}"),
    ],
)
def test_former_names_of_low_rank_updates_are_read(config, former, now):
    assert load_pretrain_settings(config(f"{MINIMAL}{former}\n")) == load_pretrain_settings(config(f"{MINIMAL}{now}\n"))
    assert load_transfer_settings(config(f"{former}\n")) == load_transfer_settings(config(f"{now}\n"))
    assert load_transfer_settings(config(f"{now}\n")).low_rank != TransferSettings().low_rank


def test_a_row_may_name_low_rank_updates_as_before(config):
    row = "rows: {a: {method: lora, set: {lora.rank: 3}}, b: {method: lora, set: {low_rank.rank: 5}}}"
    for top, ranks in (("", (3, 5)), ("lora: {alpha: 2}\n", (3, None)), ("low_rank: {alpha: 2}\n", (None, 5))):
        path = config(f"title: t\nmanifest: m.yaml\n{top}{row}\n")
        if None in ranks:
            assert "is low_rank by another name" in problem(path, load=load_compare_settings)
        else:
            rows = load_compare_settings(path)
            assert (rows["a"].low_rank.rank, rows["b"].low_rank.rank) == ranks


def test_low_rank_updates_are_told_of_once(config):
    both = config(f"{MINIMAL}low_rank: {{rank: 4}}\nlora: {{rank: 8}}\n")
    told = "lora: is low_rank by another name. Keep one of them."
    assert problem(both) == f"{both}:4:1: {told}"
    assert problem(config(f"{MINIMAL}low_rank: {{rank: 4}}\n"), ["lora.rank=8"]).endswith(told)
    both = config("lora: {rank: 8}\nlow_rank: {rank: 4}\n")
    assert problem(both, load=load_transfer_settings) == f"{both}:1:1: {told}"


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


@pytest.mark.parametrize(("kind", "rate"), [("mlp", 0.01), ("lstm", 0.01)])
def test_a_network_behind_a_prompt_has_a_rate_of_its_own_unless_told(kind, rate):
    settings = PromptSettings(reparameterisation=kind)
    assert settings.chosen_network_rate == rate
    assert settings.model_copy(update={"network_rate": 0.5}).chosen_network_rate == 0.5
