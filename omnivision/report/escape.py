"""The one way of text into the page."""

from __future__ import annotations

import html
import re

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")


def text(value: object) -> str:
    """Any value as harmless HTML text or attribute value; control characters become visible."""
    return html.escape(_CONTROL.sub("\ufffd", str(value)), quote=True)
