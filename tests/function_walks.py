"""Answers drawn at random from a grammar, one allowed id after the other."""

from __future__ import annotations

import json
import random

import torch

from omnivision.functions import FunctionSet, functional_tokens
from omnivision.functions.constraint import CallConstraint


def same(first: object, second: object) -> bool:
    """Equal, and of equal types: 1, 1.0 and True are three values."""
    return json.dumps(first, sort_keys=True) == json.dumps(second, sort_keys=True)


def allowed(constraint: CallConstraint, ids: list[int], width: int) -> list[int]:
    """The ids that may follow."""
    return (constraint(torch.zeros(1, width), [ids])[0] == 0).nonzero().flatten().tolist()


def accepts(constraint: CallConstraint, ids: list[int], width: int, end: int) -> bool:
    """Whether every id may follow those before it, and the answer may end there."""
    return all(one in allowed(constraint, ids[:at], width) for at, one in enumerate(ids)) and end in allowed(constraint, ids, width)


def walk(constraint: CallConstraint, tokenizer, functions: FunctionSet, rng: random.Random, longest: int = 400) -> list[int] | None:
    """An answer without its end; None where it grew too long. What closes something is preferred, or no string would end."""
    closing = {functional_tokens(tokenizer, functions).end, tokenizer.eos_token_id, *tokenizer.convert_tokens_to_ids(list("'\")]}"))}
    ids: list[int] = []
    while len(ids) < longest:
        possible = allowed(constraint, ids, len(tokenizer))
        ends = [one for one in possible if one in closing]
        ids.append(rng.choice(ends) if ends and rng.random() < 0.3 else rng.choice(possible))
        if ids[-1] == tokenizer.eos_token_id:
            return ids[:-1]
    return None
