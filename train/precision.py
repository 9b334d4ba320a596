"""Which arithmetic a stage trains in: asked of the machine, never assumed."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

from omnivision.hardware import fast_precision
from omnivision_train.config import StageConfig


def resolved(config: StageConfig) -> str:
    """fp32 or bf16, for `auto` by what the device does in hardware; fp32 for Muon on a GPU, where DeepSpeed's bf16 would hand it flat pieces."""
    import torch

    if config.precision != "auto":
        return config.precision
    return "fp32" if config.optimizer == "muon" and torch.cuda.is_available() else fast_precision()


def deepspeed_bf16(config: StageConfig) -> bool:
    """Whether DeepSpeed keeps bf16 weights beside fp32 ones: on a GPU."""
    import torch

    return torch.cuda.is_available() and resolved(config) == "bf16"


def cpu_autocast(config: StageConfig) -> AbstractContextManager:
    """On a CPU bf16 means: fp32 weights, bf16 products. On a GPU DeepSpeed's own bf16 does the work."""
    import torch

    if not torch.cuda.is_available() and resolved(config) == "bf16":
        return torch.autocast("cpu", dtype=torch.bfloat16)
    return nullcontext()
