"""Rows as the conversations that they train as, and what of one that is too long fits."""

from __future__ import annotations

import json

from omnivision.constants import IGNORE_INDEX
from omnivision.data.rows import Row
from omnivision.errors import ConfigError, DataError
from omnivision.functions import FunctionSet, target_ids
from omnivision.model.conversation import Encoded, encode_conversation


class TooLong(DataError):
    """A row that does not fit even with its first question and answer."""


class Unsupervised(DataError):
    """A row that fits and has no supervised token."""


def kind_of(row: Row) -> str:
    """conversation, preference or action."""
    return "conversation" if row.turns else "action" if row.request else "preference"


def sides_of(row: Row, tokenizer=None, function_set: FunctionSet | None = None) -> list[list[dict]]:
    """The conversations that a row is encoded as: one, for preferences two.

    Args:
        function_set: of the model, whose tokens its tokenizer has; without one calls are written as JSON, which no stage trains.

    Raises:
        ConfigError, DataError: calls that the set cannot say.
    """
    if row.turns:
        return [list(row.turns)]
    asked = {"role": "user", "text": row.request or row.prompt, "loss": False}
    if row.request and function_set is not None:
        return [[asked, {"role": "assistant", "ids": target_ids(list(row.calls), tokenizer, function_set), "loss": True}]]
    answers = [json.dumps(list(row.calls), ensure_ascii=False)] if row.request else [row.chosen, row.rejected]
    return [[asked, {"role": "assistant", "text": answer, "loss": True}] for answer in answers]


def sides_or_json(row: Row, tokenizer, function_set: FunctionSet | None) -> tuple[list[list[dict]], str]:
    """The same, with calls as JSON where the set cannot say them, for a stage may add to a model's functions; and why, or ""."""
    try:
        return sides_of(row, tokenizer, function_set), ""
    except (ConfigError, DataError) as error:
        return sides_of(row), error.what


def fitted(row: Row, tokenizer, image_tokens: int, max_length: int) -> tuple[Encoded, int]:
    """A conversation in at most max_length tokens: whole question-answer pairs are cut from its end, never an image token.

    Args:
        image_tokens: of one picture.

    Returns:
        The conversation, and how many pairs were cut.

    Raises:
        TooLong, Unsupervised: a run leaves such rows out.
    """
    turns = list(row.turns)
    while True:
        encoded = encode_conversation(tokenizer, turns, len(row.images), image_tokens)
        if len(encoded.input_ids) <= max_length:
            break
        if sum(turn["role"] == "user" for turn in turns) <= 1:
            raise TooLong(f"Row {row.id} has {len(encoded.input_ids)} tokens, more than max_length {max_length}", row.source,
                          "Raise `max_length`, or shorten the row: image tokens are never cut.")
        turns = turns[: max(at for at, turn in enumerate(turns) if turn["role"] == "user")]
    if all(label == IGNORE_INDEX for label in encoded.labels):
        cut = "" if len(turns) == len(row.turns) else f" once it is cut to max_length {max_length}"
        raise Unsupervised(f"Row {row.id} has no supervised token{cut}", row.source, "Give an assistant turn with loss.")
    return encoded, sum(turn["role"] == "user" for turn in row.turns[len(turns):])
