"""The type of a backbone's weights: bfloat16 where the processor multiplies it, float32 where it only emulates it."""

import os

import torch

DTYPES = {"bfloat16": torch.bfloat16, "float32": torch.float32}
INSTRUCTIONS = ("avx512_bf16", "amx_bf16", "bf16")
"""Of x86 and, the last, of ARM, for products of bfloat16; products without them take 5 to 40 times as long."""
LIMITS = ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA")
"""Variables of the environment that keep oneDNN, which computes the products, from instructions that are there."""


def multiplies_bfloat16(device: torch.device) -> bool:
    """Whether a device has instructions for products of bfloat16."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    if device.type != "cpu" or not torch.backends.mkldnn.is_available():
        return False
    limit = next((os.environ[name].upper() for name in LIMITS if name in os.environ), "ALL")
    if limit not in ("ALL", "DEFAULT") and not any(name in limit for name in ("BF16", "FP16", "AVX10", "AMX")):
        return False
    found = torch.cpu.get_capabilities()
    return any(found.get(name, False) for name in INSTRUCTIONS)


def resolve_dtype(dtype: str, device: torch.device) -> str:
    """What "auto" stands for on a device; other types are themselves."""
    if dtype != "auto":
        return dtype
    return "bfloat16" if multiplies_bfloat16(device) else "float32"
