"""Type names of Python and of other tool lists, in JSON Schema's words."""

from __future__ import annotations

from omnivision.functions.subschemas import changed

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


def in_json_words(schema: object) -> object:
    """A schema with its type names replaced, at every depth; a property that is called "type" is none."""
    if not isinstance(schema, dict):
        return schema
    found = changed(schema, in_json_words)
    names = found.get("type")
    if names == ANY or isinstance(names, list) and ANY in names:
        del found["type"]
    elif isinstance(names, str):
        found["type"] = NAMES.get(names, names)
    elif isinstance(names, list):
        found["type"] = [NAMES.get(name, name) if isinstance(name, str) else name for name in names]
    return found
