"""Trains a stage: the last checks and settings, callbacks, and the newest checkpoint."""

from __future__ import annotations

import statistics
import sys
from pathlib import Path

import torch
from transformers import PrinterCallback, Trainer

from omnivision.errors import PlanError
from omnivision_train import checkpoint
from omnivision_train.activations import Batch
from omnivision_train.attention import set_attention
from omnivision_train.callbacks import HeldOut, Log, StopOnSignal, tensorboard
from omnivision_train.compiled import compile_layers, compiles
from omnivision_train.config import StageConfig
from omnivision_train.loss_kernel import set_loss_kernel
from omnivision_train.memory import check_memory, device_memory, held_with_batch, less_memory, on_meta
from omnivision_train.precision import resolved
from omnivision_train.ranks import gathered

OTHER_RANK = 1_000_003  # from one process' seed to the next one's: far from the seeds that people choose


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
        PlanError: the largest batch cannot fit the device. DataError, ResumableError: no checkpoint is whole, or they cannot be read.
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
    if newest and trainer.is_world_process_zero():
        print(f"{stage}: resumes from step {checkpoint.checkpoint_step(newest)} ({newest})", file=sys.stderr)
    try:
        trainer.train(resume_from_checkpoint=str(newest) if newest else None)
    except (torch.OutOfMemoryError, MemoryError) as error:
        raise out_of_memory(config, stage) from error
    if any(gathered(stop.stopped)):  # a signal after the last step has reached one process only
        if trainer.is_world_process_zero():
            print(f"{stage}: terminated; step {trainer.state.global_step} is saved, and the same command resumes there", file=sys.stderr)
        raise SystemExit(143)
