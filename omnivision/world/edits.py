"""Small edits of an answer: where they are before and after, and which words were wrong."""

from __future__ import annotations

from typing import NamedTuple


class Edit(NamedTuple):
    """Replace text[start:end]; `wrong` is the word that was false (None where grammar follows another edit)."""

    start: int
    end: int
    text: str
    wrong: str | None = None


class Span(NamedTuple):
    """One edit: characters start:end of the model's answer became new_start:new_end of the corrected one."""

    start: int
    end: int
    new_start: int
    new_end: int


class Correction(NamedTuple):
    """The corrected answer, where it differs, and the words that were false (both empty for a true answer)."""

    answer: str
    spans: list[Span]
    wrong: list[str]


def apply_edits(text: str, edits: list[Edit]) -> Correction | None:
    """Apply edits that do not overlap; None where they do (then there is no minimal edit)."""
    edits = sorted(e for e in edits if text[e.start : e.end] != e.text)
    pieces, spans, at, length = [], [], 0, 0
    for edit in edits:
        if edit.start < at:
            return None
        pieces += [text[at : edit.start], edit.text]
        length += edit.start - at
        spans.append(Span(edit.start, edit.end, length, length + len(edit.text)))
        length += len(edit.text)
        at = edit.end
    return Correction("".join(pieces) + text[at:], spans, [e.wrong for e in edits if e.wrong])


def like(original: str, replacement: str) -> str:
    """The replacement with a capital where the original had one."""
    return replacement[:1].upper() + replacement[1:] if original[:1].isupper() else replacement


def word_edit(text: str, start: int, end: int, new: str) -> Edit:
    """Replace a passage, sparing the words it shares with the new one at its beginning and end.

    "top left" -> "top right" edits only "left". A passage that would only grow or shrink is replaced as a whole, so
    that every edit names a wrong word.
    """
    old = text[start:end]
    a, b = old.split(" "), new.split(" ")
    head = 0
    while head < min(len(a), len(b)) and a[head].lower() == b[head].lower():
        head += 1
    tail = 0
    while tail < min(len(a), len(b)) - head and a[-1 - tail].lower() == b[-1 - tail].lower():
        tail += 1
    if head + tail in (len(a), len(b)):
        return Edit(start, end, like(old, new), old)
    first = sum(len(word) + 1 for word in a[:head])
    last = len(old) - sum(len(word) + 1 for word in a[len(a) - tail :])
    wrong = old[first:last]
    return Edit(start + first, start + last, like(wrong, " ".join(b[head : len(b) - tail])), wrong)
