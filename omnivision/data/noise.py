"""Requests with words left out and words misspelt: the same meaning, other tokens, so that a small model does not learn requests by heart."""

from __future__ import annotations

import random

DROPPED, MISSPELT = 0.15, 0.05  # shares of the words
SHORTEST = 4  # letters of a word that may be misspelt


def noisy(text: str, rng: random.Random, dropped: float = DROPPED, misspelt: float = MISSPELT) -> str:
    """The text with some words missing and some misspelt; one word at least is left.

    Args:
        text: words between spaces. rng: decides. dropped, misspelt: how often a word is.
    """
    words = text.split()
    kept = [word for word in words if rng.random() >= dropped] or [rng.choice(words)]
    return " ".join(_misspelt(word, rng) if len(word) >= SHORTEST and rng.random() < misspelt else word for word in kept)


def _misspelt(word: str, rng: random.Random) -> str:
    """One letter left out, doubled, or changed with the next."""
    at = rng.randrange(len(word) - 1)
    one, two = word[at], word[at + 1]
    return word[:at] + rng.choice((two, one + one + two, two + one)) + word[at + 2:]
