"""The memory of this process: the most it has held, and what it keeps for itself."""

from __future__ import annotations

import ctypes
import os
import sys
from pathlib import Path

import torch

STATUS = Path("/proc/self/status")

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h
BY_HAND = {"MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "MALLOC_MMAP_MAX_"}  # glibc's variables
LARGEST_KEPT = 32 * 2**20  # the most that glibc takes as M_MMAP_THRESHOLD


def keep_freed_memory() -> bool:
    """Lets glibc keep what torch frees on a CPU for the next tensors, in place of handing it back to the system, which has to clear every page of it
    anew; what a step needs the next one needs too. Blocks of over LARGEST_KEPT are handed back as before.

    Returns:
        whether it is done: not where the library is another, or a variable of the environment says otherwise.
    """
    if BY_HAND & set(os.environ):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    return mallopt is not None and all((mallopt(M_MMAP_THRESHOLD, LARGEST_KEPT), mallopt(M_TRIM_THRESHOLD, 2**31 - 1)))


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
