"""A catalogue of up to 1,000 functions and requests for them, made from words: a hundred things, ten things to do with each.

Each function has six wordings (three clauses, two words for the thing); five train and one is asked, in sentence frames and with
names of its own. One in two of the wordings asked has not the description's word for the thing, one in three none of its words for the verb.
"""

from __future__ import annotations

import random
from string import ascii_uppercase, digits
from zlib import crc32

from omnivision.errors import ConfigError

from .words import DAYS, FRAMES, PEOPLE, THINGS, VERBS

LARGEST = sum(map(len, THINGS.values())) * len(VERBS)
Pair = tuple[str, str]  # verb, thing


def pairs(count: int, seed: int) -> list[Pair]:
    """Verbs and things in random order; a smaller catalogue is the head of a larger one.

    Raises:
        ConfigError: more than there are.
    """
    if not 1 <= count <= LARGEST:
        raise ConfigError(f"A catalogue of {count} functions", "sizes", f"Give 1 to {LARGEST}.")
    every = [(verb, thing) for things in THINGS.values() for thing in things for verb in VERBS]
    return random.Random(seed).sample(every, len(every))[:count]


def tool(verb: str, thing: str) -> dict:
    """A function in OpenAI's format."""
    arguments = VERBS[verb].arguments
    parameters = {"type": "object", "properties": arguments, "required": list(arguments), "additionalProperties": False}
    body = {"name": f"{verb}_{thing}", "description": VERBS[verb].description.format(thing=thing), "parameters": parameters}
    return {"type": "function", "function": body}


def wordings(verb: str, thing: str, split: str) -> list[str]:
    """Clauses with the arguments' places left open; none is in both splits."""
    other = next(words[thing] for words in THINGS.values() if thing in words)
    every = [clause.replace("{thing}", word) for clause in VERBS[verb].clauses for word in (thing, other)]
    asked = every[crc32(f"{verb} {thing}".encode()) % len(every)]
    return [asked] if split == "eval" else [one for one in every if one != asked]


def requests(chosen: list[Pair], count: int, split: str, seed: int) -> list[dict]:
    """So many rows with `request` and `calls`, the functions in turn, shuffled; no request twice unless its function has no arguments.

    Args:
        split: "train" or "eval".
    """
    rng = random.Random(f"{seed} {split}")
    order = [pair for _ in range(-(-count // len(chosen))) for pair in rng.sample(chosen, len(chosen))][:count]
    rows = []
    for number, (verb, thing) in enumerate(order):
        values = {name: value(name, split, rng) for name in VERBS[verb].arguments}
        clause = rng.choice(wordings(verb, thing, split)).format(**values)
        request = rng.choice(FRAMES[split]).format(clause=clause)
        rows.append({"id": f"{split}-{number}", "images": [], "request": request[0].upper() + request[1:],
                     "calls": [{"name": f"{verb}_{thing}", "arguments": values}]})
    return rows


def value(argument: str, split: str, rng: random.Random) -> str | int:
    """A value of an argument: names (a letter and a digit) and numbers of copies are apart in the splits; people, days and stars are in both."""
    if argument == "person":
        return rng.choice(PEOPLE)
    if argument == "day":
        return rng.choice(DAYS)
    if argument == "stars":
        return rng.randint(1, 5)
    while True:
        found = rng.randint(10, 99) if argument == "copies" else rng.choice(ascii_uppercase) + rng.choice(digits)
        if (crc32(str(found).encode()) % 4 == 0) == (split == "eval"):
            return found
