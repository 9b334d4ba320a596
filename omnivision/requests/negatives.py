"""Requests that no function of a set serves: of things that assistants elsewhere do, and of functions that were left out of the set."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Sequence
from pathlib import Path

from omnivision.functions import FunctionSet
from omnivision.functions.function_set import IRRELEVANT
from omnivision.requests.same import normalised
from omnivision.requests.templates import function_rows
from omnivision.requests.user_templates import Sentences
from omnivision.requests.words import words_of


def negative_rows(function_set: FunctionSet, count: int, seed: int, split: str, languages: Sequence[str], left_out: FunctionSet | None = None) -> list[dict]:
    """Up to `count` requests whose call is `irrelevant`.

    Args:
        left_out: functions that are like those of the set and not in it; half of the requests, where there are enough, ask for them.
        Others as of template_rows.
    """
    near = list(_near(function_set, left_out, count, seed, split, languages)) if left_out else []
    far = list(_far(function_set, count, seed, split, languages))
    rng = random.Random(f"{seed}/{split}/{IRRELEVANT}")
    rng.shuffle(near)
    rng.shuffle(far)
    near = near[: max((count + 1) // 2, count - len(far))]
    chosen = near + far[: count - len(near)]
    rng.shuffle(chosen)  # whoever takes the first of them takes both kinds
    return [{**row, "id": f"{split}/{IRRELEVANT}/{number}", "calls": [{"name": IRRELEVANT, "arguments": {}}]} for number, row in enumerate(chosen)]


def _near(function_set: FunctionSet, left_out: FunctionSet, count: int, seed: int, split: str, languages: Sequence[str]) -> Iterator[dict]:
    """Requests for functions that the set does not have, by name or by description."""
    names = {function.name for function in function_set.functions}
    does = {normalised(function.description) for function in function_set.functions}
    missing = [function for function in left_out.functions if function.name not in names and normalised(function.description) not in does]
    for function in missing:
        yield from function_rows(function, -(-count // len(missing)), seed, split, languages)


def _far(function_set: FunctionSet, count: int, seed: int, split: str, languages: Sequence[str]) -> Iterator[dict]:
    """Requests of elsewhere.json, but of no function that the set may have: one of its words in a name or description is enough."""
    known = {word for function in function_set.functions for word in (*words_of(function.name), *words_of(function.description))}
    catalogue = json.loads(Path(__file__).with_name("elsewhere.json").read_text(encoding="utf-8"))
    entries = {entry["name"]: entry for entry in catalogue if not known & set(entry["served_by"])}
    sentences = Sentences({name: entry["sentences"] for name, entry in entries.items()})
    for function in FunctionSet.from_json(list(entries.values())).functions:
        if function.name in entries:
            yield from function_rows(function, -(-count // len(entries)), seed, split, languages, sentences)
