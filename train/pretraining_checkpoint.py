"""Checkpoints and results of the stand-ins' recipes.

A checkpoint is the result's own layout in fp32, and beside it what only a resumed run reads: the optimizer's state, step,
meters, random states and how long the log was. It is written aside, flushed, hashed and then named.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

import torch
from safetensors.torch import load_file, save_file

from omnivision.runs import HAND_OVER, flush, flush_folder, folder_hashes, read_json, remove, seal, write_json
from omnivision_train.checkpoint import MOMENTS, PROGRESS, random_state, set_random_state, superseded

if TYPE_CHECKING:
    from omnivision_train.pretraining import Pretraining

KEEP = 2  # checkpoints; the older one for the case that the newer is damaged
WEIGHT = 0.05  # of the newest number in a meter


@dataclass
class Progress:
    """How far a run is."""

    step: int = 0  # the next one
    seconds: float = 0.0
    meters: dict[str, float] = field(default_factory=dict)

    def add(self, numbers: dict[str, float], seconds: float) -> None:
        """Takes a finished step in."""
        self.step, self.seconds = self.step + 1, seconds
        for name, value in numbers.items():
            self.meters[name] = (1 - WEIGHT) * self.meters.get(name, value) + WEIGHT * value

    def line(self) -> str:
        """What the log says of the step that has just ended."""
        return json.dumps({"step": self.step - 1, "seconds": round(self.seconds, 1)} | {name: round(value, 4) for name, value in self.meters.items()})


def write_checkpoint(folder: Path, recipe: Pretraining, progress: Progress, log: TextIO) -> None:
    """Writes <folder>/step-N and removes all but the newest two.

    Args:
        log: the open metrics.jsonl, flushed.
    """
    os.fsync(log.fileno())
    partial = folder / f".step-{progress.step}.partial"
    remove(partial)
    partial.mkdir(parents=True)
    recipe.write(partial, torch.float32)
    state = recipe.optimizer.state_dict()["state"]
    save_file({f"{index}|{key}": value.contiguous() for index, values in state.items() for key, value in values.items()}, partial / MOMENTS)
    write_json(partial / PROGRESS, {**asdict(progress), "logged": os.fstat(log.fileno()).st_size, "random": random_state()})
    seal(partial, folder / f"step-{progress.step}")
    for old in superseded(folder, progress.step, KEEP):
        remove(old)


def read_checkpoint(folder: Path, optimizer: torch.optim.Optimizer, log: Path) -> Progress:
    """Puts back all but the weights: the optimizer's state, the random states, and the log as it was then.

    Args:
        folder: a step-N that verifies. log: metrics.jsonl; what was logged after the checkpoint is logged again.
    """
    state: dict[int, dict[str, torch.Tensor]] = {}
    for name, value in load_file(folder / MOMENTS).items():
        index, _, key = name.partition("|")
        state.setdefault(int(index), {})[key] = value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
    saved = read_json(folder / PROGRESS)
    set_random_state(saved.pop("random"))
    with log.open("a") as file:
        file.truncate(min(saved.pop("logged"), file.tell()))
    return Progress(**saved)


def write_result(folder: Path, recipe: Pretraining, parent: str | None) -> None:
    """Writes the result aside, moves its files into the run's folder, says in a note that all are there, and removes the checkpoints.

    Args:
        parent: hash of the note of what the run started from.
    """
    partial = folder / ".result.partial"
    remove(partial)
    partial.mkdir()
    recipe.write(partial, torch.float16)
    flush(partial)
    hashes = folder_hashes(partial)
    for path in sorted(partial.iterdir()):
        os.replace(path, folder / path.name)
    partial.rmdir()
    flush_folder(folder)
    write_json(folder / HAND_OVER, {"stage": recipe.name, "parent": parent, "files": hashes})
    remove(folder / "checkpoints")
