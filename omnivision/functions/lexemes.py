"""Patterns of string literals in the grammar's language (Lark), by length and by a schema's pattern."""

from __future__ import annotations

import re
import sys
from functools import lru_cache

from llguidance import LLMatcher, LLTokenizer, TokenizerWrapper

# What Python's repr writes for characters that are not printed; \ud800-\udfff are no characters.
_ESCAPED = (
    r"""\\(?:[\\'"nrt]|x[0-9a-f]{2}|u(?:[0-9a-ce-f][0-9a-f]{3}|d[0-7][0-9a-f]{2})"""
    r"""|U(?:000[1-9a-f][0-9a-f]{4}|0010[0-9a-f]{4}))"""
)
_QUOTES = ("'", '"')
_SHORTHANDS = tuple("wWdDsS")


def strings(least: int = 0, most: int | None = None, patterns: tuple[str, ...] = ()) -> str | None:
    """String literals in single or double quotes; None where there are none.

    Args:
        least: characters of the string. most: None is no bound.
        patterns: what the string has to hold, as `plain_pattern` gives it; such strings are written
            without escapes, so none of them holds a backslash or both quotes.
    """
    count = f"{{{least},{'' if most is None else most}}}" if least or most is not None else "*"
    options = []
    for quote in _QUOTES:
        plain = rf"[^{quote}\\\x00-\x1f\x7f]"
        if patterns:
            body = " & ".join([f"/{plain}{count}/", *(f"/{pattern}/" for pattern in patterns)])
            options.append(f"/{quote}/ ({body}) /{quote}/")
        else:
            options.append(f"/{quote}(?:{plain}|{_ESCAPED}){count}{quote}/")
    found = " | ".join(options)
    return None if most is not None and most < least or patterns and _is_empty(found) else found


def plain_pattern(pattern: str) -> str | None:
    """A schema's pattern as one that has to match the whole string, or None where the grammar cannot say it.

    Ends (^ and $) are understood where they stand around the whole pattern; inside it, and for look-arounds, back-references,
    word boundaries, line breaks, possessive quantifiers (a second one to the grammar) and what the grammar reads as a class in a
    class, there is no such pattern.
    """
    if "\n" in pattern:  # it would end the grammar's line
        return None
    begins, ends = pattern.startswith("^"), pattern.endswith("$") and not _is_escaped(pattern, len(pattern) - 1)
    body = pattern[begins : len(pattern) - ends]
    depth, at, in_class, written = 0, 0, False, []
    while at < len(body):
        one = body[at : at + 2] if body[at] == "\\" else body[at]
        at += len(one)
        if not in_class and one in "?*+}" and body[at : at + 1] == "+":
            return None
        if one[0] == "\\" and one[1:] in _SHORTHANDS:
            one = _members(one) if in_class else f"[{_members(one)}]"
        elif in_class:
            if one == "[" or one in "&-~" and body[at : at + 1] == one:  # a class in a class, or two of them joined
                return None
            in_class = one != "]"
        elif one == "[":
            in_class = True
        elif one in "()":
            depth += 1 if one == "(" else -1
        elif one in "^$" or one == "|" and depth == 0 and (begins or ends):
            return None
        written.append(r"\/" if one == "/" else one)
    anything = "(?s:.*)"
    whole = ("" if begins else anything) + f"(?:{''.join(written)})" + ("" if ends else anything)
    return None if LLMatcher.validate_grammar(f"start: WHOLE\nWHOLE: /{whole}/") else whole


@lru_cache(maxsize=None)
def _members(shorthand: str) -> str:
    r"""The characters of \w, \d or another as a class's ranges: as Python reads it, since to the grammar \w has vowel signs too, and \d newer digits."""
    everything = "".join(chr(one) for one in range(sys.maxunicode + 1) if not 0xD800 <= one < 0xE000)
    runs = (found[0] for found in re.finditer(f"{shorthand}+", everything))
    return "".join(f"\\x{{{ord(run[0]):x}}}-\\x{{{ord(run[-1]):x}}}" for run in runs)


def _is_empty(pattern: str) -> bool:
    """Whether nothing matches; llguidance would find out only where it has to go on."""
    matcher = LLMatcher(byte_tokenizer(), f"start: ONE\nONE: {pattern}", log_level=0)
    matcher.compute_bitmask()
    return matcher.is_error()


@lru_cache(maxsize=1)
def byte_tokenizer() -> LLTokenizer:
    """The bytes as tokens, to try patterns on."""
    return LLTokenizer(TokenizerWrapper(_Bytes()))


class _Bytes:
    """A tokenizer whose tokens are the bytes."""

    eos_token_id, bos_token_id, special_token_ids = 256, None, (256,)
    tokens = (*(bytes([one]) for one in range(256)), b"<end>")

    def __call__(self, text: bytes) -> list[int]:
        return list(text)


def _is_escaped(text: str, at: int) -> bool:
    before = text[:at]
    return (len(before) - len(before.rstrip("\\"))) % 2 == 1
