"""Stage 3: minimal-edit DPO. The start is the reference; what it thinks of each pair is computed once."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path

from transformers import TrainerCallback

from omnivision_train import run_data, run_folder, stages
from omnivision_train.attention import set_attention
from omnivision_train.config import DpoConfig
from omnivision_train.fit import fit
from omnivision_train.pair_loss import check_share
from omnivision_train.pair_trainer import PairTrainer
from omnivision_train.pairs import PairCollator, Pairs
from omnivision_train.reference_log_probs import add_reference
from omnivision_train.trainer_arguments import training_arguments


def dpo(config: DpoConfig, callbacks: Sequence[TrainerCallback] = ()) -> Path:
    """Projector and language model learn to prefer the corrected answer to their own."""
    stage = "dpo"
    with run_folder.open_run(config, stage) as run:
        arguments = training_arguments(config, run.folder)
        model, processor = stages.open_model(config, stage)
        check_share(model.model.language_model, config.share)
        stages.set_trainable(model, stage, main=run.main)
        cache = run_data.open_cache(config, model, processor)
        rows = run_data.read_data(config, run, cache)
        pairs = Pairs(rows, processor, config.image_root, config.max_length, run.left_out.add)
        held_out = run_data.read_held_out(config, run, cache)
        told = Pairs(held_out, processor, config.image_root, config.max_length, run.left_out.add_held_out)
        run.left_out.settle()
        run_data.fill_cache(cache, config, rows + held_out)
        collator = PairCollator(**run_data.collator_arguments(config, processor, cache), share=config.share,
                                edit_weight=config.edit_weight, whole_chosen=config.sft_weight > 0)
        largest = collator.largest(pairs.samples, config.batch_size)
        set_attention(model, config, largest.length)  # here already: the reference has to compute as the policy will
        reference = None
        if config.precompute_reference:
            kept = Path(config.reference_cache) if config.reference_cache else run.folder / "reference"
            add_reference(config, kept, model, collator, (pairs, told), arguments.device)
        else:
            reference = copy.deepcopy(model).requires_grad_(False).eval()
        trainer = PairTrainer(model=model, args=arguments, train_dataset=pairs, data_collator=collator, callbacks=list(callbacks),
                              config=config, reference=reference)
        trainer.passes = run_data.passes(config, pairs.samples)
        fit(trainer, config, processor, run.folder, stage, largest, told)
        return run_folder.finish(run, config, processor, trainer.save_model)
