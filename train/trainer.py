"""What the stages share of transformers' Trainer: metrics.jsonl, sealed checkpoints, CPU autocast, a clean stop."""

from __future__ import annotations

import json
import math
import shutil
import signal
import sys
import time
from pathlib import Path

import torch
from transformers import Trainer, TrainerCallback, TrainingArguments
from transformers.integrations.deepspeed import unset_hf_deepspeed_config
from trl import DPOConfig as TrlDpoConfig
from trl import DPOTrainer

from omnivision.errors import ConfigError, DivergedError
from omnivision.runs import newest_checkpoint, seal
from omnivision_train.config import DpoConfig, StageConfig
from omnivision_train.data import ByLength
from omnivision_train.deepspeed_config import deepspeed_config
from omnivision_train.optimizer import MuonAdamW
from omnivision_train.precision import cpu_autocast, resolved


class StageMixin:
    """Autocast on a CPU, the config's optimizer, a tied head written once; the trainers of all stages take it in."""

    stage_config: StageConfig

    def compute_loss(self, *args, **kwargs):
        with cpu_autocast(self.stage_config):
            return super().compute_loss(*args, **kwargs)

    def create_optimizer(self, model=None):
        if self.stage_config.optimizer == "muon" and self.optimizer is None:
            named = [(name, p) for name, p in self.model.named_parameters() if p.requires_grad]
            self.optimizer = MuonAdamW(named, self.args.learning_rate, weight_decay=self.args.weight_decay)
        return super().create_optimizer(model)

    def _save(self, output_dir=None, state_dict=None) -> None:
        # DeepSpeed's gathered copies share no memory any more: transformers would write a tied head twice
        if state_dict is not None and self.model.config.tie_word_embeddings:
            state_dict = {name: tensor for name, tensor in state_dict.items() if name != "lm_head.weight"}
        super()._save(output_dir, state_dict=state_dict)


class StageTrainer(StageMixin, Trainer):
    """align, sft, functions: the model's own loss over supervised tokens; batches of rows of like length."""

    def _get_train_sampler(self, train_dataset=None):
        if not self.stage_config.group_by_length:
            return super()._get_train_sampler(train_dataset)
        samples = self.train_dataset if train_dataset is None else train_dataset
        batch = self.args.train_batch_size * self.args.gradient_accumulation_steps * self.args.world_size
        return ByLength([len(sample.input_ids) for sample in samples.samples], batch, self.args.seed)


class PairTrainer(StageMixin, DPOTrainer):
    """dpo: TRL's loss; pictures may come as cached features."""


class Log(TrainerCallback):
    """metrics.jsonl and one line of progress on stderr; a loss that is not a number ends the run."""

    def __init__(self, folder: Path, stage: str) -> None:
        self.file, self.stage, self.started = folder / "metrics.jsonl", stage, time.time()

    def on_train_begin(self, args, state, control, **kwargs) -> None:
        if state.is_world_process_zero and self.file.is_file():  # steps after the checkpoint are run again
            kept = [line for line in self.file.read_text().splitlines() if json.loads(line)["step"] <= state.global_step]
            self.file.write_text("".join(line + "\n" for line in kept))

    def on_log(self, args, state, control, logs=None, **kwargs) -> None:
        if not state.is_world_process_zero or not logs or "loss" not in logs:
            return
        line = {"step": state.global_step, "seconds": round(time.time() - self.started, 2)}
        line |= {key: value for key, value in logs.items() if isinstance(value, int | float)}
        with self.file.open("a") as file:
            file.write(json.dumps(line) + "\n")
        left = (time.time() - self.started) / max(1, state.global_step) * (state.max_steps - state.global_step)
        print(f"{self.stage} {state.global_step}/{state.max_steps}  loss {logs['loss']:.4f}  {left:.0f} s left",
              file=sys.stderr, flush=True)
        if not math.isfinite(logs["loss"]):
            raise DivergedError(f"The loss is {logs['loss']}", f"step {state.global_step}", "Lower `lr`, or look at the data.")


class Seal(TrainerCallback):
    """Turns the Trainer's checkpoint-N into step-N: flushed, hashed, renamed; then purges older ones."""

    def __init__(self, keep: int) -> None:
        self.keep = keep

    def on_save(self, args, state, control, **kwargs) -> None:
        if torch.distributed.is_initialized():
            torch.distributed.barrier()  # every rank writes its random state last, without waiting for the others
        if not state.is_world_process_zero:
            return
        folder = Path(args.output_dir)
        seal(folder / f"checkpoint-{state.global_step}", folder / f"step-{state.global_step}")
        sealed = sorted(folder.glob("step-*"), key=lambda p: int(p.name.split("-")[1]))
        for old in sealed[: -self.keep]:
            shutil.rmtree(old)


class StopOnSignal(TrainerCallback):
    """SIGTERM: save at the end of the step, then exit 143."""

    def __init__(self) -> None:
        self.stopped = False

    def on_train_begin(self, args, state, control, **kwargs) -> None:
        signal.signal(signal.SIGTERM, self._stop)

    def _stop(self, *_) -> None:
        self.stopped = True

    def on_step_end(self, args, state, control, **kwargs) -> None:
        if self.stopped:
            control.should_save = control.should_training_stop = True


def training_arguments(config: StageConfig, folder: Path) -> TrainingArguments:
    """transformers' (for dpo: TRL's) arguments of a stage."""
    on_gpu = torch.cuda.is_available()
    check_optimizer(config)
    shared = dict(
        output_dir=str(folder / "checkpoints"), per_device_train_batch_size=config.batch_size,
        gradient_accumulation_steps=config.accumulation, num_train_epochs=config.epochs, max_steps=config.max_steps,
        learning_rate=config.lr, lr_scheduler_type=config.schedule, warmup_steps=config.warmup,
        weight_decay=config.weight_decay, max_grad_norm=config.max_grad_norm, bf16=on_gpu and resolved(config) == "bf16",
        gradient_checkpointing=config.gradient_checkpointing, deepspeed=deepspeed_config(config),
        save_strategy="steps", save_steps=config.save_steps, logging_steps=config.log_steps, report_to="none",
        logging_nan_inf_filter=False,  # Log has to see a loss that is not a number
        seed=config.seed, data_seed=config.seed, dataloader_num_workers=config.workers, remove_unused_columns=False,
        use_cpu=not on_gpu, disable_tqdm=True, label_names=["labels"],
    )
    if isinstance(config, DpoConfig):
        weights = {"sigmoid": 1.0, "sft": config.sft_weight} if config.sft_weight else {"sigmoid": 1.0}
        made = TrlDpoConfig(beta=config.beta, loss_type=list(weights), loss_weights=list(weights.values()),
                            max_length=None, **shared)
    else:
        made = TrainingArguments(**shared)
    # Under ZeRO-3 transformers would part weights while they load; the tower's cache, the copy for dpo and new rows for
    # functions need them whole, and below a billion parameters a rank can hold them until the trainer takes over.
    unset_hf_deepspeed_config()
    return made


def check_optimizer(config: StageConfig) -> None:
    """Refuses an optimizer that its parallel setting would break.

    Raises:
        ConfigError: Muon where DeepSpeed flattens or parts the matrices.
    """
    if config.optimizer != "muon":
        return
    json_stage = deepspeed_config(config).get("zero_optimization", {}).get("stage", 0)
    if json_stage != 0 or (torch.cuda.is_available() and resolved(config) == "bf16"):
        why = f"zero_stage {json_stage} hands it flat pieces" if json_stage else "DeepSpeed's bf16 on a GPU hands it flat pieces"
        raise ConfigError(f"Muon needs whole matrices, and {why}", "optimizer: muon",
                          "Use optimizer=adamw, or zero_stage=0 on a CPU or with precision=fp32.")


def fit(trainer: Trainer, config: StageConfig, folder: Path, stage: str) -> None:
    """Trains, from the newest checkpoint that verifies where there is one.

    Raises:
        SystemExit: 143, after a checkpoint, on SIGTERM.
    """
    trainer.stage_config = config
    stop = StopOnSignal()
    for callback in (Log(folder, stage), Seal(config.keep_checkpoints), stop):
        trainer.add_callback(callback)
    checkpoint = newest_checkpoint(folder / "checkpoints", lambda message: print(message, file=sys.stderr))
    trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    if stop.stopped:
        raise SystemExit(143)
