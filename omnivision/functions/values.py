"""Rules of the grammar (Lark) for the values that a schema allows, spelled as calls are written."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from decimal import Decimal

from omnivision.functions.function import Function
from omnivision.functions.lexemes import plain_pattern, strings
from omnivision.functions.literals import literal, named, text_literal
from omnivision.functions.options import TYPES, Impossible, options
from omnivision.functions.ranges import numbers, whole_numbers

COMMA = '", "'


class Rules:
    """The lines of a grammar: rules, and lexemes, of which equal ones are one."""

    arrow = ": "  # between a name and its rule

    def __init__(self) -> None:
        self.lines: list[str] = []
        self._lexemes: dict[str, str] = {}

    def lexeme(self, pattern: str) -> str:
        """The name of a pattern."""
        if pattern not in self._lexemes:
            self._lexemes[pattern] = f"L{len(self._lexemes)}"
            self.rule(self._lexemes[pattern], pattern)
        return self._lexemes[pattern]

    def is_lexeme(self, name: str) -> bool:
        """Whether a name is that of a pattern."""
        return name in self._lexemes.values()

    def rule(self, name: str, body: str) -> None:
        """Write a rule down."""
        self.lines.append(f"{name}{self.arrow}{body}")


def quoted(text: str) -> str:
    """Fixed text in the grammar's language."""
    return json.dumps(text, ensure_ascii=False)


class Values:
    """The values of one function's arguments.

    Args:
        rules: where the rules go. function: whose schema it is.
        prefix: begins the names of its rules. call: rule of a call that may stand in the place of
            an argument's value; None where none may.
    """

    def __init__(self, rules: Rules, function: Function, prefix: str, call: str | None) -> None:
        self.rules, self.function, self.prefix, self.call = rules, function, prefix, call
        self.left_out: set[str] = set()  # keywords that the grammar does not enforce
        self._names: dict[str, str] = {}

    def arguments(self) -> str:
        """What stands between the brackets of the call.

        Raises:
            Impossible: no arguments fit the schema.
        """
        schema, bodies = self.function.parameters, []
        names = self.function.argument_names
        for option in options({**schema, "type": "object"}, self.function, self.left_out):
            fields = {name: option.get("properties", {}).get(name, True) for name in names}
            rest = option.get("additionalProperties", False) if self.function.takes_others else False
            required = option.get("required", [])
            if rest is not False and not set(required) <= set(names):
                self.left_out.add("required")  # the grammar offers other names, but cannot ask for one
            elif not set(required) <= set(names):
                continue
            try:
                bodies.append(self._listed(fields, required, rest, named, self.call))
            except Impossible:
                continue
        if not bodies:
            raise Impossible
        return _either(bodies)

    def value(self, schema: dict | bool) -> str:
        """The name of the rule or lexeme for the values of a schema.

        Raises:
            Impossible: there are none.
        """
        key = json.dumps(schema, sort_keys=True)
        if key not in self._names:
            name = self._names[key] = f"{self.prefix}v{len(self._names)}"  # before its body: a schema may hold itself
            found = [one for option in options(schema, self.function, self.left_out) for one in self._plain(option, schema)]
            if len(found) == 1 and self.rules.is_lexeme(found[0]):
                self._names[key] = found[0]
            elif found:
                self.rules.rule(name, _either(list(dict.fromkeys(found))))
            else:
                self._names[key] = ""
        if not self._names[key]:
            raise Impossible
        return self._names[key]

    def _plain(self, option: dict, schema: dict | bool) -> list[str]:
        if "enum" in option:
            where = f"function {self.function.name!r}"
            return [quoted(literal(one, where)) for one in option["enum"] if self.function.fits(one, schema)]
        kinds = option.get("type", TYPES)
        found = []
        for kind in kinds:
            if kind == "integer" and "number" in kinds:
                continue
            try:
                found.append(getattr(self, f"_{kind}")(option))
            except Impossible:
                pass
        return found

    def _boolean(self, option: dict) -> str:
        return f"{quoted('True')} | {quoted('False')}"

    def _null(self, option: dict) -> str:
        return quoted("None")

    def _integer(self, option: dict) -> str:
        return self._lexeme(whole_numbers(*bounds(option, whole=True)))

    def _number(self, option: dict) -> str:
        return self._lexeme(numbers(*bounds(option, whole=False)))

    def _string(self, option: dict) -> str:
        patterns = [plain_pattern(pattern) for pattern in option.get("pattern", ())]
        if None in patterns:
            self.left_out.add("pattern")
        least, most = int(option.get("minLength", 0)), option.get("maxLength")
        return self._lexeme(strings(least, None if most is None else int(most), tuple(one for one in patterns if one)))

    def _lexeme(self, pattern: str | None) -> str:
        if pattern is None:
            raise Impossible
        return self.rules.lexeme(pattern)

    def _array(self, option: dict) -> str:
        return f"{quoted('[')} {self._items(option, 0)} {quoted(']')}"

    def _items(self, option: dict, at: int) -> str:
        """The items from number `at` on, where those before it stand already; empty where the list may not go on."""
        first, least, most = option.get("prefixItems", []), option.get("minItems", 0), option.get("maxItems", math.inf)
        before = f"{COMMA} " if at else ""
        if least > most:
            raise Impossible
        try:
            if at >= most:
                return ""
            if at < len(first):
                found = f"{before}{self.value(first[at])} {self._items(option, at + 1)}"
            else:
                one = self.value(option.get("items", True))
                found = f"{before}{one}" + _repeated(f"{COMMA} {one}", least - at - 1, most - at - 1)
        except Impossible:
            return _end(at, least)
        return found if at < least else f"({found})?"

    def _object(self, option: dict) -> str:
        rest = option.get("additionalProperties")
        fields = dict(option.get("properties", {}))
        fields.update({name: True if rest is None else rest for name in option.get("required", []) if name not in fields})
        if rest is None:  # JSON Schema allows any key; made-up ones are offered only where the schema names none
            rest = not option.get("properties")

        def key(name: str) -> tuple[str, str]:
            return f"{text_literal(name)}: ", ""

        return f"{quoted('{')} {self._listed(fields, option.get('required', []), rest, key, None)} {quoted('}')}"

    def _listed(self, fields: dict, required: list[str], rest: dict | bool, pair: Callable[[str], tuple[str, str]], call: str | None) -> str:
        """Names with their values and commas between: the fields in order, then others where the schema leaves room (`rest`)."""
        found: list[tuple[str, bool]] = []
        for name, schema in fields.items():
            before, after = pair(name)
            try:
                value = _either([self.value(schema), *([call] if call else [])])
            except Impossible:
                if name in required:
                    raise
                continue
            found.append((f"{quoted(before)} {value}" + (f" {quoted(after)}" if after else ""), name in required))
        others = self._others(rest, call, top=pair is named)
        if others:
            self.left_out.add("additionalProperties")  # that the same name does not come twice
            found.append((f"{others} ({COMMA} {others})*", False))
        return comma_separated(found)

    def _others(self, rest: dict | bool, call: str | None, top: bool) -> str | None:
        """A name that the schema does not know, and its value."""
        try:
            value = _either([self.value(rest), *([call] if call else [])])
        except Impossible:
            return None
        before, after = ("**{", "}") if top else ("", "")
        pair = f"{self.rules.lexeme(strings())} {quoted(': ')} {value}"
        return f"{quoted(before)} {pair} {quoted(after)}" if top else pair


def bounds(option: dict, whole: bool) -> tuple[Decimal | None, Decimal | None]:
    """The least and the largest number that a schema allows, both included; None is no bound."""
    lows = [option["minimum"]] if "minimum" in option else []
    highs = [option["maximum"]] if "maximum" in option else []
    if whole:
        lows = [math.ceil(one) for one in lows] + [math.floor(option[key]) + 1 for key in ("exclusiveMinimum",) if key in option]
        highs = [math.floor(one) for one in highs] + [math.ceil(option[key]) - 1 for key in ("exclusiveMaximum",) if key in option]
    else:  # the next float: texts between it and the bound would be read as the bound
        lows += [_beside(option[key], math.inf) for key in ("exclusiveMinimum",) if key in option]
        highs += [_beside(option[key], -math.inf) for key in ("exclusiveMaximum",) if key in option]
    return (Decimal(repr(max(lows))) if lows else None), (Decimal(repr(min(highs))) if highs else None)


def _beside(bound: int | float, towards: float) -> int | float:
    """The next number that is not the bound; of a whole number beyond all floats the next whole one."""
    try:
        return math.nextafter(bound, towards)
    except OverflowError:
        return bound + (1 if towards > 0 else -1)


def comma_separated(fields: list[tuple[str, bool]]) -> str:
    """Fields in their order, each required or not, with commas between those that are there."""
    first = next((at for at, (_, required) in enumerate(fields) if required), None)
    if first is not None:
        parts = [f"({field} {COMMA})?" for field, _ in fields[:first]] + [fields[first][0]]
        return " ".join(parts + [_after(field, required) for field, required in fields[first + 1:]])
    starts = [" ".join([field, *(_after(*one) for one in fields[at + 1:])]) for at, (field, _) in enumerate(fields)]
    return f"{_either(starts)}?" if starts else ""


def _after(field: str, required: bool) -> str:
    return f"{COMMA} {field}" if required else f"({COMMA} {field})?"


def _either(options: list[str]) -> str:
    return f"({' | '.join(options)})"


def _end(at: int, least: float) -> str:
    if at < least:
        raise Impossible
    return ""


def _repeated(what: str, least: float, most: float) -> str:
    if most <= 0:
        return ""
    return f" ({what}){{{max(0, int(least))},{'' if most == math.inf else int(most)}}}"
