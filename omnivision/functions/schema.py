"""From a Python function's type hints and docstring to a JSON schema of its arguments."""

from __future__ import annotations

import dataclasses
import enum
import inspect
import math
import re
import types
import typing
from collections.abc import Callable, Iterable

from omnivision.errors import ConfigError, DataError
from omnivision.functions.literals import literal

_SIMPLE = {
    str: {"type": "string"},
    bool: {"type": "boolean"},
    int: {"type": "integer"},
    float: {"type": "number"},
    type(None): {"type": "null"},
    list: {"type": "array"},
    dict: {"type": "object"},
    typing.Any: {},
}
_ARGUMENTS = ("Args:", "Arguments:", "Parameters:")  # headings in a docstring
_FIELD = re.compile(r":\w+(?: [^:]*)?:")  # ":param x:", ":return:", as reStructuredText begins lines
_PARAM = re.compile(r"^[ \t]*:(?:param|parameter|arg|argument) (?:[^:\n]* )?(\w+):(.*(?:\n[ \t]+(?!:).*)*)", re.MULTILINE)


def callable_schema(function: Callable) -> tuple[str, dict]:
    """Describe a function to a model.

    Args:
        function: every parameter needs a type hint; the docstring's first paragraph says what the
            function does, an "Args:" section (lines "name: text") or ":param name: text" says what each argument is.

    Returns:
        The description and the JSON schema of the arguments, in the order of the signature.

    Raises:
        ConfigError: a parameter without a hint, a hint that JSON cannot express, or a parameter
            that cannot be passed by name.
    """
    where = f"function {function.__name__}"
    hints = _hints(function, where)
    description, about = _read_docstring(inspect.getdoc(function) or "")
    if not description:
        raise ConfigError(
            "a function without a docstring", where, "Say in one line what it does: the token starts from it."
        )
    properties, required = {}, []
    for name, parameter in inspect.signature(function).parameters.items():
        if parameter.kind not in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
            raise ConfigError(f"parameter '{parameter}' cannot be passed by name", where, "Use named parameters only.")
        if name not in hints:
            raise ConfigError(f"parameter '{name}' has no type hint", where, "Add one, such as str or list[int].")
        schema = hint_schema(hints[name], f"{where}, parameter '{name}'")
        if name in about:
            schema = {**schema, "description": about[name]}
        default = parameter.default.value if isinstance(parameter.default, enum.Enum) else parameter.default
        if parameter.default is parameter.empty:
            required.append(name)
        elif isinstance(default, (str, int)) or isinstance(default, float) and math.isfinite(default):
            schema = {**schema, "default": default}
        properties[name] = schema
    return description, {"type": "object", "properties": properties, "required": required}


def hint_schema(hint: object, where: str, inside: tuple[type, ...] = ()) -> dict:
    """JSON schema of one type hint.

    Args:
        hint: str, bool, int, float, list, dict, Any, Literal, Enum, unions, TypedDict and dataclasses.
        inside: the classes that the hint stands in.
    """
    if hint in _SIMPLE:
        return dict(_SIMPLE[hint])
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin is list:
        return {"type": "array", "items": hint_schema(inner[0], where, inside)} if inner else {"type": "array"}  # a bare typing.List
    if origin is dict and not inner:
        return {"type": "object"}
    if origin is dict and inner[0] is str:
        return {"type": "object", "additionalProperties": hint_schema(inner[1], where, inside)}
    if origin is typing.Literal:
        return {"enum": _listed(inner, where)}
    if isinstance(hint, type) and issubclass(hint, enum.Enum):
        return {"enum": _listed(hint, where)}
    if origin in (typing.Union, types.UnionType):
        return {"anyOf": [hint_schema(one, where, inside) for one in inner]}
    if typing.is_typeddict(hint) or dataclasses.is_dataclass(hint):
        return _class_schema(hint, where, inside)
    raise ConfigError(
        f"type hint {hint!r} has no JSON form",
        where,
        "Use str, int, float, bool, list[...], dict[str, ...], Literal, Enum, TypedDict, a dataclass or a union of them.",
    )


def _listed(values: Iterable, where: str) -> list:
    """Values of a Literal or an Enum; a member stands for its value.

    Raises:
        ConfigError: JSON cannot hold one.
    """
    found = [one.value if isinstance(one, enum.Enum) else one for one in values]
    for one in found:
        try:
            literal(one, where)
        except DataError as error:
            raise ConfigError(f"{one!r} has no JSON form", where, "List texts, numbers, truth values or None.") from error
    return found


def _class_schema(kind: type, where: str, inside: tuple[type, ...]) -> dict:
    """A TypedDict or a dataclass as an object that holds its fields and no others."""
    if kind in inside:
        raise ConfigError(f"{kind.__name__} holds itself", where, "Give such a function as JSON, with a $ref.")
    hints = _hints(kind, where)
    if typing.is_typeddict(kind):
        required = [name for name in hints if _is_required(name, kind)]
    else:
        fields = {field.name: field for field in dataclasses.fields(kind) if field.init}
        hints = {name: hints[name] for name in fields}
        required = [name for name, field in fields.items() if field.default is field.default_factory is dataclasses.MISSING]
    properties = {name: hint_schema(hint, f"{where}, field '{name}'", (*inside, kind)) for name, hint in hints.items()}
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}


def _is_required(name: str, kind: type) -> bool:
    # __required_keys__ does not see NotRequired where annotations are strings (from __future__ import annotations).
    marked = typing.get_origin(typing.get_type_hints(kind, include_extras=True)[name])
    return marked is typing.Required or marked is not typing.NotRequired and name in kind.__required_keys__


def _hints(of: object, where: str) -> dict[str, object]:
    try:
        return typing.get_type_hints(of)
    except NameError as error:
        raise ConfigError(f"a type hint cannot be read: {error}", where, "Define the type where the function is defined.") from error


def _read_docstring(text: str) -> tuple[str, dict[str, str]]:
    """First paragraph, up to a heading or field, on one line, and what is said of each argument."""
    lines = text.splitlines()
    summary = []
    for line in lines:
        if line.strip() in ("", *_ARGUMENTS, "Returns:", "Yields:", "Raises:") or _FIELD.match(line.strip()):
            break
        summary.append(line.strip())
    about = {name: " ".join(told.split()) for name, told in _PARAM.findall(text)}
    inside, margin, current = False, None, None
    for line in lines:
        indent = len(line) - len(line.lstrip())
        if line.strip() in _ARGUMENTS:
            inside, margin, current = True, None, None
        elif inside and line.strip():
            if indent == 0:
                inside = False
                continue
            margin = indent if margin is None else margin
            if indent <= margin and ":" in line:
                name, _, rest = line.strip().partition(":")
                current = name.partition("(")[0].strip()
                about[current] = rest.strip()
            elif current is not None:
                about[current] = f"{about[current]} {line.strip()}".strip()
    return " ".join(summary), about
