"""Words of models, servers and programs on a terminal, which would act on some of them."""

from __future__ import annotations

import unicodedata

KEPT = "\n\t\u200c\u200d"  # lines and tabs; the joiners of scripts and of emoji


def for_terminal(text: str) -> str:
    """A text whose letters, blanks and lines stay; what a terminal would act on (escape sequences, changes of direction) stands as Python's escapes."""
    return "".join(one if one.isprintable() or one in KEPT or unicodedata.category(one) == "Zs" else ascii(one)[1:-1] for one in text)
