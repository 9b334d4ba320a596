"""The recipe of align and sft, which differ in what trains; functions.py has its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from transformers import TrainerCallback

from omnivision.data.rows import Row
from omnivision_train import checkpoint, early_exit, run_data, run_folder, stages
from omnivision_train.config import AlignConfig, SftConfig
from omnivision_train.data import Collator, Conversations
from omnivision_train.fit import fit
from omnivision_train.grounding import ground
from omnivision_train.trainer import StageTrainer
from omnivision_train.trainer_arguments import training_arguments


def align(config: AlignConfig, callbacks: Sequence[TrainerCallback] = ()) -> Path:
    """Stage 1: the projector learns to speak in the language model's embeddings, from captions."""
    return _supervised(config, "align", callbacks)


def sft(config: SftConfig, callbacks: Sequence[TrainerCallback] = ()) -> Path:
    """Stage 2: projector and language model learn to answer questions about pictures."""
    return _supervised(config, "sft", callbacks)


def _supervised(config: AlignConfig | SftConfig, stage: str, callbacks: Sequence[TrainerCallback]) -> Path:
    with run_folder.open_run(config, stage) as run:
        arguments = training_arguments(config, run.folder)  # first: it checks the settings before weights load
        if stage == "sft":
            early_exit.check_early_exit(config)
        extra = ("vision_tower",) if stages.check_vision(config) else ()
        if config.start is None:
            run_data.note_parts(run, config)
        model, processor = stages.open_model(config, stage)
        stages.set_trainable(model, stage, extra, main=run.main)
        if stage == "sft":
            early_exit.prepare(model, config)
        cache = run_data.open_cache(config, model, processor)
        rows = run_data.read_data(config, run, cache)
        if stage == "align" and config.grounding_steps and not checkpoint.newest(run.folder / "checkpoints", lambda _: None):
            _ground(config, run, model, processor, rows)
        samples = Conversations(rows, processor, config.image_root, config.max_length, run.left_out.add)
        held_out = run_data.read_held_out(config, run, cache)
        told = Conversations(held_out, processor, config.image_root, config.max_length, run.left_out.add_held_out)
        run.left_out.settle(samples.shortened)
        run_folder.show_sample(samples, processor, run)
        run_data.fill_cache(cache, config, rows + held_out)
        collator = Collator(**run_data.collator_arguments(config, processor, cache))
        kind = early_exit.EarlyExitTrainer if stage == "sft" else StageTrainer
        trainer = kind(model=model, args=arguments, train_dataset=samples, data_collator=collator, callbacks=list(callbacks))
        trainer.passes = run_data.passes(config, samples.samples)
        del rows, held_out  # encoded by now
        fit(trainer, config, processor, run.folder, stage, samples.largest(config.batch_size), told)
        return run_folder.finish(run, config, processor, trainer.save_model)


def _ground(config: AlignConfig, run: run_folder.Run, model, processor, rows: list[Row]) -> None:
    """A run that resumes from a checkpoint has this behind it."""
    if config.grounding_data:
        rows = run_data.read_data(replace(config, limit=None), run, files=config.grounding_data)
    cached = replace(config, feature_cache=config.feature_cache or str(run.folder / run_folder.FEATURES))  # many passes: never twice
    cache = run_data.open_cache(cached, model, processor)
    run_data.fill_cache(cache, config, [row for row in rows if row.regions])
    ground(model, processor, rows, config, cache, run.folder / "grounding.jsonl" if run.main else None)
