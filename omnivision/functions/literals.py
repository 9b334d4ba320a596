"""Values of arguments as Python literals, the one way in which calls are written."""

from __future__ import annotations

import keyword
import math
import unicodedata

from omnivision.errors import DataError

MAX_DEPTH = 50  # lists in lists; below Python's own limit of 200 brackets
MAX_DIGITS = 300  # of a whole number; Python refuses to print much longer ones


def literal(value: object, where: str, depth: int = 0) -> str:
    """A value as a literal, in one spelling: 'red cat', 2, True, None, [1, 2], {'a': 1}.

    Raises:
        DataError: a value that JSON cannot hold, or one nested too deeply; `where` is named.
    """
    if depth > MAX_DEPTH:
        raise DataError(f"nested more than {MAX_DEPTH} deep", where, "Flatten the value.")
    if is_scalar(value):
        return text_literal(value) if isinstance(value, str) else repr(value)
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(literal(one, where, depth + 1) for one in value)}]"
    if isinstance(value, dict) and all(isinstance(key, str) and is_scalar(key) for key in value):
        inner = (f"{text_literal(key)}: {literal(one, where, depth + 1)}" for key, one in value.items())
        return f"{{{', '.join(inner)}}}"
    remedy = f"Use text, finite numbers of at most {MAX_DIGITS} digits, true, null, lists and objects."
    raise DataError(f"a {type(value).__name__} that is not a JSON value", where, remedy)


def is_scalar(value: object) -> bool:
    """Whether a value is text that UTF-8 can hold, a finite number, a truth value or null."""
    if isinstance(value, str):
        return not any("\ud800" <= character <= "\udfff" for character in value)
    if isinstance(value, int):  # a truth value too
        return abs(value) < 10**MAX_DIGITS
    return value is None or isinstance(value, float) and math.isfinite(value)


def text_literal(value: str) -> str:
    """A string literal; escaped to ASCII where Qwen's tokenizer (NFC) would change its characters."""
    written = repr(value)
    return written if unicodedata.normalize("NFC", written) == written else ascii(value)


def named(name: str) -> tuple[str, str]:
    """What stands before and after the value of a named argument: ("item=", "") or ("**{'from': ", "}").

    The second is for names that Python cannot write as a keyword, or would fold to others (NFKC).
    """
    plain = name.isidentifier() and not keyword.iskeyword(name) and name != "__debug__" and unicodedata.normalize("NFKC", name) == name
    return (f"{name}=", "") if plain else unnamed(name)


def unnamed(name: str) -> tuple[str, str]:
    """As named, for an argument that the schema does not name: always in braces, so that any name fits."""
    return f"**{{{text_literal(name)}: ", "}"
