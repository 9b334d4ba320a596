"""Calls in the sentences of frames.json: other sentences, and other ways to name arguments, for the held-out split."""

from __future__ import annotations

import json
import random
import re
from functools import lru_cache
from pathlib import Path
from string import Formatter

from omnivision.functions import Function
from omnivision.requests.wording import deeds, labels, preposition, said

BORDER = re.compile(r"[\u3400-\u9fff][A-Za-z]|[A-Za-z][\u3400-\u9fff]")  # where Chinese writers put a blank
PLAINLY = 0.6  # how often "in Paris" stands for "city Paris" where that is possible


@lru_cache(maxsize=1)
def _tables() -> dict[str, dict]:
    return json.loads(Path(__file__).with_name("frames.json").read_text(encoding="utf-8"))


def frames(language: str, split: str) -> dict[str, list[str]]:
    """The frames of a language and split, by what they are for."""
    return _tables()[language][split]


def request_for(function: Function, arguments: dict, rng: random.Random, language: str, split: str) -> str:
    """One sentence that asks for a call."""
    is_deed, deed = rng.choice(deeds(function, language))
    plain, given = given_in_words(function, arguments, rng, language, split)
    kind = "do" if is_deed else "thing"
    frame = rng.choice(frames(language, split)[kind])
    return fill(frame, {kind: deed + plain, "given": given})


def given_in_words(function: Function, arguments: dict, rng: random.Random, language: str, split: str) -> tuple[str, str]:
    """Arguments in words, in an order of their own: " in Paris on 2024-05-01" that belongs to the deed, and ", guests 2" behind it."""
    names = rng.sample(list(arguments), len(arguments))
    plain: dict[str, str] = {}
    pairs = []
    frame, pair = rng.choice(frames(language, split)["given"])
    for name in names:
        value = said(arguments[name], language, rng)
        before = preposition(name, arguments[name], language)
        if before and before not in plain and rng.random() < PLAINLY:
            plain[before] = f" {before} {value}"
        else:
            pairs.append(fill(pair, {"label": rng.choice(labels(function, name, language)), "value": value}))
    joined = ", ".join(pairs[:-1]) + " and " + pairs[-1] if language == "en" and len(pairs) > 1 else "，".join(pairs)
    return "".join(plain.values()), fill(frame, {"pairs": joined}) if pairs else ""


def fill(frame: str, parts: dict[str, str]) -> str:
    """A frame with its parts as they are; a slot that is written with a capital begins with one, and a blank parts Chinese from Latin letters at its ends."""
    parts = parts | {name[:1].upper() + name[1:]: part[:1].upper() + part[1:] for name, part in parts.items()}
    filled = ""
    for literal, name, *_ in Formatter().parse(frame):
        for one in (literal, parts[name] if name else ""):
            filled += " " + one if BORDER.fullmatch(filled[-1:] + one[:1]) else one
    return filled
