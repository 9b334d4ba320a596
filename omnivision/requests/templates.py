"""Rows of requests made without a teacher: arguments drawn from the schema, said in the sentences of frames.json or of a user."""

from __future__ import annotations

import random
from collections.abc import Sequence

from omnivision.functions import Function, FunctionSet
from omnivision.functions.function_set import IRRELEVANT
from omnivision.requests.drawing import TRAIN, Drawing, Undrawable
from omnivision.requests.sentences import request_for
from omnivision.requests.same import normalised

TRIES = 12  # for each row, before a function is left with fewer


def template_rows(function_set: FunctionSet, per_function: int, seed: int, split: str = TRAIN, languages: Sequence[str] = ("en",)) -> list[dict]:
    """Rows for every function of a set but `irrelevant`, fewer where its schema and the sentences do not give so many different ones.

    Args:
        per_function: rows of one function, the languages in turn. seed: of all chance; each function has its own, so that a set that
            grows keeps its rows. split: "train" or "held_out", which have sentences and open values of their own.

    Returns:
        {"id", "request", "language", "calls": [{"name", "arguments"}]}, in the set's order; no two requests are the same.
    """
    return [row for function in function_set.functions if function.name != IRRELEVANT
            for row in function_rows(function, per_function, seed, split, languages)]


def function_rows(function: Function, count: int, seed: int, split: str, languages: Sequence[str]) -> list[dict]:
    """Up to `count` different rows of one function."""
    found: dict[str, dict] = {}
    rng = random.Random(f"{seed}/{split}/{function.name}")
    for attempt in range(TRIES * count):
        if len(found) == count:
            break
        language = languages[attempt % len(languages)]
        try:
            arguments = Drawing(function, rng, split, language).arguments()
        except Undrawable:
            continue
        request = request_for(function, arguments, rng, language, split)
        found.setdefault(normalised(request), {"id": f"{split}/{function.name}/{len(found)}", "request": request, "language": language,
                                               "calls": [{"name": function.name, "arguments": arguments}]})
    return list(found.values())
