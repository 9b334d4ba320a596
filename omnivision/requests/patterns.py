"""A text that a schema's pattern allows, drawn letter by letter from the automaton that the grammar of calls uses too."""

from __future__ import annotations

import random

import numpy as np
from llguidance import LLMatcher

from omnivision.functions.lexemes import byte_tokenizer, plain_pattern

LONGEST = 60  # letters
WILLING = 0.4  # how readily a text ends where it may
LETTERS = frozenset(range(48, 58)) | frozenset(range(65, 91)) | frozenset(range(97, 123))  # preferred where a pattern leaves the choice


def text_of_pattern(patterns: tuple[str, ...], least: int, most: int | None, rng: random.Random) -> str:
    """One text that matches all patterns; "" where none was found or the automaton cannot say them (the caller checks what it gets).

    Args:
        patterns: of a plain schema. least, most: letters of the text.
    """
    whole = [plain_pattern(f"^(?:{pattern.removeprefix('^').removesuffix('$')})$") for pattern in patterns]  # nothing around it
    if None in whole:
        return ""
    body = " & ".join(f"/{one}/" for one in (f"(?s:.){{{least},{'' if most is None else most}}}", *whole))
    tokenizer = byte_tokenizer()
    matcher = LLMatcher(tokenizer, f"start: ONE\nONE: {body}", log_level=0)
    found = bytearray()
    while len(found) < LONGEST:
        allowed = np.flatnonzero(np.unpackbits(np.frombuffer(matcher.compute_bitmask(), dtype=np.uint8), bitorder="little")).tolist()
        if matcher.is_error() or not allowed:
            return ""
        letters = [one for one in allowed if one < 256]
        if not letters or tokenizer.eos_token in allowed and rng.random() < WILLING:
            break
        one = rng.choice([letter for letter in letters if letter in LETTERS] or [letter for letter in letters if 32 <= letter < 127] or letters)
        matcher.consume_token(one)
        found.append(one)
    return found.decode("utf-8", "ignore")
