"""The words of a function's or an argument's name in Chinese, from chinese.json: wholly, or not at all."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

from omnivision.requests.words import tables

# What follows one of these in a name says how the thing is found, and a request says it with its arguments.
CLOSERS = frozenset("at based between by during for from given in on per through to using via with within".split())
ARTICLES = frozenset(("a", "an", "the"))
ENDS = {"from": "原", "to": "目标"}  # from_currency, to_currency
COUNTED = frozenset("num number n no count".split())  # num_rooms, number_of_rooms: how many there are


@lru_cache(maxsize=1)
def verbs() -> dict[str, str]:
    """English verbs in Chinese."""
    return _table()["verbs"] | tables()["zh_verbs"]


def phrase(words: Sequence[str]) -> str | None:
    """Words of a name in Chinese: attributes come before their noun there as well, and "A of B" is "B's A".

    Returns:
        None where the table does not know a word, or the noun is missing; "" for no words. Single letters and digits stay.
    """
    end = next((at for at, word in enumerate(words) if at and word in CLOSERS), len(words))
    words = [word for at, word in enumerate(words[:end]) if word not in ARTICLES or at == end - 1]
    if len(words) > 1 and words[0] in COUNTED and not words[1].isdigit():
        counted = phrase(words[2:] if words[1] == "of" else words[1:])
        return counted and f"{counted}数量"
    if "of" in words:
        at = words.index("of")
        whole, part = phrase(words[at + 1:]), phrase(words[:at])
        return f"{whole}的{part}" if whole and part else None
    if len(words) > 1 and words[0] in ENDS:
        thing = phrase(words[1:])
        return thing and ENDS[words[0]] + thing
    known = [_word(word) for word in words]
    return None if None in known or known[-1:] and known[-1].endswith("的") else "".join(known)


def _word(word: str) -> str | None:
    return word if word.isdigit() or len(word) == 1 else _table()["words"].get(word, tables()["zh_labels"].get(word))


@lru_cache(maxsize=1)
def _table() -> dict[str, dict[str, str]]:
    return json.loads(Path(__file__).with_name("chinese.json").read_text(encoding="utf-8"))
