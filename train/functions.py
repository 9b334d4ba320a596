"""Functional tokens: the model learns to answer a request with one token and its arguments."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from omnivision.constants import IGNORE_INDEX
from omnivision.data.rows import Row
from omnivision.errors import ConfigError, DataError
from omnivision.functions import FunctionSet, install_tokens, target_ids
from omnivision.model.conversation import encode_conversation
from omnivision_train import lora, run_data, run_folder, stages
from omnivision_train.config import FunctionsConfig
from omnivision_train.data import Collator, Conversations
from omnivision_train.fit import fit
from omnivision_train.trainer import StageTrainer
from omnivision_train.trainer_arguments import training_arguments


class FunctionsTrainer(StageTrainer):
    """Weighs functional tokens in the loss; weight 1 is the plain cross-entropy (tested)."""

    token_ids: tuple[int, ...] = ()

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        weight = self.stage_config.token_weight
        loss = super().compute_loss(model, inputs, num_items_in_batch=num_items_in_batch)
        if weight == 1.0:
            return loss
        special = dict(inputs, labels=only_tokens(inputs["labels"], self.token_ids), supervised_at=None)  # fewer are left
        of_tokens = super().compute_loss(model, special, num_items_in_batch=num_items_in_batch)
        if num_items_in_batch is None:  # both are means over their own tokens then
            counts = [(labels[:, 1:] != IGNORE_INDEX).sum() for labels in (special["labels"], inputs["labels"])]
            of_tokens = of_tokens * counts[0] / counts[1].clamp(min=1)
        return loss + (weight - 1.0) * of_tokens


def only_tokens(labels_BL: Tensor, ids: tuple[int, ...]) -> Tensor:
    """Labels that supervise nothing but the given ids."""
    kept = torch.isin(labels_BL, torch.tensor(ids, device=labels_BL.device))
    return labels_BL.masked_fill(~kept, IGNORE_INDEX)


def hold_other_rows(model, config: FunctionsConfig, token_ids: Iterable[int]) -> None:
    """Lets gradients reach only these rows of the table, and of a head of its own.

    Every row is in the softmax, and AdamW makes a step of full size of the smallest gradient: a table of 49,152 words, most of which no request has,
    drifts away from the words that the layers above know.

    Raises:
        ConfigError: weight decay, which moves rows without a gradient.
    """
    if config.weight_decay and config.optimizer == "adamw":
        raise ConfigError(f"AdamW decays rows that are to stay, and weight_decay is {config.weight_decay:g}",
                          f"frozen_layers: {config.frozen_layers}" if config.frozen_layers else "train_table: false",
                          "Set weight_decay=0, optimizer=muon, which decays no tables, or let all train.")
    ids = torch.tensor(sorted(token_ids))
    for weight in dict.fromkeys((model.get_input_embeddings().weight, model.get_output_embeddings().weight)):
        weight.register_hook(lambda grad_VD: torch.zeros_like(grad_VD).index_copy_(0, ids.to(grad_VD.device), grad_VD[ids]))


def call_rows(rows: list[Row], tokenizer, function_set: FunctionSet, most: int = 1, fits: Callable[[Row], bool] | None = None,
              leave_out: Callable[[DataError], None] | None = None) -> list[Row]:
    """Rows of requests as conversations that answer in functional tokens; conversations stay as they are.

    Args:
        most: so many requests that follow each other about the same pictures become one conversation; they share its image
            tokens, so that a row costs little more than one request. fits: whether a conversation has room; None is always.
        leave_out: called with what is wrong with a request that is left out; None raises it.
    """
    found, last = [], []  # conversations, and the requests of the last one
    for row in rows:
        if row.turns:
            found.append(row)
            last = []
            continue
        try:
            ids = target_ids(list(row.calls), tokenizer, function_set)
        except (ConfigError, DataError) as error:
            if leave_out is None:
                raise
            leave_out(DataError(f"Row {row.id}: {error.what}", row.source, "Fix the calls, or the function set."))
            continue
        turns = {"role": "user", "text": row.request}, {"role": "assistant", "ids": ids, "loss": True}
        joined = replace(found[-1], turns=found[-1].turns + turns) if joins(last, row, most) else None
        if joined is not None and (fits is None or fits(joined)):
            found[-1] = joined
            last.append(row)
        else:
            found.append(replace(row, request="", calls=(), turns=turns))
            last = [row]
    return found


def joins(group: list[Row], row: Row, most: int) -> bool:
    """Whether a request is about the pictures of the ones before it, and they are not too many; requests without a picture share nothing."""
    return bool(row.images) and bool(group) and group[-1].images == row.images and len(group) < most


def grouped(rows: list[Row], most: int) -> list[list[Row]]:
    """The requests of each conversation where room is no matter; a conversation is a group of its own."""
    groups: list[list[Row]] = []
    for row in rows:
        if not row.turns and groups and not groups[-1][0].turns and joins(groups[-1], row, most):
            groups[-1].append(row)
        else:
            groups.append([row])
    return groups


def functions(config: FunctionsConfig) -> Path:
    """Installs the set's tokens into spare rows and trains on requests with calls, mixed with earlier rows; with a rank, adapters alone."""
    stage = "functions"
    with run_folder.open_run(config, stage) as run:
        arguments = training_arguments(config, run.folder)
        model, processor = stages.open_model(config, stage)
        function_set = FunctionSet.from_json(config.functions)
        run_data.note_file(run, config.functions)
        trained = FunctionSet.beside(config.start)
        if trained is not None:  # more functions for a trained set: its own stay where they are
            function_set = function_set.keeping(trained)
        tokens = install_tokens(model, processor.tokenizer, function_set).tokens
        token_ids = (*tokens.functions, tokens.end)
        if config.lora_rank:
            lora.add_adapters(model, config, token_ids)
        stages.set_trainable(model, stage, main=run.main, frozen_layers=config.frozen_layers)
        if (config.frozen_layers or not config.train_table) and not config.lora_rank:  # adapters train these rows alone in any case
            hold_other_rows(model, config, token_ids)
        cache = run_data.open_cache(config, model, processor)

        def fits(row: Row) -> bool:
            encoded = encode_conversation(processor.tokenizer, row.turns, len(row.images), processor.image_seq_length)
            return len(encoded.input_ids) <= config.max_length

        rows = call_rows(run_data.read_data(config, run, cache), processor.tokenizer, function_set, config.requests_per_row, fits, run.left_out.add)
        if config.replay:
            replayed = run_data.read_data(replace(config, limit=None), run, cache, config.replay, config.replay_limit)
            rows += [replace(row, part=len(config.data) + row.part) for row in replayed]
            random.Random(config.seed).shuffle(rows)
        samples = Conversations(rows, processor, config.image_root, config.max_length, run.left_out.add)
        held_out = call_rows(run_data.read_held_out(config, run, cache), processor.tokenizer, function_set, leave_out=run.left_out.add_held_out)
        told = Conversations(held_out, processor, config.image_root, config.max_length, run.left_out.add_held_out)
        run.left_out.settle(samples.shortened)
        run_folder.show_sample(samples, processor, run)
        run_data.fill_cache(cache, config, rows + held_out)
        collator = Collator(**run_data.collator_arguments(config, processor, cache))
        trainer = FunctionsTrainer(model=model, args=arguments, train_dataset=samples, data_collator=collator)
        trainer.passes = run_data.passes(config, samples.samples)
        del rows, held_out  # encoded by now
        trainer.token_ids, trainer.functions = token_ids, function_set
        fit(trainer, config, processor, run.folder, stage, samples.largest(config.batch_size), told)
        return run_folder.finish(run, config, processor, trainer.save_model)
