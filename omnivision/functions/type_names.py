"""Type names of Python and of other tool lists, in JSON Schema's words."""

from __future__ import annotations

ANY = "any"  # no type: every value
NAMES = {
    "dict": "object",
    "list": "array",
    "tuple": "array",
    "str": "string",
    "int": "integer",
    "float": "number",
    "double": "number",
    "bool": "boolean",
    "None": "null",
    "NoneType": "null",
}
_ONE = ("items", "additionalProperties", "contains", "propertyNames", "not", "if", "then", "else", "unevaluatedItems", "unevaluatedProperties")
_NAMED = ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas")
_SEVERAL = ("anyOf", "oneOf", "allOf", "prefixItems")


def in_json_words(schema: object) -> object:
    """A schema with its type names replaced, at every depth; a property that is called "type" is none."""
    if not isinstance(schema, dict):
        return schema
    found = dict(schema)
    names = found.get("type")
    if names == ANY or isinstance(names, list) and ANY in names:
        del found["type"]
    elif isinstance(names, str):
        found["type"] = NAMES.get(names, names)
    elif isinstance(names, list):
        found["type"] = [NAMES.get(name, name) if isinstance(name, str) else name for name in names]
    for key in _ONE:
        if key in found:
            found[key] = in_json_words(found[key])
    for key in _NAMED:
        if isinstance(found.get(key), dict):
            found[key] = {name: in_json_words(one) for name, one in found[key].items()}
    for key in _SEVERAL:
        if isinstance(found.get(key), list):
            found[key] = [in_json_words(one) for one in found[key]]
    return found
