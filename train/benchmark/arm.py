"""One arm: a trainer in a process of its own, which steps when it is told to.

It reads two numbers a line from stdin, steps that count and steps before them that warm up, and answers with a line of JSON; at the end of its
input it tells its peak memory, and what of it the imported packages hold, and ends.
"""

from __future__ import annotations

import json
import os
import sys
import time
from contextlib import suppress
from dataclasses import dataclass, fields
from typing import TextIO

import psutil
import torch
from transformers import TrainerCallback

from omnivision.hardware import synchronize
from omnivision.memory import peak_gib
from omnivision_train.config import AlignConfig, DpoConfig, SftConfig, StageConfig

CONFIGS: dict[str, type[StageConfig]] = {"align": AlignConfig, "sft": SftConfig, "dpo": DpoConfig}
OURS, STOCK, LLAVA, SMOLVLM = "ours", "stock TRL", "stock TRL, LLaVA", "stock TRL, SmolVLM"
DEFAULTS = f"{SMOLVLM}, its defaults"


@dataclass(frozen=True)
class Arm:
    """What an arm trains, as the parent says it."""

    name: str
    trainer: str  # OURS; STOCK: TRL's on the same model; SMOLVLM, LLAVA: on transformers' classes; DEFAULTS: SMOLVLM with what TRL and transformers set themselves
    stage: str
    folder: str  # its own, so that nothing is cached before
    material: str
    rows: str  # a folder of them
    preset: str
    batch_size: int
    precision: str
    log_steps: int = 1
    workers: int = 0
    changes: dict | None = None  # keys of the stage's config, for ours
    optional: bool = False  # where it cannot run, the others are compared without it

    def config(self) -> StageConfig:
        """The stage's settings; frozen features are cached, since a job has several epochs, and ZeRO is off on a CPU, as in the tiny preset's files."""
        kept = {"feature_cache": f"{self.folder}/features"} | ({"reference_cache": f"{self.folder}/reference"} if self.stage == "dpo" else {})
        rows = f"{self.rows}/{'pairs' if self.stage == 'dpo' else 'rows'}.jsonl"
        first = {"preset": self.preset, "vision": f"{self.material}/vision", "language": f"{self.material}/language"}
        begin = first if self.stage == "align" else {"start": f"{self.material}/{self.stage}-start"}
        return CONFIGS[self.stage](**{
            "out": self.folder, **begin, "data": [rows], "image_root": f"{self.material}/photos", "batch_size": self.batch_size, "precision": self.precision,
            "workers": self.workers, "epochs": 1e6, "lr": 1e-4, "schedule": "constant", "warmup": 0.0, "log_steps": self.log_steps, "save_steps": 10**9,
            "zero_stage": int(torch.cuda.is_available()), **kept, **(self.changes or {})})


class Paced(TrainerCallback):
    """Waits before a step for the numbers of steps to make, and tells what those that count took; both together are a multiple of the steps of a log line."""

    def __init__(self, answers: TextIO) -> None:
        self.answers, self.left, self.warm, self.logged, self.step, self.imports = answers, 0, 0, [], 0, 0.0

    def imported(self) -> None:
        """Called when all packages are there, and no model yet."""
        self.imports = peak_gib()

    def on_step_begin(self, args, state, control, **kwargs) -> None:
        if self.left == 0:
            self.step = state.global_step
            self.answer(ready=True)
            self.wait()

    def on_step_end(self, args, state, control, **kwargs) -> None:
        if self.warm:
            self.warm -= 1
            if not self.warm:
                self.start()

    def on_log(self, args, state, control, logs=None, **kwargs) -> None:
        self.logged.append({key: logs[key] for key in ("loss", "grad_norm", "teraflop", "data_wait") if key in logs})
        self.left, self.step = self.left - (state.global_step - self.step), state.global_step
        if self.left == 0:
            synchronize()
            self.answer(seconds=time.perf_counter() - self.began, cpu=cpu_seconds() - self.cpu, logged=self.logged)
            if torch.cuda.is_available():
                torch.cuda.empty_cache()  # the others' turn: what this arm keeps for itself is not theirs to use
            self.wait()

    def wait(self) -> None:
        """For numbers of steps; ends the process where none come."""
        line = sys.stdin.readline()
        if not line:
            self.answer(peak_gib=peak_gib(), imports_gib=self.imports)
            raise SystemExit(0)
        counted, self.warm = map(int, line.split())
        self.left, self.logged = counted + self.warm, []
        self.start()

    def start(self) -> None:
        """From here on it counts."""
        synchronize()
        self.began, self.cpu = time.perf_counter(), cpu_seconds()

    def answer(self, **said) -> None:
        """One line."""
        self.answers.write(json.dumps(said) + "\n")
        self.answers.flush()


def cpu_seconds(number: int | None = None) -> float:
    """What a process and its loader's have computed, those that have ended among them; this process where no number is given."""
    process = psutil.Process(number)
    used = sum(process.cpu_times()[:4])  # its own, and that of children which have ended
    for child in process.children(recursive=True):
        with suppress(psutil.Error):  # it ends just now
            used += sum(child.cpu_times()[:2])
    return used


def run(arm: Arm) -> None:
    """Trains until the input ends."""
    with os.fdopen(os.dup(1), "w") as answers:
        os.dup2(2, 1)  # libraries print to stdout; the parent reads answers only
        paced = Paced(answers)
        if arm.trainer == OURS:
            run_ours(arm, paced)
        else:
            from omnivision_train.benchmark.stock import run_stock

            run_stock(arm, paced)


def run_ours(arm: Arm, paced: Paced) -> None:
    """The stage as it is."""
    from omnivision_train.dpo import dpo
    from omnivision_train.supervised import align, sft

    paced.imported()
    {"align": align, "sft": sft, "dpo": dpo}[arm.stage](arm.config(), callbacks=[paced])


if __name__ == "__main__":
    given = json.loads(sys.argv[1])
    run(Arm(**{field.name: given[field.name] for field in fields(Arm)}))
