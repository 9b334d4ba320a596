"""What every arm is given: the functions, the requests that train, and the questions that are asked."""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path

from omnivision.data.rows import read_rows
from omnivision.errors import ConfigError, DataError
from omnivision.functions import FunctionSet
from omnivision.functions.function_set import IRRELEVANT

from . import catalogue


@dataclass(frozen=True)
class Material:
    """One size: a function set, training rows and questions, each {"id", "request", "calls": [one call]}."""

    functions: FunctionSet
    train: list[dict]
    questions: list[dict]

    @property
    def names(self) -> list[str]:
        """Functions that can be described or retrieved; `irrelevant` is one only where rows call it."""
        called = any(row["calls"][0]["name"] == IRRELEVANT for row in self.train)
        return [one.name for one in self.functions.functions if called or one.name != IRRELEVANT]


@dataclass(frozen=True)
class Files:
    """A function table, rows that train and rows that are asked, in the formats of the stage `functions`."""

    functions: Path
    train: Path
    questions: Path


def made(size: int, rows: int, questions: int, seed: int) -> Material:
    """From the catalogue of words."""
    chosen = catalogue.pairs(size, seed)
    functions = FunctionSet.from_json([catalogue.tool(*pair) for pair in chosen])
    return Material(functions, catalogue.requests(chosen, rows, "train", seed), catalogue.requests(chosen, questions, "eval", seed))


def read(files: Files, size: int, rows: int, questions: int, seed: int) -> Material:
    """From a reader's own files: so many of their functions, drawn at random, and rows that call one of them.

    Raises:
        ConfigError: fewer functions than `size`.
        DataError: a row with a picture, or without exactly one call, or no row is left.
    """
    table = FunctionSet.from_json(files.functions)
    real = [one for one in table.functions if one.name != IRRELEVANT]
    if size > len(real):
        raise ConfigError(f"A size is {size} and there are {len(real)} functions", str(files.functions), "Give smaller sizes.")
    chosen = random.Random(seed).sample(real, len(real))[:size]
    kept = FunctionSet((*chosen, *(one for one in table.functions if one.name == IRRELEVANT)))
    names = {one.name for one in kept.functions}
    return Material(kept, _rows(files.train, names, rows, seed), _rows(files.questions, names, questions, seed))


def _rows(file: Path, names: set[str], most: int, seed: int) -> list[dict]:
    found, seen = [], set()
    for row in read_rows(file):
        if row.images or len(row.calls) != 1 or row.calls[0].get("nested"):
            raise DataError(f"Row {row.id} has {len(row.images)} pictures and {len(row.calls)} calls", row.source,
                            "The comparison takes requests in words alone, with one plain call each.")
        if row.calls[0]["name"] in names:
            if row.id in seen:
                raise DataError(f"The id {row.id!r} stands twice", row.source, "Make ids unique: answers are kept by them.")
            seen.add(row.id)
            found.append({"id": row.id, "images": [], "request": row.request, "calls": list(row.calls)})
    if not found:
        raise DataError("No row calls one of the functions", str(file), "Give rows for the functions of the table.")
    return random.Random(seed).sample(found, len(found))[:most]
