"""Stage 3: minimal-edit DPO with TRL's trainer and a frozen copy of the start as the reference."""

from __future__ import annotations

import copy
from pathlib import Path

from datasets import Dataset

from omnivision.errors import DataError
from omnivision_train import stages
from omnivision_train.activations import Batch
from omnivision_train.config import DpoConfig
from omnivision_train.data import PairCollator, bucket, encode_side
from omnivision_train.trainer import PairTrainer, fit
from omnivision_train.trainer_arguments import training_arguments


def dpo(config: DpoConfig) -> Path:
    """Projector and language model learn to prefer the corrected answer to their own."""
    stage = "dpo"
    with stages.open_run(config, stage) as run:
        arguments = training_arguments(config, run.folder)
        model, processor = stages.open_model(config, stage)
        reference = copy.deepcopy(model).requires_grad_(False).eval()
        stages.set_trainable(model, stage, main=run.main)
        rows = stages.read_data(config, run)
        pairs = preference_pairs(rows, Path(config.image_root))
        largest = Batch(config.batch_size, bucket(check_lengths(rows, processor, config.max_length)), 0)
        held_out = stages.read_held_out(config, run)
        check_lengths(held_out, processor, config.max_length)
        cache = stages.open_cache(config, model, processor, rows + held_out)
        trainer = PairTrainer(
            model=model, ref_model=reference, args=arguments, train_dataset=pairs,
            processing_class=processor, data_collator=PairCollator(processor, cache),
        )  # fmt: skip
        fit(trainer, config, processor, run.folder, stage, largest, preference_pairs(held_out, Path(config.image_root)) if held_out else None)
        return stages.finish(run, config, model, processor, trainer.save_model)


def preference_pairs(rows, root: Path) -> Dataset:
    """The rows as TRL's columns; a pair whose two answers are equal teaches nothing and is refused.

    Raises:
        DataError: chosen = rejected, or a row that is no preference.
    """
    for row in rows:
        if not row.prompt or row.chosen == row.rejected:
            raise DataError(f"Row {row.id} is no preference: chosen {row.chosen!r}, rejected {row.rejected!r}", row.source,
                            "Remove it, or make pairs with `omnivision data pairs`.")
    return Dataset.from_list([
        {"id": r.id, "prompt": r.prompt, "chosen": r.chosen, "rejected": r.rejected, "images": [str(root / i) for i in r.images]}
        for r in rows
    ])


def check_lengths(rows, processor, max_length: int) -> int:
    """Tokens of the longest pair. A pair that is too long is refused: cutting it could cut the edit, or an image token.

    Raises:
        DataError: names the row, its tokens and the limit.
    """
    longest = 0
    for row in rows:
        for side in ("chosen", "rejected"):
            length = len(encode_side(processor, row.prompt, getattr(row, side), len(row.images)).input_ids)
            if length > max_length:
                raise DataError(f"Row {row.id} has {length} tokens with its {side} answer, more than max_length {max_length}",
                                row.source, "Raise `max_length`, or remove the row.")
            longest = max(longest, length)
    return longest
