"""Which arithmetic a machine is good at: asked of the processor, never assumed."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import torch

from omnivision_train.config import StageConfig


def cpu_has_bf16() -> bool:
    """Whether the processor multiplies bf16 matrices in hardware (AVX-512 BF16 or AMX)."""
    try:
        flags = Path("/proc/cpuinfo").read_text()
    except OSError:
        return False
    return "avx512_bf16" in flags or "amx_bf16" in flags


def resolved(config: StageConfig) -> str:
    """fp32 or bf16, for `auto` by what the device does in hardware."""
    if config.precision != "auto":
        return config.precision
    if torch.cuda.is_available():
        return "bf16" if torch.cuda.is_bf16_supported() else "fp32"
    return "bf16" if cpu_has_bf16() else "fp32"


def deepspeed_bf16(config: StageConfig) -> bool:
    """Whether DeepSpeed keeps bf16 weights beside fp32 ones: on a GPU."""
    return torch.cuda.is_available() and resolved(config) == "bf16"


def cpu_autocast(config: StageConfig) -> AbstractContextManager:
    """On a CPU bf16 means: fp32 weights, bf16 products. On a GPU DeepSpeed's own bf16 does the work."""
    if not torch.cuda.is_available() and resolved(config) == "bf16":
        return torch.autocast("cpu", dtype=torch.bfloat16)
    return nullcontext()
