"""Which language a request is in, the texts of its calls aside."""

from __future__ import annotations

import re
from collections.abc import Iterator

CHINESE = re.compile(r"[\u3400-\u9fff]")
WORD = re.compile(r"[A-Za-z]{2,}")


def speaks(request: str, language: str, calls: list[dict]) -> bool:
    """Whether a request is in its language, the texts of its calls aside: English without Chinese letters, Chinese with as many as it has Latin words."""
    for text in sorted((text for call in each_call(calls) for text in _texts(call["arguments"])), key=len, reverse=True):
        request = request.replace(text, " ")
    letters, words = len(CHINESE.findall(request)), len(WORD.findall(request))
    return letters == 0 if language == "en" else letters >= max(2, words)


def _texts(value: object) -> Iterator[str]:
    if isinstance(value, str) and value:
        yield value
    elif isinstance(value, list | dict):
        for one in value.values() if isinstance(value, dict) else value:
            yield from _texts(one)


def each_call(calls: list[dict]) -> Iterator[dict]:
    """All calls, those in others too."""
    for call in calls:
        yield call
        yield from each_call(list((call.get("nested") or {}).values()))
