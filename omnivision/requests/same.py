"""When two requests are the same."""

from __future__ import annotations

import re
import unicodedata

PARTS = re.compile(r"[-+]?\d+(?:[.,:/-]\d+)*|\w+")  # a number with its sign and marks is one part: 1.5 is not 15


def normalised(text: str) -> str:
    """A text without case, punctuation and differences of width."""
    return " ".join(PARTS.findall(unicodedata.normalize("NFKC", text).casefold()))
