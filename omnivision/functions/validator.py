"""The validator of arguments: numbers as they are written, and values that are not known before another call has run."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction

import jsonschema

_KEYWORDS = jsonschema.Draft202012Validator.VALIDATORS
_THROUGH = ("$ref", "$dynamicRef", "allOf", "anyOf")  # the schemas behind them judge a value


@dataclass(frozen=True)
class Unknown:
    """A value that is not known yet: it fits whatever is asked of it, or nothing.

    Where the first has a fault, every value has one. What is denied (`not`) is looked at the other way round.
    """

    fits: bool = True

    def __repr__(self) -> str:
        return "<a call>"


def exact(number: int | float) -> Fraction:
    """A number as it is written: 0.1 is a tenth, its double is not.

    Raises:
        ValueError: it is infinite or no number.
    """
    return Fraction(number if isinstance(number, int) else str(number))


def _is_whole(checker: jsonschema.TypeChecker, value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _multiple_of(validator, step: int | float, value: object, schema: dict) -> Iterator[jsonschema.ValidationError]:
    if not validator.is_type(value, "number"):
        return
    try:
        is_multiple = exact(value) % exact(step) == 0
    except ValueError:
        is_multiple = False
    if not is_multiple:
        yield jsonschema.ValidationError(f"{value!r} is not a multiple of {step}")


def _turned(value: object) -> object:
    """Unknown values that fit everything as ones that fit nothing, and the other way round; the same object where there are none."""
    if isinstance(value, Unknown):
        return Unknown(not value.fits)
    if isinstance(value, dict) and any(isinstance(one, Unknown) for one in value.values()):
        return {name: Unknown(not one.fits) if isinstance(one, Unknown) else one for name, one in value.items()}
    return value


def _not(validator, denied: dict | bool, value: object, schema: dict) -> Iterator[jsonschema.ValidationError]:
    return _KEYWORDS["not"](validator, denied, _turned(value), schema)


def _if(validator, condition: dict | bool, value: object, schema: dict) -> Iterator[jsonschema.ValidationError]:
    turned = _turned(value)
    if turned is value:
        yield from _KEYWORDS["if"](validator, condition, value, schema)
        return
    asked = validator.evolve(schema=condition)
    for key, holds in (("then", asked.is_valid(turned)), ("else", not asked.is_valid(value))):
        if holds and key in schema:
            yield from validator.descend(value, schema[key], schema_path=key)


def _one_of(validator, several: list, value: object, schema: dict) -> Iterator[jsonschema.ValidationError]:
    turned = _turned(value)
    if turned is value:
        yield from _KEYWORDS["oneOf"](validator, several, value, schema)
        return
    yield from _KEYWORDS["anyOf"](validator, several, value, schema)
    if sum(validator.evolve(schema=one).is_valid(turned) for one in several) > 1:
        yield jsonschema.ValidationError(f"{value!r} is valid under more than one of 'oneOf'")


def _but_unknown(check: Callable) -> Callable:
    def checked(validator, wanted: object, value: object, schema: dict):
        if isinstance(value, Unknown):
            return () if value.fits else (jsonschema.ValidationError(f"{value!r} is not known"),)
        return check(validator, wanted, value, schema)

    return checked


# JSON Schema takes 2.0 for an integer; a Python function that asked for an int would be given a float.
STRICT = jsonschema.validators.extend(
    jsonschema.Draft202012Validator,
    {**{key: _but_unknown(check) for key, check in {**_KEYWORDS, "multipleOf": _multiple_of}.items() if key not in _THROUGH}, "not": _not, "if": _if, "oneOf": _one_of},
    type_checker=jsonschema.Draft202012Validator.TYPE_CHECKER.redefine("integer", _is_whole),
)
