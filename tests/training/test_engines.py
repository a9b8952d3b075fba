import json
from types import SimpleNamespace

import pytest
from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin
from common.engines import CONFIGS, NO_DEEPSPEED
from ruamel.yaml import YAML

from mpt.base.errors import ConfigError, LaunchError
from mpt.training import engines
from mpt.training.engines import find_engine, join_launch

deepspeed = pytest.mark.skipif(not engines.importlib.util.find_spec("deepspeed"), reason=NO_DEEPSPEED)


def launched(kind, **config):
    """An accelerator of a launch under DeepSpeed with a configuration."""
    plugin = SimpleNamespace(deepspeed_config=config)
    return SimpleNamespace(distributed_type=kind, state=SimpleNamespace(deepspeed_plugin=plugin))


@pytest.mark.parametrize("kind", [DistributedType.NO, DistributedType.MULTI_CPU, DistributedType.MULTI_GPU])
def test_a_plain_launch_has_no_engine(kind, monkeypatch):
    monkeypatch.delenv("ACCELERATE_USE_FSDP", raising=False)
    engine = find_engine(launched(kind), clip_norm=1.0)
    assert engine.sharding is None and engine.zero is None and engine.name == "plain data parallelism"


def test_another_engine_is_refused():
    with pytest.raises(LaunchError, match="launched under MEGATRON_LM, expected a plain launch"):
        find_engine(launched(DistributedType.MEGATRON_LM), clip_norm=1.0)


def test_deepspeed_that_is_not_installed_is_told_with_the_cure(monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    monkeypatch.setattr(engines.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(LaunchError, match=r"DeepSpeed, which is not installed here\. Run: pip install"):
        join_launch()


@deepspeed
@pytest.mark.parametrize(
    ("field", "value", "names"),
    [
        ("train_batch_size", 32, "training.micro_batches and training.tokens_per_micro_batch"),
        ("train_micro_batch_size_per_gpu", 4, "training.tokens_per_micro_batch"),
        ("gradient_accumulation_steps", 2, "training.micro_batches"),
        ("gradient_clipping", 0.25, "optimizer.clip_norm"),
        ("optimizer", {"type": "AdamW", "params": {"lr": 1e-3}}, "the optimizer section"),
        ("scheduler", {"type": "WarmupLR"}, "optimizer.schedule"),
        ("fp16", {"enabled": True}, "backbone.dtype"),
        ("bf16", {"enabled": True}, "backbone.dtype"),
    ],
)
def test_what_mpt_decides_is_refused_in_deepspeeds_configuration(field, value, names):
    accelerator = launched(DistributedType.DEEPSPEED, zero_optimization={"stage": 2}, **{field: value})
    with pytest.raises(ConfigError) as caught:
        find_engine(accelerator, clip_norm=1.0)
    assert f"DeepSpeed's {field}: " in str(caught.value)
    assert f"contradicts mpt, where {names} decides it" in str(caught.value)


@deepspeed
def test_offloading_what_is_trained_is_refused():
    zero = {"stage": 2, "offload_optimizer": {"device": "cpu"}}
    with pytest.raises(ConfigError, match=r"zero_optimization\.offload_optimizer: 'cpu' contradicts mpt"):
        find_engine(launched(DistributedType.DEEPSPEED, zero_optimization=zero), clip_norm=1.0)


@deepspeed
def test_fields_that_agree_or_are_left_open_are_taken():
    config = {
        "zero_optimization": {"stage": 2, "reduce_bucket_size": "auto", "offload_optimizer": {"device": "none"}},
        "train_batch_size": "auto",
        "train_micro_batch_size_per_gpu": "auto",
        "gradient_accumulation_steps": 1,
        "gradient_clipping": 0.5,
        "bf16": {"enabled": "auto"},
        "fp16": {"enabled": False},
        "wall_clock_breakdown": True,
    }
    engine = find_engine(launched(DistributedType.DEEPSPEED, **config), clip_norm=0.5)
    assert engine.name == "DeepSpeed ZeRO-2" and engine.sharding is None and engine.zero is not None
    assert engine.zero["zero_optimization"] == {"stage": 2}
    assert engine.zero["train_micro_batch_size_per_gpu"] == engine.zero["gradient_accumulation_steps"] == 1
    assert engine.zero["wall_clock_breakdown"] is True and "train_batch_size" not in engine.zero
    assert engine.zero["bf16"] == {"enabled": False}, "what is trained stays float32"


@deepspeed
@pytest.mark.parametrize("stage", [0, 4])
def test_a_stage_without_an_engine_is_refused(stage):
    with pytest.raises(ConfigError, match=f"stage: {stage}, expected 1, 2 or 3"):
        find_engine(launched(DistributedType.DEEPSPEED, zero_optimization={"stage": stage}), clip_norm=1.0)


@deepspeed
def test_zero3_shares_the_backbone_and_keeps_what_is_trained_whole():
    zero = {"stage": 3, "offload_param": {"device": "cpu"}}
    engine = find_engine(launched(DistributedType.DEEPSPEED, zero_optimization=zero), clip_norm=1.0)
    assert engine.sharding is not None and engine.zero is not None
    assert engine.zero["zero_optimization"] == {"stage": 2}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"fsdp_version": 1}, r"fsdp_config.fsdp_version: 1, expected 2"),
        ({"fsdp_version": 2, "activation_checkpointing": True}, r"where backbone\.gradient_checkpointing decides it"),
    ],
)
def test_options_of_fsdp_that_mpt_does_not_take_are_refused(options, message, monkeypatch):
    monkeypatch.setattr(engines, "FullyShardedDataParallelPlugin", lambda: FullyShardedDataParallelPlugin(**options))
    with pytest.raises(ConfigError, match=message):
        find_engine(launched(DistributedType.FSDP), clip_norm=1.0)


@pytest.mark.parametrize("path", sorted((CONFIGS / "accelerate").glob("deepspeed_*.yaml")), ids=lambda path: path.stem)
def test_an_accelerate_file_names_a_deepspeed_file_of_its_stage(path):
    config = YAML(typ="safe").load(path)
    file = CONFIGS.parent / config["deepspeed_config"]["deepspeed_config_file"]
    zero = json.loads(file.read_text())["zero_optimization"]
    assert f"zero{zero['stage']}" in path.stem and file.stem == path.stem.removeprefix("deepspeed_")
    assert config["distributed_type"] == "DEEPSPEED"
