"""The text of an argument list, written and read: "(item='red cat', count=2)" <-> a dictionary.

Written as Python literals, read by Python's own parser in literal mode: no pattern matching over
text, nothing is evaluated. Where the value of an argument is another call, the text is cut: pieces
[before, between ..., after] stand around the calls.
"""

from __future__ import annotations

import ast
import unicodedata
import warnings
from collections.abc import Collection, Sequence

from omnivision.errors import DataError
from omnivision.functions.function import Function
from omnivision.functions.key_order import in_schema_order
from omnivision.functions.literals import MAX_DEPTH, is_scalar, literal, named, unnamed

MAX_CALL_CHARACTERS = 20_000  # far above any answer; bounds the parser's work on a runaway model


class Malformed(Exception):
    """Text that is no argument list; `kind` as in CallError."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


def write_arguments(function: Function, arguments: dict, nested: Collection[str] = ()) -> tuple[list[str], list[str]]:
    """Arguments as canonical text, in the schema's order, absent ones left out.

    A name that Python cannot write as a keyword ("from", "start-date") or that the schema does not
    hold stands as **{'from': ...}.

    Args:
        nested: names of arguments whose values are calls; they are not among `arguments`.

    Returns:
        The pieces of text around the nested calls (one more than there are), and the names of
        these calls in the order in which they stand.

    Raises:
        DataError: arguments that do not fit the schema, or a value that JSON cannot hold.
    """
    where = f"function {function.name!r}"
    known = [name for name in function.argument_names if name in arguments or name in nested]
    rest = sorted(name for name in {*arguments, *nested} if name not in known)
    pieces, inside = ["("], []
    for position, name in enumerate(known + rest):
        before, after = named(name) if name in known else unnamed(name)
        pieces[-1] += f", {before}" if position else before
        if name in nested:
            inside.append(name)
            pieces.append("")
        else:
            pieces[-1] += literal(in_schema_order(arguments[name], function, name), f"{where}, argument {name!r}")
        pieces[-1] += after
    pieces[-1] += ")"
    text = "…".join(pieces)
    for name in nested:
        if name in arguments:
            raise DataError(f"argument {name!r} has a value and a call", where, "Keep one of them.")
    for _, message in function.faults(arguments, nested):
        raise DataError(f"arguments do not fit: {message}", where, f"Given: {text:.200}.")
    return pieces, inside


def read_arguments(pieces: Sequence[str], function: Function) -> tuple[dict, dict[str, int]]:
    """An argument list as a dictionary; positional arguments take the schema's order.

    Args:
        pieces: the text around nested calls; one piece where there are none.

    Returns:
        The plain values, and for every argument whose value is a call the number of that call.

    Raises:
        Malformed: the text is no argument list of literals, or does not fit the function.
    """
    marks = _marks(pieces)
    values: dict = {}
    calls: dict[str, int] = {}
    for name, node in _pairs(_parse(_joined(pieces, marks)), function.argument_names, function.name):
        if not isinstance(name, str):
            raise Malformed("not_literal", f"{name!r} is no argument name")
        if name in values or name in calls:
            raise Malformed("duplicate", f"argument {name!r} twice")
        if isinstance(node, ast.Name) and node.id in marks:
            calls[name] = marks.index(node.id)
        else:
            values[name] = _value(node)
    if len(calls) != len(marks):
        raise Malformed("not_literal", "a call stands where no value of an argument does")
    for kind, message in function.faults(values, calls):
        raise Malformed(kind, message)
    return values, calls


def _pairs(call: ast.Call, names: Sequence[str], function: str) -> list[tuple[object, ast.AST]]:
    """Names and values in the order written."""
    if len(call.args) > len(names):
        raise Malformed("unknown_argument", f"{len(call.args)} arguments for the {len(names)} of {function}")
    pairs: list[tuple[object, ast.AST]] = list(zip(names, call.args))
    for item in call.keywords:
        if item.arg is not None:
            pairs.append((item.arg, item.value))
        elif isinstance(item.value, ast.Dict):  # **{'from': ...}
            pairs.extend((_value(key), node) for key, node in zip(item.value.keys, item.value.values))
        else:
            raise Malformed("not_literal", "** before something that is no dictionary")
    return pairs


def _marks(pieces: Sequence[str]) -> list[str]:
    """One identifier for each nested call, none of which the text can spell (the parser folds identifiers to NFKC)."""
    text, stem = unicodedata.normalize("NFKC", "".join(pieces)), "call_"
    while stem in text:
        stem += "_"
    return [f"{stem}{number}_" for number in range(len(pieces) - 1)]


def _joined(pieces: Sequence[str], marks: Sequence[str]) -> str:
    return pieces[0] + "".join(mark + piece for mark, piece in zip(marks, pieces[1:]))


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
    if isinstance(node, ast.Constant) and is_scalar(node.value):
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
