"""The stages' trainers: transformers' with our order of rows, meters, skipped steps and checkpoints."""

from __future__ import annotations

from functools import wraps
from pathlib import Path

import torch
from deepspeed.runtime import bf16_optimizer
from deepspeed.runtime.engine import DeepSpeedEngine
from torch import nn
from torch.utils.data import DataLoader
from transformers import Trainer

from omnivision.constants import IGNORE_INDEX
from omnivision.functions import FunctionSet
from omnivision.runs import read_json
from omnivision_train import checkpoint
from omnivision_train.config import StageConfig
from omnivision_train.data import Order, leave_group
from omnivision_train.deepspeed_config import zero_settings
from omnivision_train.encoding import as_pixels, encode_rest
from omnivision_train.flat_gradients import flatten_gradients
from omnivision_train.launch import rank_and_ranks
from omnivision_train.meters import Meters
from omnivision_train.optimizer import MuonAdamW
from omnivision_train.precision import cpu_autocast
from omnivision_train.ranks import gathered


class StageMixin(Meters):
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
        """transformers' would load `datasets`, to ask whether the rows are its. Every start of a loader draws a number. A run that goes on starts more of
        them than one that nobody stopped: theirs is a generator of their own, or what dropout draws would differ from there on."""
        args = self.args
        return self.accelerator.prepare(DataLoader(
            self.train_dataset, batch_size=args.train_batch_size, sampler=self._get_train_sampler(), collate_fn=self.data_collator,
            num_workers=args.dataloader_num_workers, pin_memory=args.dataloader_pin_memory, persistent_workers=args.dataloader_persistent_workers,
            generator=torch.Generator().manual_seed(args.seed), worker_init_fn=leave_group))

    def _run_epoch(self, *args, epoch, **kwargs):
        if self.state.global_step >= self.state.max_steps:  # resumed from the last step: transformers would do one more
            self.control.should_training_stop = True
            return None
        self._order.set_epoch(epoch)  # accelerate's loaders do not reach it when several processes skip batches
        return super()._run_epoch(*args, epoch=epoch, **kwargs)

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
        summed, weight = (sum(part) for part in zip(*gathered(total.tolist()), strict=True))
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
        sums_in_fp32, no_zero = isinstance(self.deepspeed.optimizer, bf16_optimizer.BF16_Optimizer), zero_settings(self.stage_config)[0] == 0
        if rank_and_ranks()[1] == 1 and (sums_in_fp32 or no_zero):  # other optimizers get their gradients by it
            self.deepspeed.enable_backward_allreduce = False  # nobody to add gradients with: DeepSpeed would copy all of them twice
        if sums_in_fp32:
            flatten_gradients(self.deepspeed.optimizer)
        elif no_zero:
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
        if most and norm + 1e-6 > most:  # else torch would multiply all gradients by 1
            nn.utils.clip_grads_with_norm_(weights, most, norm)
        return update(*args, **kwargs)

    optimizer.step, engine.clip_fp32_gradients = step, lambda: None
