"""What happens beside the steps: the log, the progress bar, the clean stop."""

from __future__ import annotations

import json
import math
import signal
import sys
import time
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from transformers import Trainer, TrainerCallback

from omnivision.runs import read_json, write_json, write_text


class Log(TrainerCallback):
    """metrics.jsonl, and on stderr a progress bar (on a terminal) or a line each time."""

    def __init__(self, folder: Path, stage: str) -> None:
        self.file, self.stage, self.started = folder / "metrics.jsonl", stage, time.time()
        self.console = Console(stderr=True)

    def on_train_begin(self, args, state, control, **kwargs) -> None:
        self.first = state.global_step
        if not state.is_world_process_zero:
            return
        self.bar = Progress(TextColumn(self.stage), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[state]}"), TimeRemainingColumn(),
                            console=self.console, disable=not self.console.is_terminal)
        self.task = self.bar.add_task("", total=state.max_steps, completed=state.global_step, state="")
        self.bar.start()
        if self.file.is_file():  # steps after the checkpoint are run again
            lines = [line for line in self.file.read_text().splitlines() if line.endswith("}")]  # a kill may leave half a line
            kept = [line for line in lines if json.loads(line)["step"] <= state.global_step]
            write_text(self.file, "".join(line + "\n" for line in kept))

    def on_step_end(self, args, state, control, **kwargs) -> None:
        control.should_log |= state.global_step >= state.max_steps  # the last steps too
        if state.is_world_process_zero:
            self.bar.update(self.task, completed=state.global_step)

    def on_train_end(self, args, state, control, **kwargs) -> None:
        if state.is_world_process_zero:
            self.bar.stop()

    def on_log(self, args, state, control, logs=None, **kwargs) -> None:
        if not state.is_world_process_zero or not logs or "loss" not in logs:
            return
        seconds = time.time() - self.started
        line = {"step": state.global_step, "seconds": round(seconds, 2)}
        line |= {key: value if math.isfinite(value) else None for key, value in logs.items() if isinstance(value, int | float)}
        with self.file.open("a") as file:
            file.write(json.dumps(line) + "\n")
        said = f"loss {logs['loss']:.4f}  {logs['tokens_per_second']:,.0f} tokens/s"
        said += f"  {100 * logs['peak_share']:.1f} % of peak" if "peak_share" in logs else ""
        self.bar.update(self.task, state=said)
        if not self.console.is_terminal:
            left = seconds / max(1, state.global_step - self.first) * (state.max_steps - state.global_step)
            self.console.file.write(f"{self.stage} {state.global_step}/{state.max_steps}  {said}  {left:.0f} s left\n")
            self.console.file.flush()


class HeldOut(TrainerCallback):
    """held_out.json: the loss over rows that do not train, before the first step and after the last."""

    def __init__(self, trainer: Trainer, samples, file: Path) -> None:
        self.trainer, self.samples, self.file = trainer, samples, file

    def on_train_begin(self, args, state, control, **kwargs) -> None:
        if state.global_step == 0:
            self._tell(state, "before")

    def on_train_end(self, args, state, control, **kwargs) -> None:
        if state.global_step >= state.max_steps:
            self._tell(state, "after")

    def _tell(self, state, when: str) -> None:
        loss = self.trainer.held_out_loss(self.samples)
        if state.is_world_process_zero:
            known = read_json(self.file) if when == "after" and self.file.is_file() else {}
            write_json(self.file, {**known, "rows": len(self.samples), when: loss})
            print(f"held-out loss {when}: {loss:.4f} ({len(self.samples)} rows)", file=sys.stderr)


def tensorboard(folder: Path, again: int | None) -> TrainerCallback:
    """transformers' callback, writing into the run's folder; what it holds from step `again` on is run again, and not shown twice."""
    from torch.utils.tensorboard import SummaryWriter
    from transformers.integrations import TensorBoardCallback

    return TensorBoardCallback(SummaryWriter(log_dir=str(folder / "tensorboard"), purge_step=again))


class StopOnSignal(TrainerCallback):
    """SIGTERM to any process: all save at the end of the step and exit with 143."""

    def __init__(self) -> None:
        self.stopped = False

    def on_train_begin(self, args, state, control, **kwargs) -> None:
        signal.signal(signal.SIGTERM, self._stop)

    def _stop(self, *_) -> None:
        self.stopped = True

    def on_step_end(self, args, state, control, **kwargs) -> None:
        if args.world_size > 1:  # one process alone must not leave the others waiting
            stopped = torch.tensor([float(self.stopped)], device=args.device)
            torch.distributed.all_reduce(stopped, op=torch.distributed.ReduceOp.MAX)
            self.stopped = bool(stopped.item())
        if self.stopped:
            control.should_save = control.should_training_stop = True
