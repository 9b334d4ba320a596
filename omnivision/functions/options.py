"""A schema as a list of plain ones: references followed, allOf joined, anyOf and oneOf told apart.

A plain schema says nothing but type, enum, bounds, patterns, properties, items and HINTS. What else a schema says
(LEFT_OUT) is not part of the result: a value of the schema fits one of the options, not the other way round.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations

from jsonschema import Draft202012Validator

from omnivision.errors import ConfigError
from omnivision.functions.function import Function
from omnivision.functions.literals import MAX_DEPTH
from omnivision.functions.subschemas import resolve

# Keywords that the parser checks and the grammar does not.
LEFT_OUT = frozenset(("not", "if", "then", "else", "patternProperties", "propertyNames", "uniqueItems", "multipleOf", "contains", "minContains",
                      "maxContains", "minProperties", "maxProperties", "dependentRequired", "dependentSchemas", "unevaluatedItems",
                      "unevaluatedProperties", "$dynamicRef"))
TYPES = ("string", "integer", "number", "boolean", "null", "array", "object")
_BOUNDS: dict[str, Callable] = {"minimum": max, "exclusiveMinimum": max, "minLength": max, "minItems": max,
                                "maximum": min, "exclusiveMaximum": min, "maxLength": min, "maxItems": min}
HINTS = ("format", "multipleOf", "examples", "default", "description")  # what values look like: for whoever makes some; of several parts the outermost tells
_KEPT = (*_BOUNDS, "type", "enum", "pattern", "properties", "required", "additionalProperties", "items", "prefixItems", *HINTS)


class Impossible(Exception):
    """No value fits."""


def options(schema: dict | bool, function: Function, left_out: set[str], depth: int = 0) -> list[dict]:
    """Plain schemas of which a value fits at least one, if it fits the schema.

    Args:
        schema: a part of the function's schema.
        left_out: the keywords that are not in the result are added to it.

    Raises:
        ConfigError: a definition that refers to nothing but itself.
    """
    if isinstance(schema, bool):
        return [{}] if schema else []
    if depth > MAX_DEPTH:
        raise ConfigError("a definition refers to nothing but itself", f"function {function.name!r}", "Fix its schema.")
    left_out |= LEFT_OUT & schema.keys()
    found = [_plain(schema)]
    referred = [resolve(schema[key], function.parameters, f"function {function.name!r}") for key in ("$ref",) if key in schema]
    for one in referred + schema.get("allOf", []):
        found = _products(found, options(one, function, left_out, depth + 1))
    for key in ("anyOf", "oneOf"):
        if key in schema:
            several = [options(one, function, left_out, depth + 1) for one in schema[key]]
            if key == "oneOf" and not all(_disjoint(a, b) for first, second in combinations(several, 2) for a in first for b in second):
                left_out.add("oneOf")
            found = _products(found, [option for one in several for option in one])
    return found


def _plain(schema: dict) -> dict:
    found = {key: schema[key] for key in _KEPT if key in schema}
    if "patternProperties" in schema:  # names that are known by their looks only
        found["additionalProperties"] = True
    if "const" in schema:
        found["enum"] = [schema["const"]]
    if "pattern" in found:
        found["pattern"] = (found["pattern"],)
    if "type" in found:
        named = [found["type"]] if isinstance(found["type"], str) else found["type"]
        found["type"] = tuple(one for one in TYPES if one in named or one == "integer" and "number" in named)
    return found


def _products(first: list[dict], second: list[dict]) -> list[dict]:
    found = []
    for a in first:
        for b in second:
            try:
                found.append(_both(a, b))
            except Impossible:
                pass
    return found


def _both(a: dict, b: dict) -> dict:
    """One plain schema that says what two say."""
    found = {**a, **b}
    for key in a.keys() & b.keys():
        if key in _BOUNDS:
            found[key] = _BOUNDS[key](a[key], b[key])
        elif key == "type":
            found[key] = tuple(one for one in a[key] if one in b[key])
        elif key == "enum":
            found[key] = _in_both(a[key], b[key])
        elif key == "pattern":
            found[key] = (*a[key], *b[key])
        elif key == "required":
            found[key] = list(dict.fromkeys([*a[key], *b[key]]))
        elif key in ("items", "additionalProperties"):
            found[key] = {"allOf": [a[key], b[key]]}
        elif key in HINTS:
            found[key] = a[key]
    if not found.get("type", TYPES) or not found.get("enum", TYPES):
        raise Impossible
    if "properties" in a or "properties" in b:
        found["properties"] = _properties(a, b)
    if "prefixItems" in a or "prefixItems" in b:
        several = [(one.get("prefixItems", []), one.get("items", True)) for one in (a, b)]
        longest = max(len(first) for first, _ in several)
        found["prefixItems"] = [_joined([first[at] if at < len(first) else others for first, others in several]) for at in range(longest)]
    return found


def _in_both(first: list, second: list) -> list:
    """As the parser compares: 2 is 2.0, and 1 is not true."""
    return [one for one in first if Draft202012Validator({"enum": second}).is_valid(one)]


def _properties(a: dict, b: dict) -> dict:
    """Of a property that only one of two schemas names, the other may say something by its additionalProperties."""
    names = dict.fromkeys([*a.get("properties", {}), *b.get("properties", {})])
    said = {name: [one.get("properties", {}).get(name, one.get("additionalProperties", True)) for one in (a, b)] for name in names}
    return {name: _joined(both) for name, both in said.items()}


def _joined(schemas: list[dict | bool]) -> dict | bool:
    several = [one for one in schemas if one is not True]
    return {"allOf": several} if len(several) > 1 else several[0] if several else True


def _disjoint(a: dict, b: dict) -> bool:
    """Whether no value fits both, as far as types and listed values tell."""
    if "enum" in a and "enum" in b:
        return not _in_both(a["enum"], b["enum"])
    return not set(a.get("type", TYPES)) & set(b.get("type", TYPES))
