"""The most memory that a process has held."""

from __future__ import annotations

import json
import subprocess
import sys

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
