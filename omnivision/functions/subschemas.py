"""The schemas inside a JSON schema: where they stand, and what a reference names."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from urllib.parse import unquote

from omnivision.errors import ConfigError

_ONE = ("items", "additionalProperties", "contains", "propertyNames", "not", "if", "then", "else", "unevaluatedItems", "unevaluatedProperties")
_NAMED = ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas")
WITH_OBJECTS = frozenset((*_ONE, *_NAMED, "dependentRequired", "dependencies", "contentSchema", "const", "default", "$vocabulary",  # keywords that may hold an object
                          "example", "externalDocs", "xml", "discriminator"))  # OpenAPI's
_SEVERAL = ("anyOf", "oneOf", "allOf", "prefixItems")


def changed(schema: dict, change: Callable[[object], object]) -> dict:
    """A copy of a schema in which `change` was applied to every schema that stands directly in it."""
    found = dict(schema)
    found.update({key: change(found[key]) for key in _ONE if key in found})
    found.update({key: {name: change(one) for name, one in found[key].items()} for key in _NAMED if isinstance(found.get(key), dict)})
    found.update({key: [change(one) for one in found[key]] for key in _SEVERAL if isinstance(found.get(key), list)})
    return found


def walk(schema: object) -> Iterator[dict]:
    """A schema and every schema in it, at any depth; what stands in an enum or a default is none."""
    if isinstance(schema, dict):
        yield schema
        inside: list[object] = []
        changed(schema, inside.append)
        for one in inside:
            yield from walk(one)


def resolve(reference: str, root: dict, where: str) -> dict | bool:
    """The schema that a local JSON pointer names.

    Raises:
        ConfigError: there is none, or the reference is no pointer (an anchor, say).
    """
    found: object = root
    if reference != "#" and not reference.startswith("#/"):
        raise ConfigError(f"reference {reference!r} is no pointer", where, "Refer to a definition as #/$defs/NAME.")
    for step in reference.split("/")[1:]:
        step = unquote(step).replace("~1", "/").replace("~0", "~")
        if isinstance(found, list) and step.isdecimal() and int(step) < len(found):
            found = found[int(step)]
        elif isinstance(found, dict) and step in found:
            found = found[step]
        else:
            raise ConfigError(f"reference {reference!r} leads nowhere", where, f"There is no {step!r}; fix the schema.")
    if not isinstance(found, (dict, bool)):
        raise ConfigError(f"reference {reference!r} names no schema", where, "Refer to a definition as #/$defs/NAME.")
    return found
