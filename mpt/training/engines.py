"""What a run was launched under: plain data parallelism, DeepSpeed's ZeRO, or PyTorch's FSDP2.

Accelerate launches the ranks and reads the engine's configuration. The engine then does what it is for: ZeRO-3 and
FSDP2 spread the frozen backbone over the ranks, ZeRO-1, -2 and -3 keep each rank's share of the optimizer's state and
move the weights (`mpt.training.zero`). Order, micro-batches, clipping and precision stay mpt's own under every engine,
so fields of an engine's configuration that would decide them differently are refused.
"""

import importlib.util
import os
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin, InitProcessGroupKwargs
from torch import nn
from torch.distributed.fsdp import fully_shard

from mpt.base.errors import ConfigError, LaunchError
from mpt.model.backbone.sharding import Sharding

PLAIN_LAUNCHES = (DistributedType.NO, DistributedType.MULTI_CPU, DistributedType.MULTI_GPU)
DECIDED_BY_MPT = {
    "train_batch_size": "training.micro_batches and training.tokens_per_micro_batch",
    "train_micro_batch_size_per_gpu": "training.tokens_per_micro_batch",
    "gradient_accumulation_steps": "training.micro_batches",
    "gradient_clipping": "optimizer.clip_norm",
    "optimizer": "the optimizer section",
    "scheduler": "optimizer.schedule",
    "fp16": "backbone.dtype",
    "bf16": "backbone.dtype",
    "zero_optimization.offload_optimizer": "nothing: what is trained takes a few megabytes",
}
"""Fields of a DeepSpeed configuration, and the settings of mpt that say it instead."""
NEUTRAL = ("auto", None, "none", False)
"""What such a field may hold: left to others, or switched off."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Engine:
    """How the ranks work together; without one of its own a launch is plain data parallelism.

    Attributes:
        name: For people.
        sharding: Spreads the backbone over the ranks; None where every rank holds it whole.
        zero: DeepSpeed's configuration for what is trained; None where every rank moves all of it by itself.
    """

    name: str = "plain data parallelism"
    sharding: Sharding | None = None
    zero: Mapping[str, Any] | None = None


def join_launch(**options: Any) -> Accelerator:
    """An Accelerator for the launch that this process belongs to; `options` are passed on to it.

    Raises:
        LaunchError: The launch asks for an engine that is not installed.
    """
    handlers = []
    cpu = False
    if _asked_for("DEEPSPEED"):
        if importlib.util.find_spec("deepspeed") is None:
            raise LaunchError(
                "launched under DeepSpeed, which is not installed here. Run: pip install 'mpt-prompts[deepspeed]', or "
                "launch without an engine"
            )
        if not torch.accelerator.is_available():
            os.environ.setdefault("DS_ACCELERATOR", "cpu")
            handlers.append(InitProcessGroupKwargs(backend="gloo"))
            _compile_nothing()
    else:
        cpu = not torch.accelerator.is_available()
    # Without a backend, or told that the CPU is meant, Accelerate takes every process on a CPU for the only one.
    return Accelerator(cpu=cpu, kwargs_handlers=handlers, **options)


def _asked_for(engine: str) -> bool:
    """Whether `accelerate launch` was told to use an engine: it says so in the environment."""
    return os.environ.get(f"ACCELERATE_USE_{engine}", "false").lower() == "true"


def _compile_nothing() -> None:
    """Tell DeepSpeed that none of its native operations can be had; on a CPU it would compile some at its start."""
    import deepspeed.ops  # type: ignore[import]

    operations: Any = deepspeed.ops
    operations.__compatible_ops__ = {}


def find_engine(accelerator: Accelerator, *, clip_norm: float) -> Engine:
    """The engine of a launch, its configuration checked.

    Raises:
        ConfigError: The engine's configuration decides what mpt's decides.
        LaunchError: An engine that mpt does not train under.
    """
    kind = accelerator.distributed_type
    if kind == DistributedType.DEEPSPEED:
        return _deepspeed(accelerator, clip_norm)
    # Accelerate knows FSDP on accelerators only, and takes the same launch on a CPU for a plain one.
    if kind == DistributedType.FSDP or (kind == DistributedType.MULTI_CPU and _asked_for("FSDP")):
        return _fsdp2(FullyShardedDataParallelPlugin())
    if kind in PLAIN_LAUNCHES:
        return Engine()
    raise LaunchError(
        f"launched under {kind.value}, expected a plain launch (one process, or several with data parallelism), "
        "DeepSpeed or FSDP2. Choose one of configs/accelerate/"
    )


def _deepspeed(accelerator: Accelerator, clip_norm: float) -> Engine:
    from deepspeed.utils import logger  # type: ignore[import]
    from transformers.integrations.deepspeed import unset_hf_deepspeed_config

    logger.setLevel("WARNING")
    unset_hf_deepspeed_config()  # else transformers partitions every model it makes, before its weights are read
    plugin = accelerator.state.deepspeed_plugin
    assert plugin is not None, "Accelerate has read it"
    config = plugin.deepspeed_config
    _check(config, clip_norm)
    stage = int(config["zero_optimization"]["stage"])
    if stage not in (1, 2, 3):
        raise ConfigError(f"DeepSpeed's zero_optimization.stage: {stage}, expected 1, 2 or 3")
    return Engine(
        name=f"DeepSpeed ZeRO-{stage}",
        sharding=_zero3(config) if stage == 3 else None,
        # Stage 3 would cut up the prompts too, which are needed whole in every layer and are small.
        zero=_configuration(config, min(stage, 2), torch.float32),
    )


def _check(config: Mapping[str, Any], clip_norm: float) -> None:
    """Refuse what mpt decides, unless it says the same."""
    same = {"gradient_accumulation_steps": 1, "gradient_clipping": clip_norm}
    problems = []
    for field, ours in DECIDED_BY_MPT.items():
        value: Any = config
        for key in field.split("."):
            value = value.get(key) if isinstance(value, Mapping) else None
        if isinstance(value, Mapping):
            value = value.get("enabled", value.get("device", value.get("type")))
        if value not in NEUTRAL and value != same.get(field):
            problems.append(
                f"DeepSpeed's {field}: {value!r} contradicts mpt, where {ours} decides it. Remove it or set it to "
                '"auto"'
            )
    if problems:
        raise ConfigError(problems)


def _configuration(config: Mapping[str, Any], stage: int, dtype: torch.dtype) -> dict[str, Any]:
    """DeepSpeed's configuration for one of the two models: the backbone, or what is trained."""
    zero = {**config["zero_optimization"], "stage": stage}
    zero.pop("offload_optimizer", None)
    if stage < 3 or (zero.get("offload_param") or {}).get("device", "none") in NEUTRAL:
        zero.pop("offload_param", None)
    kept = {key: value for key, value in config.items() if key not in DECIDED_BY_MPT}
    return deepcopy(kept) | {
        "zero_optimization": {key: value for key, value in zero.items() if value != "auto"},
        # One backward pass a step, with the gradient of all micro-batches, already clipped; see mpt.training.zero.
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        "gradient_clipping": 0.0,
        "zero_allow_untested_optimizer": True,
        "bf16": {"enabled": dtype == torch.bfloat16},
        "fp16": {"enabled": False},
        "steps_per_print": 2**62,
    }


def _zero3(config: Mapping[str, Any]) -> Sharding:
    """ZeRO-3: a share of every weight, put together for a module's forward and again for its backward pass."""
    import deepspeed  # type: ignore[import]

    def shard(unit: nn.Module) -> None:
        dtype = next(unit.parameters()).dtype
        deepspeed.zero.Init(module=unit, config_dict_or_path=_configuration(config, 3, dtype), dtype=dtype)

    def finish(model: nn.Module) -> None:
        dtype = next(model.parameters()).dtype
        deepspeed.initialize(model=model, config=_configuration(config, 3, dtype))

    return Sharding(shard=shard, finish=finish)


def _fsdp2(plugin: FullyShardedDataParallelPlugin) -> Engine:
    """FSDP2: a share of every weight, put together for a layer's forward and again for its backward pass.

    Raises:
        ConfigError: Another version, or options that mpt's settings decide.
    """
    if plugin.fsdp_version != 2:
        raise ConfigError(f"fsdp_config.fsdp_version: {plugin.fsdp_version}, expected 2. Set fsdp_version: 2")
    if plugin.activation_checkpointing:
        raise ConfigError(
            "fsdp_config.fsdp_activation_checkpointing contradicts mpt, where backbone.gradient_checkpointing decides "
            "it. Remove it"
        )
    options: Any = {"reshard_after_forward": plugin.reshard_after_forward, "offload_policy": plugin.cpu_offload}

    def shard(module: nn.Module) -> None:
        fully_shard(module, **options)

    return Engine(name="FSDP2", sharding=Sharding(shard=shard, finish=shard))
