"""What a machine has and is good at: asked of processor, system and GPU, never assumed."""

from __future__ import annotations

import math
import os
import time
from pathlib import Path

CPU_INFO, STAT = Path("/proc/cpuinfo"), Path("/proc/stat")
CPU_BF16 = {"amx_bf16", "avx512_bf16"}  # Linux' names of what multiplies bf16 matrices
QUOTAS = (Path("/sys/fs/cgroup/cpu.max"), Path("/sys/fs/cgroup/cpu/cpu.cfs_quota_us"))  # of a container: "200000 100000", or the first alone


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
    import torch

    if torch.cuda.is_available():
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    return "bf16" if cpu_has_bf16() else "fp32"


def device() -> str:
    """cuda where there is a GPU, else cpu."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def synchronize() -> None:
    """Waits until a GPU has done what it was told."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.synchronize()


def avoid_attention_plans() -> None:
    """Keeps torch from cuDNN's attention, which plans half a second for every shape of a batch that it has not seen (torch 2.11 on an H100,
    a step of which takes a tenth). Flash attention takes any shape."""
    import torch

    if torch.cuda.is_available():
        torch.backends.cuda.enable_cudnn_sdp(False)


def usable_cores() -> int:
    """Cores that this process may use: a container's share of the machine's time counts, which torch does not know of."""
    here = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, math.ceil(min(here, _quota())))


def _quota() -> float:
    for file in QUOTAS:
        try:
            words = file.read_text().split()
            if words[0].isdigit():  # neither "max" nor -1
                return int(words[0]) / int(words[1] if len(words) > 1 else file.with_name("cpu.cfs_period_us").read_text())
        except (OSError, ValueError, IndexError, ZeroDivisionError):
            continue
    return math.inf


def busy_cores(seconds: float = 0.1) -> float:
    """Cores that all processes of the machine together use, meanwhile; 0 where the system does not tell."""
    before = _ticks()
    time.sleep(seconds)
    after = _ticks()
    passed = sum(after) - sum(before)
    if passed <= 0:
        return 0.0
    idle = after[3] + after[4] - before[3] - before[4]  # and waiting for a disk
    return (1 - idle / passed) * (os.cpu_count() or 1)


def busy_seconds() -> float:
    """What all processes of the machine have computed since it started; NaN where the system does not tell."""
    ticks = _ticks()
    return (sum(ticks) - ticks[3] - ticks[4]) / os.sysconf("SC_CLK_TCK") if any(ticks) else math.nan


def _ticks() -> list[int]:
    try:
        return [int(word) for word in STAT.read_text().split("\n")[0].split()[1:9]]
    except (OSError, ValueError):
        return [0] * 8
