"""The memory of a process: the most it has held, and what it keeps for itself."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys

import pytest

ASK = "from omnivision.memory import peak_bytes; print(peak_bytes())"
PARENT = f"""
import json, subprocess, sys
from omnivision.memory import peak_bytes
before = peak_bytes()
held = bytearray(before + 200_000_000)
del held
child = int(subprocess.run([sys.executable, "-c", {ASK!r}], check=True, capture_output=True, text=True).stdout)
print(json.dumps([before, peak_bytes(), child]))
"""


def test_what_was_held_once_counts_and_what_the_parent_held_does_not():
    before, peak, child = json.loads(subprocess.run([sys.executable, "-c", PARENT], check=True, capture_output=True, text=True).stdout)
    assert peak >= before + 150_000_000
    assert 0.5 * before < child < peak - 100_000_000


KEEP = """
import resource, torch
from omnivision.memory import keep_freed_memory
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        torch.ones(4 * 2**20)  # 16 MiB
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
kept = keep_freed_memory()
faults()
print(int(kept), faults())
"""


@pytest.mark.skipif(not sys.platform.startswith("linux") or platform.libc_ver()[0] != "glibc", reason="a setting of glibc")
def test_freed_memory_is_kept_for_the_next_tensor():
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    told = [subprocess.run([sys.executable, "-c", KEEP], check=True, capture_output=True, text=True, env={**environment, **by_hand}).stdout.split()
            for by_hand in ({}, {"MALLOC_MMAP_THRESHOLD_": "65536"})]
    (kept, faults), (left, others) = (map(int, words) for words in told)
    assert kept and faults < 4096  # pages of one of the twenty tensors
    assert not left and others >= 20 * 16  # handed back each time; huge pages fault less often
