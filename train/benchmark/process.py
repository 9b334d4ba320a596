"""A running arm, as its parent sees it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path

import torch

from omnivision_train.benchmark.arm import Arm, cpu_seconds


def one_gpu() -> dict[str, str]:
    """The environment of an arm: of several GPUs it sees the first, which TRL's trainers would else split every batch over."""
    seen = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0]
    return {**os.environ, **({"CUDA_VISIBLE_DEVICES": seen} if torch.cuda.is_available() else {})}


class Process:
    """Starts an arm; `ready` waits until it is about to make its first step, and returns the seconds that took."""

    def __init__(self, arm: Arm) -> None:
        self.arm, self.began = arm, time.perf_counter()
        folder = Path(arm.folder)
        folder.mkdir()
        self.log = folder / "log"
        with self.log.open("w") as log:
            self.process = subprocess.Popen([sys.executable, "-m", "omnivision_train.benchmark.arm", json.dumps(asdict(arm))], text=True,
                                            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, env=one_gpu())

    def ready(self) -> float:
        """Seconds from its start to its first step."""
        self._answer()
        return time.perf_counter() - self.began

    def steps(self, number: int, warm: int = 0) -> dict:
        """Makes so many steps, after some that warm up; returns the wall and CPU seconds of those that count, and what was logged of all."""
        self.process.stdin.write(f"{number} {warm}\n")
        self.process.stdin.flush()
        return self._answer()

    def cpu(self) -> float:
        """CPU seconds of it and its loader's so far, in others' turns too."""
        return cpu_seconds(self.process.pid)

    def end(self) -> dict[str, float]:
        """Its memory in GiB at the peak and after the imports."""
        self.process.stdin.close()
        memory = self._answer()
        self.process.wait()
        return memory

    def _answer(self) -> dict:
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"The arm {self.arm.name!r} has ended before its time; {self.log} says why: {self.log.read_text()[-2000:]}")
        return json.loads(line)
