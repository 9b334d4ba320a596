"""What schemas of other tool lists say in words of their own, in JSON Schema's.

Types have Python's names (dict, list, tuple, str, int, float, double, bool, None, NoneType, any: every value), or stand in
capitals, as Gemini writes them; OpenAPI's `nullable: true` allows null.
"""

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
    """A schema with its words replaced, at every depth; a property that is called "type" or "nullable" is none of them."""
    if not isinstance(schema, dict):
        return schema
    found = changed(schema, in_json_words)
    names = found.get("type")
    if names == ANY or isinstance(names, list) and ANY in names:
        del found["type"]
    elif isinstance(names, str):
        found["type"] = _named(names)
    elif isinstance(names, list):
        found["type"] = [_named(name) if isinstance(name, str) else name for name in names]
    return _with_null(found) if found.pop("nullable", None) is True else found


def _named(name: str) -> str:
    name = name.lower() if name.isupper() else name
    return NAMES.get(name, name)


def _with_null(schema: dict) -> dict:
    """The schema that takes null too."""
    if any(key in schema for key in ("$ref", "allOf", "anyOf", "oneOf", "const")):
        return {**{key: schema[key] for key in ("description",) if key in schema}, "anyOf": [schema, {"type": "null"}]}
    listed = {"enum": [*schema["enum"], *([] if None in schema["enum"] else [None])]} if "enum" in schema else {}
    named = schema.get("type")
    typed = {} if named is None else {"type": list(dict.fromkeys([*([named] if isinstance(named, str) else named), "null"]))}
    return {**schema, **typed, **listed}
