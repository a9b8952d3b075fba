"""Where "auto" is bfloat16: by what processors say of themselves."""

import platform

import pytest
import torch

from mpt.model.backbone import precision
from mpt.model.backbone.backbone import load_backbone
from mpt.model.backbone.precision import LIMITS, multiplies_bfloat16, resolve_dtype

CPU, GPU = torch.device("cpu"), torch.device("cuda", 1)


@pytest.fixture
def processor(monkeypatch):
    """`processor("avx2", ...)` makes this machine one with these instructions alone."""
    for name in LIMITS:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: True)

    def has(*instructions):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: dict.fromkeys(instructions, True))

    return has


@pytest.mark.parametrize(
    ("instructions", "native"),
    [
        (("avx2",), False),
        (("avx512_f", "avx512_bw", "avx512_vnni"), False),
        (("avx512_f", "avx512_bf16"), True),
        (("amx_tile", "amx_int8", "amx_bf16"), True),
        (("neon", "fp16_arith"), False),
        (("neon", "bf16"), True),
    ],
)
def test_processors(processor, instructions, native):
    processor(*instructions)
    assert multiplies_bfloat16(CPU) is native
    assert resolve_dtype("auto", CPU) == ("bfloat16" if native else "float32")
    assert [resolve_dtype(dtype, CPU) for dtype in ("bfloat16", "float32")] == ["bfloat16", "float32"]


def test_a_torch_without_onednn_only_emulates(processor, monkeypatch):
    processor("avx512_bf16")
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    assert not multiplies_bfloat16(CPU)


@pytest.mark.parametrize(
    ("limit", "native"),
    [
        ("AVX2", False),
        ("avx512_core", False),
        ("AVX512_CORE_VNNI", False),
        ("AVX512_CORE_BF16", True),
        ("AVX512_CORE_FP16", True),
        ("AVX512_CORE_AMX", True),
        ("AVX10_1_512", True),
        ("DEFAULT", True),
    ],
)
@pytest.mark.parametrize("name", LIMITS)
def test_what_onednn_may_use_counts(processor, monkeypatch, name, limit, native):
    processor("avx512_bf16", "amx_bf16")
    monkeypatch.setenv(name, limit)
    assert multiplies_bfloat16(CPU) is native


@pytest.mark.parametrize(("capability", "native"), [((7, 5), False), ((8, 0), True), ((9, 0), True)])
def test_gpus(monkeypatch, capability, native):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability if device == GPU else None)
    assert multiplies_bfloat16(GPU) is native


def test_other_devices_compute_in_float32():
    assert not multiplies_bfloat16(torch.device("meta"))


@pytest.mark.parametrize("native", [True, False])
def test_a_backbone_has_the_processors_type_unless_told(tiny_folder, monkeypatch, native):
    monkeypatch.setattr(precision, "multiplies_bfloat16", lambda device: native)
    assert load_backbone(str(tiny_folder("bert"))).dtype == (torch.bfloat16 if native else torch.float32)


@pytest.mark.skipif(platform.system() != "Linux" or platform.machine() != "x86_64", reason="reads Linux's flags of x86")
def test_it_is_what_the_system_says(monkeypatch):
    for name in LIMITS:
        monkeypatch.delenv(name, raising=False)
    with open("/proc/cpuinfo") as file:
        flags = next(line for line in file if line.startswith("flags")).split()
    assert multiplies_bfloat16(CPU) is bool({"avx512_bf16", "amx_bf16"} & set(flags))
