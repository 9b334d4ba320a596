"""One arm of pair_speed: a trainer in a process of its own, which steps when it is told to.

It reads a number of steps a line from stdin, and answers with a line of JSON; at the end of its input it tells its peak memory and ends.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TextIO

import torch
from transformers import TrainerCallback

from omnivision.memory import peak_gib
from omnivision.runs import read_json_lines
from omnivision_train.config import DpoConfig


@dataclass(frozen=True)
class Arm:
    """What an arm trains, as the parent says it."""

    name: str  # stock or ours
    folder: str
    start: str
    pairs: str
    image_root: str
    batch_size: int
    precision: str
    changes: dict  # keys of DpoConfig, for ours

    def config(self) -> DpoConfig:
        """Ours, with what is given."""
        kept = {"feature_cache": f"{self.folder}/features", "reference_cache": f"{self.folder}/reference"}
        return DpoConfig(**{"out": self.folder, "start": self.start, "data": [self.pairs], "image_root": self.image_root, "batch_size": self.batch_size,
                            "precision": self.precision, "epochs": 1e6, "lr": 1e-4, "schedule": "constant", "warmup": 0.0, "log_steps": 1,
                            "save_steps": 10**9, **kept, **self.changes})


class Paced(TrainerCallback):
    """Waits before a step for the number of steps to make, and tells what they took."""

    def __init__(self, answers: TextIO) -> None:
        self.answers, self.left, self.logged = answers, 0, []

    def on_step_begin(self, args, state, control, **kwargs) -> None:
        if self.left == 0:
            self.answer(ready=True)
            self.wait()

    def on_log(self, args, state, control, logs=None, **kwargs) -> None:
        self.logged.append({key: logs[key] for key in ("loss", "grad_norm") if key in logs})
        self.left -= 1
        if self.left == 0:
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            self.answer(seconds=time.perf_counter() - self.began, cpu=_cpu_seconds() - self.cpu, logged=self.logged)
            self.wait()

    def wait(self) -> None:
        """For a number of steps; ends the process where none comes."""
        line = sys.stdin.readline()
        if not line:
            self.answer(peak_gib=peak_gib())
            raise SystemExit(0)
        self.left, self.logged, self.began, self.cpu = int(line), [], time.perf_counter(), _cpu_seconds()

    def answer(self, **said) -> None:
        """One line."""
        self.answers.write(json.dumps(said) + "\n")
        self.answers.flush()


def _cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def run(arm: Arm) -> None:
    """Trains until the input ends."""
    with os.fdopen(os.dup(1), "w") as answers:
        os.dup2(2, 1)  # libraries print to stdout; the parent reads answers only
        paced = Paced(answers)
        {"ours": run_ours, "stock": run_stock}[arm.name](arm, paced)


def run_ours(arm: Arm, paced: Paced) -> None:
    """The stage as it is."""
    from omnivision_train.dpo import dpo

    dpo(arm.config(), callbacks=[paced])


def run_stock(arm: Arm, paced: Paced) -> None:
    """TRL's DPOTrainer with its own collator, loss and loop, a second model as its reference, and our order of rows."""
    import copy

    from datasets import Dataset, Image
    from trl import DPOConfig, DPOTrainer

    from omnivision import OmniVisionForConditionalGeneration, OmniVisionProcessor
    from omnivision_train.data import Order
    from omnivision_train.precision import resolved
    from omnivision_train.stages import set_trainable

    config = arm.config()

    class Stock(DPOTrainer):
        """In the order of the other arm."""

        def _get_train_sampler(self, train_dataset=None):
            return Order(len(self.train_dataset), arm.batch_size, self.args.seed)

    attention = None if torch.cuda.is_available() else "eager"  # the faster one for both
    model = OmniVisionForConditionalGeneration.from_pretrained(arm.start, attn_implementation=attention)
    processor = OmniVisionProcessor.from_pretrained(arm.start)
    reference = copy.deepcopy(model).requires_grad_(False).eval()
    set_trainable(model, "dpo")
    rows = read_json_lines(Path(arm.pairs))
    data = Dataset.from_list([stock_row(row, processor, arm.image_root) for row in rows]).cast_column("images", [Image()])
    arguments = DPOConfig(
        output_dir=f"{arm.folder}/stock", per_device_train_batch_size=arm.batch_size, num_train_epochs=config.epochs, learning_rate=config.lr,
        lr_scheduler_type=config.schedule, beta=config.beta, max_length=None, bf16=resolved(config) == "bf16", use_cpu=not torch.cuda.is_available(),
        gradient_checkpointing=False, save_strategy="no", report_to="none", logging_steps=1, seed=config.seed, weight_decay=config.weight_decay,
        max_grad_norm=config.max_grad_norm, disable_tqdm=True)
    Stock(model=model, ref_model=reference, args=arguments, train_dataset=data, processing_class=processor, callbacks=[paced]).train()


def stock_row(row: dict, processor, image_root: str) -> dict:
    """A row in TRL's plain format: rendered by the template, and without the line end that it writes after an answer, which we do not train on."""
    message = {"role": "user", "content": [*({"type": "image"} for _ in row["images"]), {"type": "text", "text": row["prompt"]}]}
    prompt = processor.apply_chat_template([message], add_generation_prompt=True, tokenize=False)
    return {"prompt": prompt, **{side: f"{row[side]}<|im_end|>" for side in ("chosen", "rejected")},
            "images": [str(Path(image_root) / image) for image in row["images"]]}


if __name__ == "__main__":
    given = json.loads(sys.argv[1])
    run(Arm(**{field.name: given[field.name] for field in fields(Arm)}))
