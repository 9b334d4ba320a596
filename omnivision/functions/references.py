"""References inside a JSON schema: "#/$defs/address" -> the schema that stands there."""

from __future__ import annotations

from urllib.parse import unquote

from omnivision.errors import ConfigError


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
            raise ConfigError(f"reference {reference!r} leads nowhere", where, f"There is no {step!r}; mend the schema.")
    if not isinstance(found, (dict, bool)):
        raise ConfigError(f"reference {reference!r} names no schema", where, "Refer to a definition as #/$defs/NAME.")
    return found


def references(schema: object) -> list[str]:
    """Every reference in a schema, wherever it stands."""
    if isinstance(schema, dict):
        own = [value for key, value in schema.items() if key in ("$ref", "$dynamicRef") and isinstance(value, str)]
        return own + [one for value in schema.values() for one in references(value)]
    return [one for value in schema for one in references(value)] if isinstance(schema, list) else []
