"""Whether a corrected answer is a minimal edit of the original. Pure functions of the two texts.

| gate | lets through |
|---|---|
| empty_edit | more than blanks, case or punctuation differ |
| too_much_edited | at most a share of the words is replaced, inserted or deleted |
| length | the corrected answer has between 1/r and r times the words |
| format | as many lines and sentences, the same list marks, the same scripts, closed or not as before |
| order | each sentence that has its like in the other answer stands in the same order |
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from rapidfuzz import fuzz
from rapidfuzz.distance import Levenshtein

from omnivision.pairs.words import sentences, spoken

MARK = re.compile(r"^\s*(?:[-*•]|\d+[.)、]|#+)\s", re.MULTILINE)  # of a list or heading
CHINESE, LATIN = re.compile(r"[\u3400-\u9fff]"), re.compile(r"[A-Za-z]{2}")
CLOSING = ".!?。！？"
LIKE = 60.0  # rapidfuzz's ratio above which two sentences are the same one, edited


@dataclass(frozen=True)
class Limits:
    """What is minimal.

    Args:
        most_edited: share of the words that may change, of the longer answer's. most_longer: ratio of the numbers of words, either way.
    """

    most_edited: float = 0.8
    most_longer: float = 2.0


@dataclass(frozen=True)
class Ratios:
    """How much an edit changes: share of the words, and words after it for one before."""

    edited: float
    length: float


def ratios(rejected: str, chosen: str) -> Ratios:
    """Of words as they stand; punctuation does not count."""
    before, after = (spoken(text) for text in (rejected, chosen))
    return Ratios(round(Levenshtein.normalized_distance(before, after), 4), round(len(after) / max(1, len(before)), 4))


def failed_gate(rejected: str, chosen: str, limits: Limits) -> str | None:
    """The first gate that a corrected answer does not pass; None for a minimal edit."""
    if _bare(rejected) == _bare(chosen):
        return "empty_edit"
    found = ratios(rejected, chosen)
    if found.edited > limits.most_edited:
        return "too_much_edited"
    if not 1 / limits.most_longer <= found.length <= limits.most_longer:
        return "length"
    if _form(rejected) != _form(chosen):
        return "format"
    return None if _in_order(rejected, chosen) else "order"


def _bare(text: str) -> list[str]:
    return [word.casefold() for word in spoken(text)]


def _form(text: str) -> tuple:
    """Lines, sentences, list marks, whether there is Chinese, whether there is Latin, whether it ends closed."""
    text = text.strip()
    return (len(text.splitlines()), len(sentences(text)), len(MARK.findall(text)), bool(CHINESE.search(text)), bool(LATIN.search(text)),
            bool(text) and text[-1] in CLOSING)


def _in_order(rejected: str, chosen: str) -> bool:
    """Each sentence of the corrected answer stands behind the like of the one before it."""
    before, last = sentences(rejected), -1
    for sentence in sentences(chosen):
        alike = [fuzz.ratio(sentence, one) for one in before]
        best = max(alike, default=0.0)
        if best < LIKE:
            continue  # edited beyond recognition, or new: the other gates judge it
        at = min((number for number, ratio in enumerate(alike) if ratio >= best - 1e-9), key=lambda number: (number <= last, number))
        if at <= last:
            return False
        last = at
    return True
