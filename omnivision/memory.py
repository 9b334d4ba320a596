"""The most memory that this process has held."""

from __future__ import annotations

import sys
from pathlib import Path

import torch

STATUS = Path("/proc/self/status")


def peak_bytes() -> int:
    """Its resident set at the highest.

    Linux' getrusage counts what the process held before it became this program, that is, what its parent held: a small process
    that a large one started would seem as large.
    """
    if STATUS.is_file():
        return next(1024 * int(line.split()[1]) for line in STATUS.read_text().splitlines() if line.startswith("VmHWM:"))
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def peak_gib() -> float:
    """On a GPU what torch has allocated there, else the resident set."""
    return (torch.cuda.max_memory_allocated() if torch.cuda.is_available() else peak_bytes()) / 2**30
