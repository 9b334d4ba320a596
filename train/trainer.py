"""What the stages share of transformers' Trainer: metrics.jsonl, sealed checkpoints, CPU autocast, a clean stop."""

from __future__ import annotations

import importlib.util
import os
import sys
import time
from functools import wraps
from pathlib import Path

import torch
from transformers import Trainer, TrainingArguments
from transformers.integrations.deepspeed import unset_hf_deepspeed_config
from trl import DPOConfig as TrlDpoConfig
from trl import DPOTrainer

from omnivision.errors import ConfigError, DivergedError, PlanError
from omnivision.runs import newest_checkpoint, read_json
from omnivision_train import checkpoint
from omnivision_train.callbacks import Log, StopOnSignal
from omnivision_train.config import DpoConfig, StageConfig
from omnivision_train.data import Order
from omnivision_train.deepspeed_config import deepspeed_config
from omnivision_train.optimizer import MuonAdamW
from omnivision_train.precision import cpu_autocast, resolved
from omnivision_train.throughput import Flops, device_peak

MOST_SKIPPED = 5  # steps in a row without a finite loss and gradient


class StageMixin:
    """What our trainers change of transformers': see each method. The trainers of all stages take it in."""

    stage_config: StageConfig
    processor: object  # saved with every checkpoint

    def compute_loss(self, *args, **kwargs):
        with cpu_autocast(self.stage_config):
            return super().compute_loss(*args, **kwargs)

    def create_optimizer(self, model=None):
        if self.stage_config.optimizer == "muon" and self.optimizer is None:
            named = [(name, p) for name, p in self.model.named_parameters() if p.requires_grad]
            self.optimizer = MuonAdamW(named, self.args.learning_rate, weight_decay=self.args.weight_decay)
        optimizer = super().create_optimizer(model)
        skip_without_numbers(optimizer)
        return optimizer

    def global_batch(self) -> int:
        """Rows of one optimizer step, over accumulation and processes."""
        return self.args.train_batch_size * self.args.gradient_accumulation_steps * self.args.world_size

    def _get_train_sampler(self, train_dataset=None):
        samples = self.train_dataset if train_dataset is None else train_dataset
        lengths = samples.lengths() if self.stage_config.group_by_length and hasattr(samples, "lengths") else None
        self._order = Order(len(samples), self.global_batch(), self.args.seed, lengths)
        return self._order

    def _run_epoch(self, *args, epoch, **kwargs):
        self._order.set_epoch(epoch)  # accelerate's loaders do not reach it when several processes skip batches
        return super()._run_epoch(*args, epoch=epoch, **kwargs)

    # -- meters: what a log line tells since the line before

    def _inner_training_loop(self, *args, **kwargs):
        self._skipped, self._skipped_in_a_row, self._skipped_since_log = 0, 0, 0
        self._before_step, self._last_logged, self._step_rows = torch.zeros(()), 0, []
        self._tokens, self._pictures, self._since = 0, 0, time.perf_counter()
        self._flops = Flops(self.model, self.data_collator.cache is not None, getattr(self, "ref_model", None) is not None)
        return super()._inner_training_loop(*args, **kwargs)

    def training_step(self, model, inputs, num_items_in_batch=None):
        self._step_rows += inputs.pop("row_ids", [])
        self._tokens += inputs.pop("num_tokens", 0)
        self._pictures += next((len(inputs[key]) for key in ("image_features", "pixel_values") if key in inputs), 0)
        return super().training_step(model, inputs, num_items_in_batch)

    def _maybe_log_save_evaluate(self, tr_loss, grad_norm, *args, **kwargs):
        """After every optimizer step: a step that DeepSpeed or skip_without_numbers left out counts in no mean."""
        if self._step_rows:  # transformers calls this once more after an epoch
            if self.accelerator.optimizer_step_was_skipped:
                self._count_skipped(tr_loss)
            else:
                self._skipped_in_a_row = 0
            self._before_step, self._step_rows = tr_loss.detach().clone(), []
        logging = self.control.should_log and self.state.global_step > self._globalstep_last_logged
        super()._maybe_log_save_evaluate(tr_loss, grad_norm, *args, **kwargs)
        if logging:
            self._before_step = torch.zeros_like(self._before_step)

    def _count_skipped(self, tr_loss: torch.Tensor) -> None:
        tr_loss.copy_(self._before_step)
        self._skipped, self._skipped_in_a_row, self._skipped_since_log = (
            self._skipped + 1, self._skipped_in_a_row + 1, self._skipped_since_log + 1)
        rows = sorted({row for rows in checkpoint.gathered(self._step_rows) for row in rows})
        step = self.state.global_step
        if self.is_world_process_zero():
            print(f"step {step}: loss or gradient is no number; the step is skipped (rows {', '.join(rows[:8])})", file=sys.stderr)
        if self._skipped_in_a_row == MOST_SKIPPED:
            raise DivergedError(f"Loss or gradient were no numbers in {MOST_SKIPPED} steps in a row", f"step {step}, rows {', '.join(rows)}",
                                "Lower `lr`, or look at these rows; the last checkpoint is from before.")

    def log(self, logs, *args, **kwargs):
        if "loss" in logs and self._skipped:
            window = self.state.global_step - self._last_logged
            counted = window - self._skipped_since_log
            logs["loss"] = logs["loss"] * window / counted if counted else float("nan")
            logs["skipped"] = self._skipped
        if "loss" in logs:
            logs |= self._speed()
            self._last_logged, self._skipped_since_log = self.state.global_step, 0
        return super().log(logs, *args, **kwargs)

    def _speed(self) -> dict[str, float]:
        """Tokens a second over all processes since the last log line, and the share of the chips' peak where that is known."""
        tokens, pictures = map(sum, zip(*checkpoint.gathered((self._tokens, self._pictures)), strict=True))
        now = time.perf_counter()
        seconds, self._since, self._tokens, self._pictures = now - self._since, now, 0, 0
        speed, peak = {"tokens_per_second": tokens / seconds}, device_peak()
        return speed | ({"peak_share": self._flops.of(tokens, pictures) / seconds / peak / self.args.world_size} if peak else {})

    def meters(self) -> dict:
        """This process' running sums, for a checkpoint."""
        return {"loss": self._tr_loss.item(), "logged": self._globalstep_last_logged,
                "skipped": [self._skipped, self._skipped_in_a_row, self._skipped_since_log],
                "means": {key: list(values) for key, values in getattr(self, "_metrics", {}).get("train", {}).items()}}

    def set_meters(self, meters: dict) -> None:
        """Continues them."""
        self._tr_loss.fill_(meters["loss"])
        self._before_step = self._tr_loss.clone()
        self._globalstep_last_logged = self._last_logged = meters["logged"]
        self._skipped, self._skipped_in_a_row, self._skipped_since_log = meters["skipped"]
        for key, values in meters.get("means", {}).items():
            self._metrics["train"][key] = list(values)

    # -- checkpoints: ours in place of transformers' and DeepSpeed's

    def _save_checkpoint(self, model, trial) -> None:
        checkpoint.write(self, Path(self.args.output_dir), self.stage_config.keep_checkpoints)

    def _init_training_state(self, max_steps, steps_per_epoch, num_train_epochs, resume_from_checkpoint, trial):
        begun = super()._init_training_state(max_steps, steps_per_epoch, num_train_epochs, None, trial)
        if resume_from_checkpoint is None:
            return begun
        saved = read_json(Path(resume_from_checkpoint) / checkpoint.STATE)
        self.state.global_step, self.state.epoch = saved["global_step"], saved["epoch"]
        epochs, steps = divmod(saved["global_step"], steps_per_epoch)
        return epochs, steps * self.args.gradient_accumulation_steps

    def _prepare_for_training(self, max_steps, train_dataloader, resume_from_checkpoint):
        if resume_from_checkpoint is None:
            return super()._prepare_for_training(max_steps, train_dataloader, None)
        checkpoint.load_weights(self.model, Path(resume_from_checkpoint))
        prepared = super()._prepare_for_training(max_steps, train_dataloader, None)
        checkpoint.restore(self, Path(resume_from_checkpoint))
        return prepared

    def _load_rng_state(self, folder) -> None:
        if folder is not None:
            checkpoint.restore_rank(self, Path(folder))

    def _save(self, output_dir=None, state_dict=None) -> None:
        # DeepSpeed's gathered copies share no memory any more: transformers would write a tied head twice
        if state_dict is not None and self.model.config.tie_word_embeddings:
            state_dict = {name: tensor for name, tensor in state_dict.items() if name != "lm_head.weight"}
        super()._save(output_dir, state_dict=state_dict)


class StageTrainer(StageMixin, Trainer):
    """align, sft, functions: the model's own loss over supervised tokens."""


class PairTrainer(StageMixin, DPOTrainer):
    """dpo: TRL's loss; pictures may come as cached features."""


def skip_without_numbers(optimizer: torch.optim.Optimizer) -> None:
    """Makes an optimizer leave out an update whose gradients are not all finite, and say so in `overflow`.

    DeepSpeed's ZeRO optimizers do the same by themselves; without ZeRO nobody does. The gradients are summed over all
    processes by then, so that all come to the same end.
    """
    update, optimizer.overflow = optimizer.step, False

    @wraps(update)
    def step(*args, **kwargs):
        gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        norms = torch.stack(torch._foreach_norm(gradients)) if gradients else torch.zeros(())
        optimizer.overflow = not bool(torch.isfinite(norms).all())
        return None if optimizer.overflow else update(*args, **kwargs)

    optimizer.step = step


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
        save_strategy="steps", save_steps=config.save_steps, logging_steps=config.log_steps, report_to=report_to(config, folder),
        logging_nan_inf_filter=False,  # StageMixin counts them
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


def report_to(config: StageConfig, folder: Path) -> str:
    """transformers' name of the dashboard that the config asks for.

    Raises:
        ConfigError: its package is not installed.
    """
    if config.report_to != "none" and importlib.util.find_spec(config.report_to) is None:
        raise ConfigError(f"The package {config.report_to} is not installed", f"report_to: {config.report_to}",
                          f"pip install {config.report_to}; metrics.jsonl is written in any case.")
    os.environ.setdefault("TENSORBOARD_LOGGING_DIR", str(folder / "tensorboard"))
    return config.report_to


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


def check_global_batch(trainer: Trainer, newest: Path) -> None:
    """The place in the data is a number of steps, so a step stays as many rows.

    Raises:
        ConfigError: another global batch than the run began with.
    """
    began, now = read_json(newest / checkpoint.PROGRESS)["global_batch"], trainer.global_batch()
    if began != now:
        raise ConfigError(f"The run in this folder began with {began} rows a step, now it would be {now}", str(newest.parent.parent),
                          f"Choose `batch_size` x `accumulation` x processes = {began}, or another `out`.")


def out_of_memory(config: StageConfig, stage: str) -> PlanError:
    """What a stage says that had no room, with settings that need less and train the same."""
    half, rest = max(1, config.batch_size // 2), config.batch_size - max(1, config.batch_size // 2)
    advice = [f"batch_size={half} accumulation={config.accumulation * 2} (the same global batch)"] if rest and config.batch_size % 2 == 0 else []
    advice += ["gradient_checkpointing=true"] if not config.gradient_checkpointing else []
    advice += [f"zero_stage={2 if config.zero_stage < 2 else 3}"] if config.zero_stage < 3 else []
    advice += ["offload_optimizer=true"] if not config.offload_optimizer else []
    return PlanError("Out of memory", f"{stage}: batch_size {config.batch_size}, max_length {config.max_length}",
                     f"Start the same command with {', or '.join(advice) or 'a smaller preset'}; it goes on from its last checkpoint.")


def fit(trainer: Trainer, config: StageConfig, processor, folder: Path, stage: str) -> None:
    """Trains, from the newest checkpoint that verifies where there is one.

    Raises:
        SystemExit: 143, after a checkpoint, on SIGTERM.
    """
    trainer.stage_config, trainer.processor = config, processor
    checkpoint.clear_leftovers(folder / "checkpoints")
    stop = StopOnSignal()
    for callback in (Log(folder, stage), stop):
        trainer.add_callback(callback)
    newest = newest_checkpoint(folder / "checkpoints", lambda message: print(message, file=sys.stderr))
    if newest:
        check_global_batch(trainer, newest)
    try:
        trainer.train(resume_from_checkpoint=str(newest) if newest else None)
    except (torch.OutOfMemoryError, MemoryError) as error:
        raise out_of_memory(config, stage) from error
    if stop.stopped:
        raise SystemExit(143)
