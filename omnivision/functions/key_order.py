"""Values as the schema spells them, so that one call has one text: keys in its order, and what it lists as it lists it."""

from __future__ import annotations

from collections.abc import Iterator

from omnivision.functions.function import Function
from omnivision.functions.literals import MAX_DEPTH
from omnivision.functions.subschemas import resolve


def in_schema_order(value: object, function: Function, argument: str) -> object:
    """An argument's value with the keys of its objects in the order of the schema's properties; other keys follow as they are.

    What equals an entry of an enum or const, but for that order or for 1.0 being written 1, stands as the entry does.
    """
    schema = function.parameters.get("properties", {}).get(argument, function.parameters.get("additionalProperties", {}))
    return _ordered(value, [schema], function, 0)


def _ordered(value: object, schemas: list, function: Function, depth: int) -> object:
    if depth > MAX_DEPTH or value is None or isinstance(value, (str, bool)):
        return value
    parts = [part for schema in schemas for part in _parts(schema, value, function, 0)]
    listed = _listed(value, parts, function)
    if listed is not None or not isinstance(value, (dict, list, tuple)):
        return value if listed is None else listed
    if isinstance(value, dict):
        about: dict[str, list] = {}
        for part in parts:
            for key, schema in part.get("properties", {}).items():
                about.setdefault(key, []).append(schema)
        others = [part["additionalProperties"] for part in parts if isinstance(part.get("additionalProperties"), dict)]
        keys = [key for key in about if key in value] + [key for key in value if key not in about]
        return {key: _ordered(value[key], about.get(key, others), function, depth + 1) for key in keys}
    return [_ordered(one, list(_items(parts, at)), function, depth + 1) for at, one in enumerate(value)]


def _listed(value: object, parts: list[dict], function: Function) -> object:
    """The entry that a value equals; None is none."""
    entries = [one for part in parts for one in (*part.get("enum", ()), *([part["const"]] if "const" in part else ()))]
    return next((one for one in entries if function.fits(value, {"const": one})), None)


def _items(parts: list[dict], at: int) -> Iterator[object]:
    for part in parts:
        first = part.get("prefixItems", [])
        yield first[at] if at < len(first) else part.get("items", {})


def _parts(schema: object, value: object, function: Function, depth: int) -> Iterator[dict]:
    """The schemas that speak about a value: the schema, what it refers to, and the options that the value fits."""
    if not isinstance(schema, dict) or depth > MAX_DEPTH:
        return
    yield schema
    if "$ref" in schema:
        yield from _parts(resolve(schema["$ref"], function.parameters, f"function {function.name!r}"), value, function, depth + 1)
    for one in schema.get("allOf", []):
        yield from _parts(one, value, function, depth + 1)
    for key in ("anyOf", "oneOf"):
        fitting = next((one for one in schema.get(key, []) if function.fits(value, one)), None)
        yield from _parts(fitting, value, function, depth + 1)
