"""Words and sentences of an answer in English or Chinese, and where two answers differ."""

from __future__ import annotations

import difflib
import re

WORD = re.compile(r"(?<![^\W_])[-+$€£¥]?\d+(?:[.,:]\d+)+%?|(?<![^\W_])[-+$€£¥]\d+%?|\d+%|[\u3400-\u9fff]|[^\W\u3400-\u9fff]+|[^\w\s]")  # a number with its sign and unit, a Chinese character
SENTENCE = re.compile(r"(?:[^.!?。！？\n]|(?<=\d)\.(?=\d))+[.!?。！？]*")  # the point of 3.5 ends none


def words(text: str) -> list[str]:
    """Words and punctuation marks, in order."""
    return WORD.findall(text)


def spoken(text: str) -> list[str]:
    """Words alone, in order."""
    return [word for word in words(text) if any(map(str.isalnum, word))]


def sentences(text: str) -> list[str]:
    """Sentences and lines, in order, without blanks around them."""
    return [one.strip() for one in SENTENCE.findall(text) if WORD.search(one)]


def word_edits(rejected: str, chosen: str) -> dict[str, list[list[int]]]:
    """Character spans of the words in which two texts differ."""
    sides = [[match.span() for match in WORD.finditer(side)] for side in (rejected, chosen)]
    split = [[side[start:stop] for start, stop in spans] for side, spans in zip((rejected, chosen), sides, strict=True)]
    edits: dict[str, list[list[int]]] = {"rejected": [], "chosen": []}
    for kind, a0, a1, b0, b1 in difflib.SequenceMatcher(None, *split, autojunk=False).get_opcodes():
        if kind != "equal":
            for name, spans, first, last in (("rejected", sides[0], a0, a1), ("chosen", sides[1], b0, b1)):
                if first < last:
                    edits[name].append([spans[first][0], spans[last - 1][1]])
    return edits
