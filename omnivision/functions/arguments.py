"""The text of an argument list, written and read: "(item='red cat', count=2)" <-> a dictionary.

Written as Python literals, read by Python's own parser in literal mode: no pattern matching over
text, nothing is evaluated.
"""

from __future__ import annotations

import ast
import keyword
import math
import unicodedata
import warnings

from omnivision.errors import DataError
from omnivision.functions.function_set import Function

MAX_CALL_CHARACTERS = 20_000  # far above any answer; bounds the parser's work on a runaway model
MAX_DEPTH = 50  # lists in lists; below Python's own limit of 200 brackets


class Malformed(Exception):
    """Text that is no argument list; `kind` as in CallError."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


def write_arguments(function: Function, arguments: dict) -> str:
    """Arguments as canonical text, in the schema's order, absent ones left out.

    A name that Python cannot write as a keyword ("from", "start-date") stands as **{'from': ...}.

    Raises:
        DataError: arguments that do not fit the schema, or a value that JSON cannot hold.
    """
    known = [name for name in function.argument_names if name in arguments]
    rest = sorted(name for name in arguments if name not in known)
    parts = []
    for name in known + rest:
        value = _literal(arguments[name], f"function {function.name!r}, argument {name!r}")
        parts.append(f"{name}={value}" if _is_keyword_name(name) else f"**{{{_text(name)}: {value}}}")
    text = f"({', '.join(parts)})"
    for _, message in function.faults(arguments):
        raise DataError(f"arguments do not fit: {message}", f"function {function.name!r}", f"Given: {text:.200}.")
    return text


def read_arguments(text: str, function: Function) -> dict:
    """An argument list as a dictionary; positional arguments take the schema's order.

    Raises:
        Malformed: the text is no argument list of literals, or does not fit the function.
    """
    call = _parse(text)
    names = function.argument_names
    if len(call.args) > len(names):
        raise Malformed("unknown_argument", f"{len(call.args)} arguments for the {len(names)} of {function.name}")
    pairs = [(name, node) for name, node in zip(names, call.args)]
    for item in call.keywords:
        if item.arg is not None:
            pairs.append((item.arg, item.value))
        elif isinstance(item.value, ast.Dict):  # **{'from': ...}
            pairs.extend((_value(key), node) for key, node in zip(item.value.keys, item.value.values))
        else:
            raise Malformed("not_literal", "** before something that is no dictionary")
    arguments: dict = {}
    for name, node in pairs:
        if not isinstance(name, str):
            raise Malformed("not_literal", f"{name!r} is no argument name")
        if name in arguments:
            raise Malformed("duplicate", f"argument {name!r} twice")
        arguments[name] = _value(node)
    for kind, message in function.faults(arguments):
        raise Malformed(kind, message)
    return arguments


def _literal(value: object, where: str, depth: int = 0) -> str:
    if depth > MAX_DEPTH:
        raise DataError(f"nested more than {MAX_DEPTH} deep", where, "Flatten the value.")
    if _is_scalar(value):
        return _text(value) if isinstance(value, str) else repr(value)
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(_literal(one, where, depth + 1) for one in value)}]"
    if isinstance(value, dict) and all(isinstance(key, str) and _is_scalar(key) for key in value):
        inner = (f"{_text(key)}: {_literal(one, where, depth + 1)}" for key, one in value.items())
        return f"{{{', '.join(inner)}}}"
    remedy = "Use text, finite numbers of at most 300 digits, true, null, lists and objects."
    raise DataError(f"a {type(value).__name__} that is not a JSON value", where, remedy)


def _is_scalar(value: object) -> bool:
    """Whether a value is text that UTF-8 can hold, a finite number, a truth value or null."""
    if isinstance(value, str):
        return not any("\ud800" <= character <= "\udfff" for character in value)
    if isinstance(value, int):  # a truth value too; Python refuses to print much longer numbers
        return abs(value) < 10**300
    return value is None or isinstance(value, float) and math.isfinite(value)


def _text(value: str) -> str:
    """A string literal; escaped to ASCII where Qwen's tokenizer (NFC) would change its characters."""
    written = repr(value)
    return written if unicodedata.normalize("NFC", written) == written else ascii(value)


def _is_keyword_name(name: str) -> bool:
    # Python's parser folds identifiers to NFKC, which would rename the argument.
    return (
        name.isidentifier()
        and not keyword.iskeyword(name)
        and name != "__debug__"
        and unicodedata.normalize("NFKC", name) == name
    )


def _parse(text: str) -> ast.Call:
    if len(text) > MAX_CALL_CHARACTERS:
        raise Malformed("syntax", f"{len(text)} characters, more than {MAX_CALL_CHARACTERS}")
    source = f"f{text}"
    try:
        with warnings.catch_warnings():  # an odd escape such as \d is the model's affair, not a warning
            warnings.simplefilter("ignore")
            node = ast.parse(source, mode="eval").body
    except (SyntaxError, ValueError, MemoryError, RecursionError) as error:
        raise Malformed("syntax", f"not an argument list: {error or type(error).__name__}") from error
    whole = isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "f"
    # A comment after the bracket would be dropped silently: the call must reach the text's end.
    last_line = source.split("\n")[(node.end_lineno or 1) - 1 :]
    if not whole or len(last_line) != 1 or len(last_line[0].encode("utf-8", "surrogatepass")) != node.end_col_offset:
        raise Malformed("syntax", "something stands around the argument list")
    return node


def _value(node: ast.AST | None, depth: int = 0) -> object:
    """A JSON value from literal nodes only."""
    if depth > MAX_DEPTH + 1:
        raise Malformed("not_literal", f"nested more than {MAX_DEPTH} deep")
    if isinstance(node, ast.Constant) and _is_scalar(node.value):
        return node.value
    if isinstance(node, ast.List):
        return [_value(one, depth + 1) for one in node.elts]
    if isinstance(node, ast.Dict):
        keys = [_value(key, depth + 1) for key in node.keys]
        if all(isinstance(key, str) for key in keys) and len(set(keys)) == len(keys):
            return {key: _value(one, depth + 1) for key, one in zip(keys, node.values)}
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        value = _value(node.operand, depth + 1)
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            return -value
    raise Malformed("not_literal", f"{type(node).__name__} is not a plain value")
