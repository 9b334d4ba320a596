"""How MMMU's official evaluation reads a response: a letter of several options, or the values an open answer holds.

Source: mmmu/utils/eval_utils.py of MMMU-Benchmark/MMMU@bb0b95a, read there.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

Value = str | float

_ENDS = (",", ".", "!", "?", ";", ":", "'")  # each stripped once, in this order
_CUES = ("could be ", "so ", "is ", "thus ", "therefore ", "final ", "answer ", "result ")
_TRIVIAL = {":", ",", ".", "!", "?", ";", "'"}
_NUMBERS = (
    re.compile(r"-?\b\d{1,3}(?:,\d{3})+\b"),  # with thousands commas
    # (?<!\d): a run of digits that fits nowhere at its start fits nowhere later; without it long runs take quadratic time
    re.compile(r"-?(?<!\d)\d+(?:\.\d+)?[eE][+-]?\d+"),  # with an exponent
    re.compile(r"-?(?:(?<!\d)\d+\.\d+|\.\d+|(?<!\d)\d+\b)(?![eE][+-]?\d+)(?![,\d])"),  # plain
)
_CONTENT_WORDS = 5  # an option's text is looked for in answers of more words than this


def read_choice(response: str, options: dict[str, str]) -> str | None:
    """The letter a response names: the last "(A)", else the last " A ", else the last option whose text a long answer holds.

    Args:
        response: the model's text.
        options: letter -> the option's text.

    Returns:
        A letter; None where the official code takes one at random.
    """
    for mark in _ENDS:
        response = response.strip(mark)
    padded = f" {response} "
    for form in ("({})", " {} "):
        if letter := _last(padded, {letter: form.format(letter) for letter in options}):
            return letter
    if len(padded.split()) > _CONTENT_WORDS:
        return _last(padded.lower(), {letter: text.lower() for letter, text in options.items()})
    return None


def _last(text: str, wanted: dict[str, str]) -> str | None:
    places = {letter: text.rfind(one) for letter, one in wanted.items()}
    best = max(places, key=places.__getitem__, default=None)  # of several at one place the first option
    return best if best is not None and places[best] >= 0 else None


def values_of(text: str) -> list[Value]:
    """A text as it is compared: a number of two decimals, else lower case; one character only beside a space."""
    text = text.strip()
    try:
        return [round(float(text.replace(",", "")), 2)]
    except ValueError:
        text = text.lower()
    return [f" {text}", f"{text} "] if len(text) == 1 else [text]


def read_open(response: str) -> set[Value]:
    """Everything an open answer could mean: the tails of its lines after cue words, and the numbers in them.

    The script means to split at sentences too, but lower-cases first and then looks for a capital: only lines are split.
    """
    whole = response.strip().strip(".").lower()
    lines = whole.split("\n")
    tails = [_tail(line, _CUES if at < len(lines) - 1 else (*_CUES, "=")) for at, line in enumerate(lines)]
    parts = [tail for tail in tails if tail and tail not in _TRIVIAL] or [whole]
    numbers = [number for part in parts for form in _NUMBERS for number in form.findall(part)]
    return {value for one in [*parts, *numbers] for value in values_of(one)}


def _tail(line: str, cues: Iterable[str]) -> str:
    """The shortest text after the last of any cue; an empty one gives way to the next cue's."""
    best = ""
    for cue in cues:
        if cue in line:
            rest = line.rsplit(cue, 1)[1].strip()
            best = rest if not best or len(rest) < len(best) else best
    return best


def open_is_right(said: Iterable[Value], truth: str | list[str]) -> bool:
    """Whether a number is equal, or a text holds the true text."""
    true = [value for one in ([truth] if isinstance(truth, str) else truth) for value in values_of(one)]
    words = [value for value in true if isinstance(value, str)]
    return any(any(word in one for word in words) if isinstance(one, str) else one in true for one in said)


def choice_is_right(letter: str | None, truth: str | list[str]) -> bool:
    """Whether the letter is the true one, or one of them."""
    return letter is not None and letter in ([truth] if isinstance(truth, str) else truth)
