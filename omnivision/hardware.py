"""Which arithmetic a machine is good at: asked of processor and GPU, never assumed."""

from __future__ import annotations

from pathlib import Path

import torch

CPU_INFO = Path("/proc/cpuinfo")
CPU_BF16 = {"amx_bf16", "avx512_bf16"}  # Linux' names of what multiplies bf16 matrices


def cpu_flags() -> set[str]:
    """What the processor says it can do; empty where the system does not tell."""
    try:
        text = CPU_INFO.read_text(encoding="utf-8")
    except OSError:
        return set()
    line = next((line for line in text.split("\n") if line.startswith(("flags", "Features"))), "")
    return set(line.partition(":")[2].split())


def cpu_has_bf16() -> bool:
    """Whether the processor multiplies bf16 matrices in hardware."""
    return bool(CPU_BF16 & cpu_flags())


def fast_precision() -> str:
    """fp32 or bf16: bf16 where the device has it in hardware. torch also knows GPUs that only emulate it, slower than fp32."""
    if torch.cuda.is_available():
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    return "bf16" if cpu_has_bf16() else "fp32"
