"""Word lists for values that a schema leaves open, found by the words of an argument's name; read once from words.json."""

from __future__ import annotations

import json
import re
from functools import lru_cache
from pathlib import Path

ANY = "any"  # the kind of text whose argument says nothing about it
LANGUAGES = ("en", "zh")


@lru_cache(maxsize=1)
def tables() -> dict[str, dict]:
    """words.json: kinds of text with their words, ranges of numbers, Chinese labels and verbs, English prepositions."""
    return json.loads(Path(__file__).with_name("words.json").read_text(encoding="utf-8"))


@lru_cache(maxsize=4096)
def words_of(name: str) -> tuple[str, ...]:
    """The words of an identifier, in small letters: startDate, start_date and "start date" are two."""
    spaced = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", " ", name)
    return tuple(re.findall(r"[a-z]+|\d+|[^\W\d_a-z]+", spaced.lower()))


@lru_cache(maxsize=1)
def _kinds() -> dict[str, str]:
    return {name: kind for kind, entry in tables()["kinds"].items() for name in entry["names"]}


def kind_of(name: str, description: str) -> str:
    """The kind of text that an argument holds: by the last word of its name that tells, else by the first of its description."""
    for word in (*reversed(words_of(name)), *(word for word in words_of(description) if len(word) > 3)):  # "to" and "who" tell only in a name
        if word in _kinds():
            return _kinds()[word]
    return ANY


def word_list(kind: str, language: str) -> list[str]:
    """The words of a kind."""
    return tables()["kinds"][kind][language]


def number_range(name: str) -> tuple[float, float] | None:
    """From what to what numbers of this name usually are."""
    for word in reversed(words_of(name)):
        if word in tables()["numbers"]:
            return tuple(tables()["numbers"][word])
    return None
