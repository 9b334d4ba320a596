"""The stages' trainers: transformers' with our order of rows, meters, skipped steps and checkpoints."""

from __future__ import annotations

import statistics
import sys
import time
from collections import Counter
from functools import wraps
from pathlib import Path

import torch
from deepspeed.runtime import bf16_optimizer
from deepspeed.runtime.engine import DeepSpeedEngine
from torch import nn
from transformers import PrinterCallback, Trainer

from omnivision.constants import IGNORE_INDEX
from omnivision.errors import DivergedError, PlanError
from omnivision.functions import FunctionSet
from omnivision.memory import peak_gib
from omnivision.runs import read_json
from omnivision_train import checkpoint
from omnivision_train.activations import Batch
from omnivision_train.attention import set_attention
from omnivision_train.callbacks import HeldOut, Log, StopOnSignal, tensorboard
from omnivision_train.compiled import compile_layers, compiles
from omnivision_train.config import StageConfig
from omnivision_train.data import Order, leave_group
from omnivision_train.deepspeed_config import adds_alone, zero_settings
from omnivision_train.encoding import as_pixels, encode_rest
from omnivision_train.flat_gradients import flatten_gradients
from omnivision_train.loss_kernel import set_loss_kernel
from omnivision_train.memory import check_memory, device_memory, held_with_batch, less_memory, on_meta
from omnivision_train.optimizer import MuonAdamW
from omnivision_train.precision import cpu_autocast, resolved
from omnivision_train.throughput import Flops, device_peak

OTHER_RANK = 1_000_003  # from one process' seed to the next one's: far from the seeds that people choose
MOST_SKIPPED = 5  # steps in a row without a finite loss and gradient


class StageMixin:
    """What our trainers change of transformers': see each method. The trainers of all stages take it in."""

    stage_config: StageConfig
    processor: object | None = None  # saved with every checkpoint
    functions: FunctionSet | None = None  # too, where the model has them
    passes: list[float] | None = None  # over each file of the data in an epoch
    frozen: dict[str, torch.Tensor] | None  # what DeepSpeed's bf16 rounds though it does not train, kept by the first process

    def compute_loss(self, model, inputs, *args, **kwargs):
        with cpu_autocast(self.stage_config):
            as_pixels(self.model, self.processor, inputs)
            encode_rest(self.model, inputs)
            return super().compute_loss(model, inputs, *args, **kwargs)

    def _prepare_input(self, data):
        """To the device as it is: transformers would round all numbers to DeepSpeed's bf16, dpo's weights and sums too. Pictures follow in as_pixels."""
        return data.to(self.args.device) if isinstance(data, torch.Tensor) else super()._prepare_input(data)

    def _clip_grad_norm(self, model):
        """Nothing: DeepSpeed, or clip_or_skip, has clipped."""

    def _get_grad_norm(self, model, grad_norm=None):
        """May still be a tensor, which accelerate would wait for at every step."""
        return self.deepspeed.get_global_grad_norm()

    def heads(self) -> int:
        """How often the head runs on what is supervised, at this step."""
        return 1

    def floating_point_ops(self, inputs) -> int:
        """Nothing: transformers would go over all parameters at every step; Flops has counted them once."""
        return 0

    def create_optimizer(self, model=None):
        if self.stage_config.optimizer == "muon" and self.optimizer is None:
            named = [(name, p) for name, p in self.model.named_parameters() if p.requires_grad]
            self.optimizer = MuonAdamW(named, self.args.learning_rate, weight_decay=self.args.weight_decay)
        optimizer = super().create_optimizer(model)
        if getattr(self.stage_config, "vision_lr", None) is not None:
            give_own_rate(optimizer, {id(p) for p in self.model.model.vision_tower.parameters()}, self.stage_config.vision_lr)
        if zero_settings(self.stage_config)[0] == 0:
            optimizer.overflow = False  # accelerate looks for it once, before clip_or_skip sets it
        return optimizer

    def global_batch(self) -> int:
        """Rows of one optimizer step, over accumulation and processes."""
        return self.args.train_batch_size * self.args.gradient_accumulation_steps * self.args.world_size

    def _get_train_sampler(self, train_dataset=None):
        samples = self.train_dataset if train_dataset is None else train_dataset
        lengths = samples.lengths() if self.stage_config.group_by_length and hasattr(samples, "lengths") else None
        parts = [sample.part for sample in samples] if self.passes else ()
        self._order = Order(len(samples), self.global_batch(), self.args.seed, lengths, parts, self.passes)
        return self._order

    def get_train_dataloader(self):
        """Every start of a loader draws a number. A run that goes on starts more of them than one that nobody stopped: theirs is a generator of their own,
        or what dropout draws would differ from there on."""
        prepared = super().get_train_dataloader()
        loader = prepared.base_dataloader
        loader.generator, loader.worker_init_fn = torch.Generator().manual_seed(self.args.seed), leave_group
        return prepared

    def _run_epoch(self, *args, epoch, **kwargs):
        if self.state.global_step >= self.state.max_steps:  # resumed from the last step: transformers would do one more
            self.control.should_training_stop = True
            return None
        self._order.set_epoch(epoch)  # accelerate's loaders do not reach it when several processes skip batches
        return super()._run_epoch(*args, epoch=epoch, **kwargs)

    # -- meters: what a log line tells since the line before

    def _inner_training_loop(self, *args, **kwargs):
        self._skipped, self._skipped_in_a_row, self._skipped_since_log = 0, 0, 0
        self._before_step, self._last_logged, self._step_rows = torch.zeros(()), 0, []
        self._seen, self._since, self._waited = Counter(), time.perf_counter(), 0.0
        self._means_before: dict[str, int] = {}
        self._flops = Flops(self.model, self.data_collator.cache is not None, getattr(self, "ref_model", None) is not None,
                            getattr(self.stage_config, "frozen_layers", 0))
        return super()._inner_training_loop(*args, **kwargs)

    def get_batch_samples(self, *args, **kwargs):
        started = time.perf_counter()
        found = super().get_batch_samples(*args, **kwargs)
        self._waited += time.perf_counter() - started
        return found

    def training_step(self, model, inputs, num_items_in_batch=None):
        self._step_rows += inputs.pop("row_ids", [])
        self._seen["tokens"] += inputs.pop("num_tokens", 0)
        self._seen["supervised"] += inputs.pop("num_supervised", 0) * self.heads()
        self._seen["pictures"] += max(1, sum(len(inputs[key]) for key in ("image_features", "pixel_values") if key in inputs))  # a blank one for texts alone
        self._seen["uncached"] += len(inputs["pixel_values"]) if "unencoded" in inputs else 0
        return super().training_step(model, inputs, num_items_in_batch)

    def _maybe_log_save_evaluate(self, tr_loss, grad_norm, *args, **kwargs):
        """After every optimizer step: a step that DeepSpeed or clip_or_skip left out counts in no mean."""
        if self._step_rows:  # transformers calls this once more after an epoch
            if self.accelerator.optimizer_step_was_skipped:
                self._count_skipped(tr_loss)
            else:
                self._skipped_in_a_row = 0
            self._before_step, self._step_rows = tr_loss.detach().clone(), []
            self._means_before = {key: len(values) for key, values in self._means().items()}
        logging = self.control.should_log and self.state.global_step > self._globalstep_last_logged
        super()._maybe_log_save_evaluate(tr_loss, grad_norm, *args, **kwargs)
        if logging:
            self._before_step, self._means_before = torch.zeros_like(self._before_step), {}

    def _count_skipped(self, tr_loss: torch.Tensor) -> None:
        tr_loss.copy_(self._before_step)
        for key, values in self._means().items():
            del values[self._means_before.get(key, 0):]
        self._skipped, self._skipped_in_a_row, self._skipped_since_log = (
            self._skipped + 1, self._skipped_in_a_row + 1, self._skipped_since_log + 1)
        rows = sorted({row for rows in checkpoint.gathered(self._step_rows) for row in rows})
        step = self.state.global_step
        if self.is_world_process_zero():
            print(f"step {step}: loss or gradient is not finite; the step is skipped (rows {', '.join(rows[:8])})", file=sys.stderr)
        if self._skipped_in_a_row == MOST_SKIPPED:
            raise DivergedError(f"Loss or gradient were not finite in {MOST_SKIPPED} steps in a row", f"step {step}, rows {', '.join(rows)}",
                                "Look at these rows, or begin again with a lower `lr`; both need another `out`.")

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
        """Since the last log line: tokens a second and 10^12 operations of the model's products over all processes, the share of the time in which
        the process that waited longest waited for data, and the share of the chips' peak where that is known."""
        every, waits, peaks = zip(*checkpoint.gathered((self._seen, self._waited, peak_gib())), strict=True)
        seen, now = sum(every, Counter()), time.perf_counter()
        seconds, self._since, self._seen, self._waited = now - self._since, now, Counter(), 0.0
        flops, peak = self._flops.of(**seen), device_peak()
        speed = {"tokens_per_second": seen["tokens"] / seconds, "teraflop": flops / 1e12, "data_wait": round(max(waits) / seconds, 4), "peak_memory_gib": round(max(peaks), 2)}
        return speed | ({"peak_share": flops / seconds / peak / self.args.world_size} if peak else {})

    def _means(self) -> dict[str, list[float | torch.Tensor]]:
        """PairTrainer's values since the last log line, whose means it logs; the other trainers have none."""
        return getattr(self, "_metrics", {}).get("train", {})

    def meters(self) -> dict:
        """This process' running sums, for a checkpoint."""
        return {"loss": self._tr_loss.item(), "logged": self._globalstep_last_logged, "seen": dict(self._seen),
                "seconds": time.perf_counter() - self._since, "waited": self._waited,
                "skipped": [self._skipped, self._skipped_in_a_row, self._skipped_since_log],
                "means": {key: [float(value) for value in values] for key, values in self._means().items()}}

    def set_meters(self, meters: dict) -> None:
        """Continues them."""
        self._tr_loss.fill_(meters["loss"])
        self._before_step = self._tr_loss.clone()
        self._globalstep_last_logged = self._last_logged = meters["logged"]
        self._skipped, self._skipped_in_a_row, self._skipped_since_log = meters["skipped"]
        self._seen, self._waited = Counter(meters.get("seen", {})), meters.get("waited", 0.0)
        self._since = time.perf_counter() - meters.get("seconds", 0.0)
        for key, values in meters.get("means", {}).items():
            self._metrics["train"][key] = list(values)
        self._means_before = {key: len(values) for key, values in self._means().items()}

    @torch.no_grad()
    def held_out_loss(self, samples) -> float:
        """Loss over rows that do not train: per supervised token, for pairs per pair; every process calls it."""
        size, ranks, rank = self.args.per_device_train_batch_size, self.args.world_size, self.args.process_index
        batches = [range(start, min(start + size, len(samples))) for start in range(0, len(samples), size)]
        rounds = -(-len(batches) // ranks)
        self.model_wrapped.eval()
        total = torch.zeros(2, dtype=torch.float64)
        for number in range(rank, rounds * ranks, ranks):  # as many passes on every process: ZeRO-3 needs all of them
            inputs = self.data_collator([samples[i] for i in batches[min(number, len(batches) - 1)]])
            weight = float((inputs["labels"][:, 1:] != IGNORE_INDEX).sum()) if "labels" in inputs else len(inputs["row_ids"])
            del inputs["row_ids"], inputs["num_tokens"], inputs["num_supervised"]
            loss = self.compute_loss(self.model_wrapped, self._prepare_inputs(inputs)).item()
            if number < len(batches):
                total += torch.tensor([loss * weight, weight], dtype=torch.float64)
        self.model_wrapped.train()
        summed, weight = (sum(part) for part in zip(*checkpoint.gathered(total.tolist()), strict=True))
        return summed / weight

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
        if resume_from_checkpoint is not None:
            checkpoint.load_weights(self.model, Path(resume_from_checkpoint))
        bf16_optimizer.see_memory_usage = lambda *args, **kwargs: None  # it prints twenty lines (0.19.8)
        prepared = super()._prepare_for_training(max_steps, train_dataloader, None)
        if adds_alone(self.stage_config):
            self.deepspeed.enable_backward_allreduce = False  # nobody to add gradients with: DeepSpeed would copy all of them twice
        if isinstance(self.deepspeed.optimizer, bf16_optimizer.BF16_Optimizer):
            flatten_gradients(self.deepspeed.optimizer)
        elif zero_settings(self.stage_config)[0] == 0:
            clip_or_skip(self.deepspeed)
        if resume_from_checkpoint is not None:
            checkpoint.restore(self, Path(resume_from_checkpoint))
        return prepared

    def _load_rng_state(self, folder) -> None:
        if folder is not None:
            checkpoint.restore_rank(self, Path(folder))

    def save_model(self, output_dir=None, _internal_call=False) -> None:
        """The whole model in fp32, by the first process; every process calls it."""
        weights = checkpoint.full_weights(self)
        if self.is_world_process_zero():
            checkpoint.save_model(self, Path(output_dir), weights)


class StageTrainer(StageMixin, Trainer):
    """align, sft, functions: the model's own loss over supervised tokens."""


def give_own_rate(optimizer: torch.optim.Optimizer, parameters: set[int], lr: float) -> None:
    """Takes parameters (by id) out of their groups into groups like them with another learning rate."""
    groups = []
    for group in optimizer.param_groups:
        inside = [p for p in group["params"] if id(p) in parameters]
        group["params"] = [p for p in group["params"] if id(p) not in parameters]
        groups += [group] * bool(group["params"]) + [{**group, "params": inside, "lr": lr}] * bool(inside)
    optimizer.param_groups[:] = groups


def clip_or_skip(engine: DeepSpeedEngine) -> None:
    """Makes an engine's optimizer clip the gradients, tell their norm, and leave out an update where they are not all finite, which it says in `overflow`.

    DeepSpeed's own optimizers (ZeRO 1 to 3, bf16 on a GPU) do the same; this is for where it leaves torch's alone. The
    gradients are summed over all processes by then, so that all come to the same end.
    """
    optimizer, most = engine.optimizer, engine.gradient_clipping()
    update = optimizer.step

    @wraps(update)
    def step(*args, **kwargs):
        weights = [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        norm = nn.utils.get_total_norm([p.grad for p in weights])
        optimizer._global_grad_norm, optimizer.overflow = norm, not bool(torch.isfinite(norm))  # the name by which DeepSpeed asks for it
        if optimizer.overflow:
            return None
        if most:
            nn.utils.clip_grads_with_norm_(weights, most, norm)
        return update(*args, **kwargs)

    optimizer.step, engine.clip_fp32_gradients = step, lambda: None


def out_of_memory(config: StageConfig, stage: str) -> PlanError:
    """What a stage says that had no room, with settings that need less and train the same."""
    return PlanError("Out of memory", f"{stage}: batch_size {config.batch_size}, max_length {config.max_length}",
                     f"Start the same command with {less_memory(config)}; it resumes from its last checkpoint.")


def usual_length(samples, largest: Batch) -> float:
    """Tokens of the median row; of pairs, whose rows are laid out batch by batch, of the longest."""
    return statistics.median(samples.lengths()) if hasattr(samples, "lengths") else largest.length


def fit(trainer: Trainer, config: StageConfig, processor, folder: Path, stage: str, largest: Batch, held_out=None) -> None:
    """Trains, from the newest checkpoint that verifies where there is one.

    Args:
        largest: the largest batch of the data. held_out: samples as the trainer's, whose loss is told before and after; None or empty for none.

    Raises:
        PlanError: the largest batch cannot fit the device.
        SystemExit: 143, after a checkpoint, on SIGTERM.
    """
    if (memory := device_memory()) is not None:
        ranks = trainer.args.world_size
        check_memory(held_with_batch(on_meta(trainer.model.config, config), config, stage, resolved(config), ranks, largest), config, stage, ranks, memory)
    trainer.stage_config, trainer.processor = config, processor
    trainer.frozen = {name: weight.detach().clone() for name, weight in trainer.model.named_parameters()
                      if not weight.requires_grad and trainer.is_world_process_zero()} if trainer.args.bf16 else None
    set_attention(trainer.model, config, usual_length(trainer.train_dataset, largest))
    checkpoint.clear_leftovers(folder / "checkpoints")
    set_loss_kernel(trainer.model, config)
    if compiles(config):
        compile_layers(trainer.model, asked=config.compile is not None)
    stop = StopOnSignal()
    trainer.remove_callback(PrinterCallback)  # Log says it
    newest = checkpoint.newest(folder / "checkpoints", lambda message: print(message, file=sys.stderr))
    told = [HeldOut(trainer, held_out, folder / "held_out.json")] if held_out else []
    if config.report_to == "tensorboard" and trainer.is_world_process_zero():
        told.append(tensorboard(folder, newest and checkpoint.checkpoint_step(newest) + 1))
    for callback in (Log(folder, stage), *told, stop):
        trainer.add_callback(callback)
    if rank := trainer.args.process_index:  # transformers gives all processes one seed: each draws its own dropout
        torch.manual_seed(config.seed + OTHER_RANK * rank)
    if newest:
        if trainer.is_world_process_zero():
            print(f"{stage}: resumes from step {checkpoint.checkpoint_step(newest)} ({newest})", file=sys.stderr)
    try:
        trainer.train(resume_from_checkpoint=str(newest) if newest else None)
    except (torch.OutOfMemoryError, MemoryError) as error:
        raise out_of_memory(config, stage) from error
    if any(checkpoint.gathered(stop.stopped)):  # a signal after the last step has reached one process only
        if trainer.is_world_process_zero():
            print(f"{stage}: terminated; step {trainer.state.global_step} is saved, and the same command resumes there", file=sys.stderr)
        raise SystemExit(143)
