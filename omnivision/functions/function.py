"""One function that a model can call: its name, its description, and the schema of its arguments."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from functools import cached_property

import jsonschema
import referencing

from omnivision.errors import ConfigError
from omnivision.functions.subschemas import WITH_OBJECTS, resolve, walk
from omnivision.functions.validator import STRICT, Unknown


@dataclass(frozen=True)
class Function:
    """One function.

    Args:
        name: unique in its set.
        description: what it does; the row of its token starts from these words.
        parameters: JSON schema of the arguments (an object), properties in their written order.
        returns: JSON schema of what it gives back, where that is known.

    Raises:
        ConfigError: the schema is not one, or refers to something outside itself (a reference
            would be fetched from the network while a model's output is being checked) or to nothing,
            or its arguments stand elsewhere than under 'properties' (the function would have none); or `returns` is none.
    """

    name: str
    description: str
    parameters: dict = field(default_factory=lambda: {"type": "object", "properties": {}})
    returns: dict | None = None

    def __post_init__(self) -> None:
        where = f"function {self.name!r}"
        if self.returns is not None and not isinstance(self.returns, dict):
            raise ConfigError(f"'returns' is {self.returns!r}, no schema", where, 'Write one such as {"type": "string"}, or leave it out.')
        for key, schema in (("parameters", self.parameters), ("returns", self.returns or {})):
            try:
                jsonschema.Draft202012Validator.check_schema(schema)
            except jsonschema.SchemaError as error:
                raise ConfigError(f"not a JSON schema: {error.message}", where, f"Fix {key!r}.") from error
        for part in walk(self.parameters):
            for reference in (part[key] for key in ("$ref", "$dynamicRef") if key in part):
                if not reference.startswith("#"):
                    raise ConfigError(f"outside reference {reference!r}", where, "Copy the definition into the schema.")
                resolve(reference, self.parameters, where)
        if not isinstance(self.parameters, dict) or self.parameters.get("type", "object") != "object":
            raise ConfigError("'parameters' does not describe an object", where, 'Use {"type": "object", ...}.')
        strays = [key for key, value in self.parameters.items() if isinstance(value, dict) and key not in WITH_OBJECTS and not key.startswith("x-")]
        if strays and "properties" not in self.parameters:
            raise ConfigError(f"{strays[0]!r} stands in 'parameters', not under 'properties'", where, 'Write "parameters": {"type": "object", "properties": {...}}.')
        behind = [key for key in ("$ref", "allOf", "anyOf", "oneOf") if key in self.parameters]
        if behind and "properties" not in self.parameters:
            raise ConfigError(f"the arguments stand behind {behind[0]!r}, not under 'properties'", where, "Write the object's properties at the top of 'parameters'.")

    @property
    def argument_names(self) -> tuple[str, ...]:
        """Names in the schema's order."""
        return tuple(self.parameters.get("properties", {}))

    @property
    def takes_others(self) -> bool:
        """Whether arguments of any other name are allowed, of some schema at least; an empty schema allows everything."""
        return self.parameters.get("additionalProperties", False) is not False

    def __getstate__(self) -> dict:
        """Without the validator: jsonschema's cannot be pickled, and is made anew where it is needed."""
        return {name: value for name, value in vars(self).items() if name != "_validator"}

    @cached_property
    def _validator(self) -> jsonschema.Draft202012Validator:
        # An empty registry never fetches; jsonschema's default one would.
        # Without "$schema", by which jsonschema would choose a class of its own, which takes 2.0 for an integer.
        return STRICT({key: value for key, value in self.parameters.items() if key != "$schema"}, registry=referencing.Registry())

    def faults(self, arguments: dict, nested: Collection[str] = ()) -> list[tuple[str, str]]:
        """What is wrong with arguments: (kind, message) pairs, empty when they are valid.

        An argument that the schema does not name is a fault unless the schema opens itself with
        additionalProperties: a made-up argument must not reach a function.

        Args:
            arguments: names and values. nested: names of further arguments, whose values are not
                known before another call has run: they count as given, and as of a value that fits.
        """
        found = []
        if not self.takes_others:
            for name in (*arguments, *nested):
                if name not in self.argument_names:
                    found.append(("unknown_argument", f"{self.name} has no argument {name!r}"))
        try:
            found += [("schema", error.message) for error in self._validator.iter_errors({**arguments, **dict.fromkeys(nested, Unknown())})]
        except (RecursionError, referencing.exceptions.Unresolvable) as error:
            found.append(("schema", f"the schema of {self.name} cannot be applied: {error}"))
        return found

    def fits(self, value: object, schema: dict | bool) -> bool:
        """Whether a value is valid by a part of the schema."""
        try:
            return self._validator.evolve(schema=schema).is_valid(value)
        except (RecursionError, referencing.exceptions.Unresolvable):  # a definition that refers to nothing but itself, say
            return False

    def to_tool(self) -> dict:
        """The OpenAI tool form."""
        body = {"name": self.name, "description": self.description, "parameters": self.parameters}
        return {"type": "function", "function": body if self.returns is None else {**body, "returns": self.returns}}
