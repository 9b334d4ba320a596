"""Arguments that fit a function's schema, drawn by chance: listed values, ranges, formats, patterns, examples, word lists."""

from __future__ import annotations

import json
import math
import random
import re
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date, timedelta
from fractions import Fraction

from omnivision.functions import Function
from omnivision.functions.options import TYPES, options
from omnivision.functions.validator import exact
from omnivision.functions.values import bounds
from omnivision.requests.patterns import text_of_pattern
from omnivision.requests.words import ANY, kind_of, number_range, word_list, words_of

TRAIN, HELD_OUT = "train", "held_out"
HELD_OUT_ONE_IN = 5  # of so many open values one is kept for the held-out split
TRIES = 40
FOR_A_SIDE = 60  # draws of an open value until it may be the other split's: one in five is held out, so that a wide range misses it once in 600,000
DEEPEST = 4  # objects in objects; deeper ones get only what they require
WIDE = 20  # numbers of a smaller range are shared by the splits
ENOUGH = 5  # examples of a schema; with fewer the word lists help
FORMATS = frozenset(("date", "time", "date-time", "duration", "email", "idn-email", "hostname", "idn-hostname", "ipv4", "ipv6", "uuid",
                     "uri", "url", "iri", "uri-reference", "iri-reference"))  # of which texts are made
LEFT_OUT_SHARE = 0.5  # how often an optional argument is left out
QUOTED = re.compile(r"['\"‘“]([^'\"‘’“”]{1,40})['\"’”]")


class Undrawable(Exception):
    """No value was found that fits; says why."""


def side(value: object) -> str:
    """The split that an open value belongs to: the same in every run, for every function."""
    return HELD_OUT if zlib.crc32(json.dumps(value, sort_keys=True).encode()) % HELD_OUT_ONE_IN == 0 else TRAIN


@contextmanager
def _ending() -> Iterator[None]:
    """Raises:
    Undrawable: the schema holds itself, and asks for that without an end.
    """
    try:
        yield
    except RecursionError as error:
        raise Undrawable("the schema holds itself without an end") from error


@dataclass(frozen=True)
class Drawing:
    """Draws arguments of one function for one split and language.

    Args:
        function: whose schema it is. rng: the only source of chance.
        split: open values (texts, numbers, dates) of the two splits differ wherever the schema leaves room for it; listed values and
            truth values are shared. language: of the word lists.
    """

    function: Function
    rng: random.Random
    split: str = TRAIN
    language: str = "en"

    def arguments(self, fixed: frozenset[str] | None = None) -> dict:
        """Arguments without a fault.

        Args:
            fixed: exactly these names; None leaves optional ones out by chance.

        Raises:
            Undrawable: the schema allows none, or none that was found.
        """
        fault = "no arguments fit"
        for _ in range(TRIES):
            with _ending():
                found = self._object(self.rng.choice(self._options({**self.function.parameters, "type": "object"})), 0, fixed)
            faults = self.function.faults(found)
            if not faults:
                return found
            fault = faults[0][1]
        raise Undrawable(fault)

    def part(self, names: set[str], nested: set[str]) -> dict:
        """Values of some arguments, beside which others are calls.

        Raises:
            Undrawable: none were found that fit.
        """
        fields = self.function.parameters["properties"]
        with _ending():
            found = {name: self.value(fields[name], name, 1) for name in fields if name in names}
        faults = self.function.faults(found, nested)
        if faults:
            raise Undrawable(faults[0][1])
        return found

    def value(self, schema: dict | bool, name: str = "", depth: int = 0) -> object:
        """A value of a part of the schema; `name` is the argument's.

        Raises:
            Undrawable: there is none.
        """
        for attempt in range(FOR_A_SIDE + TRIES):
            option = self.rng.choice(self._options(schema))
            found, is_open = self._one(option, name, depth)
            if self.function.fits(found, schema) and (not is_open or attempt >= FOR_A_SIDE or side(found) == self.split):
                return found
        raise Undrawable(f"no value was found for {name!r}: {json.dumps(schema, ensure_ascii=False):.120}")

    def _options(self, schema: dict | bool) -> list[dict]:
        found = options(schema, self.function, set())
        if not found:
            raise Undrawable("the schema allows no value")
        return found

    def _one(self, option: dict, name: str, depth: int) -> tuple[object, bool]:
        """A value, and whether it is an open one, of which the splits have their own."""
        if "enum" in option:
            return self.rng.choice(option["enum"]), False
        kinds = [kind for kind in option.get("type", TYPES) if kind != "null"] or ["null"]
        kind = kinds[0] if "type" not in option else self.rng.choice(kinds)
        if kind == "integer" and "number" in kinds:
            kind = "number"
        if kind == "null":
            return None, False
        if kind == "boolean":
            return self.rng.random() < 0.5, False
        if kind in ("integer", "number"):
            low, high = self._range(option, name, whole=kind == "integer")
            return self._number(low, high, option.get("multipleOf"), whole=kind == "integer"), kind == "number" or high - low >= WIDE
        if kind == "string":
            return self._text(option, name), True
        return (self._array if kind == "array" else self._object)(option, depth, name=name), False

    def _range(self, option: dict, name: str, whole: bool) -> tuple[float, float]:
        """From what to what a number is drawn: the schema's bounds, and what is usual where it has none."""
        low, high = (None if one is None else float(one) for one in bounds(option, whole))
        usual = number_range(name)
        if usual is None or whole and usual[1] < 1:
            usual = (1, 100) if whole else (0.5, 50)
        if low is None and high is None:
            return usual
        width = usual[1] - usual[0]
        return (high - width if low is None else low), (low + width if high is None else high)

    def _number(self, low: float, high: float, step: float | None, whole: bool) -> int | float:
        if step:
            unit = exact(step)
            if whole:
                unit = Fraction(unit.numerator)  # the whole multiples of 5/2 are those of 5
            found = self._whole(math.ceil(exact(low) / unit), math.floor(exact(high) / unit)) * unit
            return int(found) if whole or isinstance(step, int) else float(found)
        if whole:
            return self._whole(math.ceil(low), math.floor(high))
        drawn = self.rng.uniform(low, high)
        return next((one for one in (round(drawn, 1), round(drawn, 2)) if low <= one <= high and one), drawn)

    def _whole(self, first: int, last: int) -> int:
        if first > last:
            raise Undrawable(f"there is no number from {first} to {last}")
        return self.rng.randint(first, last)

    def _text(self, option: dict, name: str) -> str:
        least, most = int(option.get("minLength", 0)), option.get("maxLength")
        if "pattern" in option:
            return text_of_pattern(option["pattern"], least, most, self.rng)
        named = option.get("format") or _format_told(option.get("description", ""), name)
        pool = [self._formatted(named)] if named in FORMATS else self._pool(option, name)
        fitting = [one for one in pool if least <= len(one) and (most is None or len(one) <= most)]
        sided = [one for one in fitting if side(one) == self.split] or fitting
        if sided:
            return self.rng.choice(sided)
        if "format" in option:
            raise Undrawable(f"no text of the format {option['format']!r} can be made for {name!r}")
        letters = "abcdefghijklmnopqrstuvwxyz"
        return "".join(self.rng.choice(letters) for _ in range(max(least, min(8, 8 if most is None else int(most)))))

    def _pool(self, option: dict, name: str) -> list[str]:
        """Texts for an argument: what its schema shows, and the words of its kind where it shows few; no word of a list has a format."""
        shown = [*option.get("examples", ()), option.get("default")] + ([] if "format" in option else QUOTED.findall(option.get("description", "")))
        shown = list(dict.fromkeys(one for one in shown if isinstance(one, str) and one.strip()))
        if "format" in option:
            return shown
        about = f"{option.get('description', '')} {' '.join(words_of(self.function.name))} {self.function.description}"
        kind = kind_of(name, about)
        if len(shown) >= ENOUGH or shown and kind == ANY:
            return shown
        return shown + word_list(kind, self.language)

    def _formatted(self, named: str) -> str:
        """A text of one of FORMATS."""
        rng = self.rng
        day = date(2022, 1, 1) + timedelta(days=rng.randrange(1500))
        clock = f"{rng.randrange(24):02}:{rng.randrange(0, 60, 5):02}"
        someone = rng.choice(word_list("person", "en")).split()[0].lower()
        match named:
            case "date":
                return day.isoformat()
            case "time":
                return f"{clock}:00"
            case "date-time":
                return f"{day.isoformat()}T{clock}:00Z"
            case "duration":
                return f"PT{rng.randrange(5, 125, 5)}M"
            case "email" | "idn-email":
                return f"{someone}{rng.randrange(10, 99)}@example.com"
            case "hostname" | "idn-hostname":
                return f"{rng.choice(word_list(ANY, 'en'))}{rng.randrange(10)}.example.com"
            case "ipv4":
                return f"192.0.2.{rng.randrange(1, 255)}"
            case "ipv6":
                return f"2001:db8::{rng.randrange(1, 65536):x}"
            case "uuid":
                digits = f"{rng.getrandbits(128):032x}"
                return "-".join((digits[:8], digits[8:12], f"4{digits[13:16]}", f"8{digits[17:20]}", digits[20:]))
            case _:  # an address; a relative one is a whole one too
                return f"https://example.com/{rng.choice(word_list(ANY, 'en'))}/{rng.randrange(100)}"

    def _array(self, option: dict, depth: int, name: str) -> list:
        first, least, most = option.get("prefixItems", []), int(option.get("minItems", 0)), option.get("maxItems")
        top = max(least, 1, min(int(most) if most is not None else 3, least + 2))
        count = self.rng.randint(max(least, 1), top) if most != 0 else 0
        count = max(count, len(first) if most is None else min(len(first), int(most)))
        found: list = []
        for at in range(least if depth >= DEEPEST else count):  # a schema may hold itself
            schema = first[at] if at < len(first) else option.get("items", {"type": "string"})
            for _ in range(TRIES):
                one = self.value(schema, name, depth + 1)
                if one not in found:
                    break
            found.append(one)
        return found

    def _object(self, option: dict, depth: int, fixed: frozenset[str] | None = None, name: str = "") -> dict:
        fields, required = option.get("properties", {}), option.get("required", [])
        chosen = [one for one in dict.fromkeys([*fields, *required]) if (one in required or depth < DEEPEST and self.rng.random() >= LEFT_OUT_SHARE)]
        if fixed is not None:
            chosen = [one for one in fields if one in fixed]
        rest = option.get("additionalProperties")
        if not fields and depth and rest is not False:  # an object of any keys
            chosen += [one for one in self.rng.sample(word_list(ANY, "en"), self.rng.randint(1, 2)) if one not in chosen]
        others = rest if isinstance(rest, dict) else {"type": "string"}
        return {one: self.value(fields.get(one, others), one, depth + 1) for one in chosen}


def _format_told(description: str, name: str) -> str | None:
    """The format that an argument's name and description tell of where the schema does not."""
    if re.search(r"yyyy-mm-dd", description, re.IGNORECASE):
        return "date"
    for word in reversed(words_of(name)):
        if word in ("date", "email", "url", "uri"):
            return word
    return None
