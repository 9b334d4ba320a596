"""What the recipes of the two stand-ins share: settings, a folder with one owner, the loop, a clean stop.

A run that ended early goes on from its newest checkpoint, to the same weights and logged numbers as one that never
stopped: every batch is drawn from its own seed, so that the step is the place in the data.
"""

from __future__ import annotations

import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TextIO

import torch
from torch import Tensor, nn
from transformers import AutoTokenizer

from omnivision.data.room import make_folder
from omnivision.errors import ConfigError, DivergedError
from omnivision.hardware import device
from omnivision.runs import HAND_OVER, RunLock, newest_checkpoint, remove
from omnivision_train.checkpoint import clear_leftovers
from omnivision_train.config import check_numbers
from omnivision_train.optimizer import MuonAdamW
from omnivision_train.pretraining_checkpoint import Progress, read_checkpoint, write_checkpoint, write_result
from omnivision_train.run_folder import begun, record

POSITIVE = ("batch", "whole_batch", "window", "steps", "warmup", "save_steps", "log_every", "threads", "max_length", "decay", "vocab_size")
NOT_NEGATIVE = ("lr", "whole_steps", "drill_steps", "drill_share", "weight_decay", "workers", "blur", "mistaken", "caption_weight", "place_weight", "sincos")


@dataclass(frozen=True)
class PretrainingConfig:
    """Settings that both recipes have."""

    out: str = "runs/pretraining"
    start: str | None = None  # a folder that the same recipe wrote: begins with its weights and tokenizer
    seed: int = 1
    batch: int = 64
    steps: int = 5000
    lr: float = 3e-3
    weight_decay: float = 0.05
    warmup: int = 100
    save_steps: int = 200  # steps between two checkpoints
    log_every: int = 20
    workers: int = 1
    threads: int = 2
    bf16: bool = True

    def __post_init__(self) -> None:
        check_numbers(self, POSITIVE, NOT_NEGATIVE)


@dataclass(frozen=True)
class Pretraining:
    """What a recipe gives to the loop.

    Args:
        name: of the recipe. module: what trains. steps: in all.
        files: of the tokenizer, by name: part of the result.
        batches: first step -> the batches from there on.
        losses: batch -> (what is descended, numbers to log).
        rate: step -> share of the optimizer's learning rates.
        save: writes the model into a folder, in the type given.
    """

    name: str
    module: nn.Module
    optimizer: MuonAdamW
    steps: int
    files: dict[str, bytes]
    batches: Callable[[int], Iterator[Any]]
    losses: Callable[[Any], tuple[Tensor, dict[str, Tensor]]]
    rate: Callable[[int], float]
    save: Callable[[Path, torch.dtype], None]

    def write(self, folder: Path, dtype: torch.dtype) -> None:
        """Writes model and tokenizer into a folder."""
        self.save(folder, dtype)
        for name, content in self.files.items():
            (folder / name).write_bytes(content)


@contextmanager
def open_run(config: PretrainingConfig) -> Iterator[Path | None]:
    """Locks `out` and yields the checkpoint to go on from, None for a new run.

    Raises:
        ConfigError: the folder cannot be made, another process is at it, it has a result, or its run began with other settings.
    """
    torch.set_num_threads(config.threads)
    folder = Path(config.out)
    checkpoints = folder / "checkpoints"
    make_folder(folder, "run")
    with RunLock(folder):
        clear_leftovers(checkpoints)
        if (folder / HAND_OVER).is_file():
            remove(checkpoints)  # the run was killed between its last two acts
        newest = newest_checkpoint(checkpoints, lambda message: print(message, file=sys.stderr))
        if newest is None and any(folder.glob("*.safetensors")):
            raise ConfigError("The folder holds the result of a run that is finished", str(folder), "Give another `out`, or remove the folder.")
        record(config, folder)
        if newest is None:
            (folder / "metrics.jsonl").unlink(missing_ok=True)
        yield newest


def moved(batch: dict[str, Any]) -> dict[str, Any]:
    """A batch with its tensors on the GPU, where there is one. It was drawn on the CPU, so that `workers` decide how fast a recipe is there."""
    return {key: value.to(device()) if isinstance(value, Tensor) else value for key, value in batch.items()}


def source_of(config: PretrainingConfig, newest: Path | None, weights: str) -> Path | None:
    """The folder that weights and tokenizer come from: the checkpoint, else `start`; None for fresh ones.

    Raises:
        ConfigError: `start` is no result.
    """
    source = newest or (Path(config.start) if config.start else None)
    if source is not None and not (source / weights).is_file():
        raise ConfigError(f"There is no {weights} to start from", f"start: {source}", "Give a folder that this recipe wrote, its run finished.")
    return source


def open_tokenizer(source: Path | None, make: Callable[[], Any]) -> tuple[Any, dict[str, bytes]]:
    """(tokenizer, its files by name), from a folder or fresh. The files stay as they are: transformers adds keys to those it has read."""
    if source is None:
        with TemporaryDirectory() as folder:
            make().save_pretrained(folder)
            return open_tokenizer(Path(folder), make)
    return AutoTokenizer.from_pretrained(source), {path.name: path.read_bytes() for path in sorted(source.glob("tokenizer*"))}


def fit(recipe: Pretraining, config: PretrainingConfig, newest: Path | None) -> Path:
    """Trains from the newest checkpoint, or from the first step; writes and returns the folder of the result.

    Raises:
        DivergedError: the loss is not finite. SystemExit: 143, after a checkpoint, on SIGTERM.
    """
    folder = Path(config.out)
    progress = Progress() if newest is None else read_checkpoint(newest, recipe.optimizer, folder / "metrics.jsonl")
    if progress.step:
        print(f"{recipe.name}: resumes from step {progress.step} of {recipe.steps}", file=sys.stderr)
    with (folder / "metrics.jsonl").open("a") as log, stop_on_signal() as stop:
        try:
            run_steps(recipe, config, progress, log, stop)
        except RuntimeError as error:
            if stop.is_set():  # the signal went to every process, and the loader's workers have ended: the last checkpoint stands
                raise SystemExit(143) from error
            raise
        if stop.is_set():
            write_checkpoint(folder / "checkpoints", recipe, progress, log)
            raise SystemExit(143)
    write_result(folder, recipe, begun(config)["start"])
    return folder


def run_steps(recipe: Pretraining, config: PretrainingConfig, progress: Progress, log: TextIO, stop: threading.Event) -> None:
    """All steps that are left, with log and checkpoints; ends early once the run is to stop."""
    folder, rates = Path(config.out), [group["lr"] for group in recipe.optimizer.param_groups]
    batches, begun_at = recipe.batches(progress.step), time.time() - progress.seconds
    while progress.step < recipe.steps and not stop.is_set():
        share = recipe.rate(progress.step)
        for group, rate in zip(recipe.optimizer.param_groups, rates, strict=True):
            group["lr"] = rate * share
        progress.add(one_step(recipe, next(batches), f"{folder}, step {progress.step}"), time.time() - begun_at)
        if (progress.step - 1) % config.log_every == 0:
            log.write(progress.line() + "\n")
            log.flush()
        if progress.step % config.save_steps == 0 or progress.step == recipe.steps:
            write_checkpoint(folder / "checkpoints", recipe, progress, log)


def one_step(recipe: Pretraining, batch: Any, where: str) -> dict[str, float]:
    """Forward, backward, update; returns the numbers to log."""
    loss, numbers = recipe.losses(batch)
    if not torch.isfinite(loss):
        raise DivergedError(f"The loss is {loss.item()}", where, "Start the same command with a smaller `lr` and another `out`.")
    loss.backward()
    nn.utils.clip_grad_norm_(recipe.module.parameters(), 1.0)
    recipe.optimizer.step()
    recipe.optimizer.zero_grad(set_to_none=True)
    return {name: number.item() for name, number in numbers.items()}


@contextmanager
def stop_on_signal() -> Iterator[threading.Event]:
    """An event that SIGTERM sets, in the place of what it did before."""
    stop = threading.Event()
    before = signal.signal(signal.SIGTERM, lambda *_: stop.set())
    try:
        yield stop
    finally:
        signal.signal(signal.SIGTERM, before)
