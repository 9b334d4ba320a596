"""Stage 3: minimal-edit DPO with TRL's trainer and a frozen copy of the start as the reference."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from pathlib import Path

from datasets import Dataset

from omnivision.data.pictures import Packed, locate
from omnivision.data.rows import Row
from omnivision.errors import DataError
from omnivision_train import run_data, stages
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
        cache = run_data.open_cache(config, model, processor)
        rows = good_pairs(run_data.read_data(config, run, cache), processor, config.max_length, run.left_out.add)
        held_out = good_pairs(run_data.read_held_out(config, run, cache), processor, config.max_length, run.left_out.add)
        run.left_out.settle()
        run_data.fill_cache(cache, config, rows + held_out)
        packed = {str(image): image for row in rows + held_out for image in row.images if isinstance(image, Packed)}
        trainer = PairTrainer(
            model=model, ref_model=reference, args=arguments, train_dataset=as_columns(rows, config.image_root),
            processing_class=processor, data_collator=PairCollator(processor, cache, run_data.open_squashed(config, processor), packed),
        )  # fmt: skip
        trainer.passes = run_data.passes(config, rows)
        largest = Batch(config.batch_size, bucket(max(longest_side(row, processor) for row in rows)), 0)
        fit(trainer, config, processor, run.folder, stage, largest, as_columns(held_out, config.image_root) if held_out else None)
        return stages.finish(run, config, model, processor, trainer.save_model)


def good_pairs(rows: Iterable[Row], processor, max_length: int, leave_out: Callable[[DataError], None]) -> list[Row]:
    """The rows that are preferences and fit; `leave_out` is told of the others."""
    good = []
    for row in rows:
        try:
            check_pair(row, processor, max_length)
        except DataError as error:
            leave_out(error)
        else:
            good.append(row)
    return good


def check_pair(row: Row, processor, max_length: int) -> None:
    """A pair whose two answers are equal teaches nothing; cutting one that is too long could cut the edit, or an image token.

    Raises:
        DataError: chosen = rejected, a row that is no preference, or one that is too long.
    """
    if not row.prompt or row.chosen == row.rejected:
        raise DataError(f"Row {row.id} is no preference: chosen {row.chosen!r}, rejected {row.rejected!r}", row.source,
                        "Remove it, or make pairs with `omnivision data pairs`.")
    length = longest_side(row, processor)
    if length > max_length:
        raise DataError(f"Row {row.id} has {length} tokens with its longer answer, more than max_length {max_length}",
                        row.source, "Raise `max_length`, or remove the row.")


def longest_side(row: Row, processor) -> int:
    """Tokens of the pair with its longer answer."""
    return max(len(encode_side(processor, row.prompt, answer, len(row.images)).input_ids) for answer in (row.chosen, row.rejected))


def as_columns(rows: list[Row], root: str) -> Dataset:
    """The rows as TRL's columns."""
    return Dataset.from_list([{"id": r.id, "part": r.part, "prompt": r.prompt, "chosen": r.chosen, "rejected": r.rejected,
                               "images": [str(locate(image, root)) for image in r.images]} for r in rows])
