"""Rows of requests made without a teacher: arguments drawn from the schema, said in the sentences of frames.json or of a user."""

from __future__ import annotations

import random
from collections.abc import Sequence

from omnivision.functions import Function, FunctionSet
from omnivision.functions.function_set import IRRELEVANT
from omnivision.requests.drawing import TRAIN, Drawing, Undrawable
from omnivision.requests.language import speaks
from omnivision.requests.same import normalised
from omnivision.requests.sentences import request_for
from omnivision.requests.user_templates import Sentences, filled, slots
from omnivision.requests.wording import said

NONE = Sentences({})
TRIES = 12  # for each row, before a function is left with fewer


def template_rows(function_set: FunctionSet, per_function: int, seed: int, split: str = TRAIN, languages: Sequence[str] = ("en",),
                  sentences: Sentences = NONE) -> list[dict]:
    """Rows for every function of a set but `irrelevant`, fewer where its schema and the sentences do not give so many different ones.

    Args:
        function_set: the functions. per_function: rows of one function, the languages in turn, any of them first.
        seed: of all chance; each function has its own, so that a set that
            grows keeps its rows. split: "train" or "held_out", which have sentences and open values of their own.
        sentences: of a user; a function that has some in a language is asked for with these alone.

    Returns:
        {"id", "request", "language", "calls": [{"name", "arguments"}]}, in the set's order; no two requests are the same.
    """
    return [row for function in function_set.functions if function.name != IRRELEVANT
            for row in function_rows(function, per_function, seed, split, languages, sentences)]


def function_rows(function: Function, count: int, seed: int | str, split: str, languages: Sequence[str], sentences: Sentences = NONE) -> list[dict]:
    """Up to `count` different rows of one function; arguments as of template_rows."""
    found: dict[str, dict] = {}
    rng = random.Random(f"{seed}/{split}/{function.name}")
    first = rng.randrange(len(languages))  # else one row of each function would be in the first language
    for attempt in range(first, first + TRIES * count):
        if len(found) == count:
            break
        language = languages[attempt % len(languages)]
        try:
            arguments, request = _asked(Drawing(function, rng, split, language), sentences.of(function.name, language, split))
        except Undrawable:
            continue
        calls = [{"name": function.name, "arguments": arguments}]
        if speaks(request, language, calls):
            found.setdefault(normalised(request), {"id": f"{split}/{function.name}/{len(found)}", "request": request, "language": language, "calls": calls})
    return list(found.values())


def _asked(drawing: Drawing, sentences: list[str]) -> tuple[dict, str]:
    """Arguments and the request for them."""
    rng, language = drawing.rng, drawing.language
    if not sentences:
        arguments = drawing.arguments()
        return arguments, request_for(drawing.function, arguments, rng, language, drawing.split)
    sentence = rng.choice(sentences)
    arguments = drawing.arguments(slots(sentence))
    return arguments, filled(sentence, {name: said(value, language, rng, plain=True) for name, value in arguments.items()})
