"""The grammar of a function set in GBNF, llama.cpp's language: functional tokens by their ids, arguments by their schemas.

The rules are those of functions/values.py; what stands here is the other spelling, and numbers and strings without the
intersections that GBNF does not have.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal

from omnivision.constants import FUNCTION_FILE
from omnivision.functions import FunctionSet
from omnivision.functions.options import Impossible
from omnivision.functions.tokens import FunctionalTokens
from omnivision.functions.values import Rules, Values, bounds, quoted

GRAMMAR_FILE = FUNCTION_FILE.replace(".json", ".gbnf")
DIGITS = 15  # of a number without bounds
MOST_REPEATS = 1000  # llama.cpp unrolls repetitions and refuses large ones
_ESCAPED = r"""
 "\\" ( [\\'"nrt] | "x" [0-9a-f]{2} | "u" ([0-9a-ce-f] [0-9a-f]{3} | "d" [0-7] [0-9a-f]{2}) | "U" ("000" [1-9a-f] [0-9a-f]{4} | "0010" [0-9a-f]{4}) )
""".strip()


@dataclass(frozen=True)
class Gbnf:
    """A grammar for llama.cpp's `--grammar-file` and `grammar` field."""

    text: str
    left_out: dict[str, tuple[str, ...]]  # of each function, the keywords of its schema that the grammar does not enforce
    never: tuple[str, ...]  # functions for which no arguments can be written


def gbnf(functions: FunctionSet, tokens: FunctionalTokens) -> Gbnf:
    """One or more calls, and nothing else."""
    rules, calls, left_out, never = _GbnfRules(), [], {}, []
    for number, (function, token) in enumerate(zip(functions.functions, tokens.functions, strict=True)):
        values = _GbnfValues(rules, function, f"f{number}", None)
        try:
            rules.rule(f"f{number}", f"{quoted('(')} {values.arguments()} {quoted(')')}")
        except Impossible:
            never.append(function.name)
            continue
        left_out.update({function.name: tuple(sorted(values.left_out))} if values.left_out else {})
        calls.append(f"<[{token}]> f{number} <[{tokens.end}]>")
    lines = [f"root ::= ({' | '.join(calls)})+", *rules.lines]
    return Gbnf("\n".join(lines) + "\n", left_out, tuple(never))


class _GbnfRules(Rules):
    """Lines as GBNF writes them."""

    arrow = " ::= "


class _GbnfValues(Values):
    """Values whose leaves are GBNF's."""

    def _integer(self, option: dict) -> str:
        return self._lexeme(whole_numbers(*bounds(option, whole=True)))

    def _number(self, option: dict) -> str:
        self.left_out |= {"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"} & option.keys()
        return self._lexeme(f'{whole_numbers(None, None)} ("." [0-9]{{1,{DIGITS}}})? ("e" [-+] [0-9]{{2,3}})?')

    def _string(self, option: dict) -> str:
        self.left_out |= {"pattern"} & option.keys()
        least, most = int(option.get("minLength", 0)), option.get("maxLength")
        if most is not None and most < least:
            return self._lexeme(None)
        if max(least, most or 0) > MOST_REPEATS:
            self.left_out |= {"minLength", "maxLength"} & option.keys()
            least, most = 0, None
        count = f"{{{least},{'' if most is None else int(most)}}}"
        return self._lexeme(" | ".join(rf"{quoted(quote)} ([^{quote}\\\x00-\x1F\x7F] | {_ESCAPED}){count} {quoted(quote)}" for quote in "'\""))


def whole_numbers(low: Decimal | None, high: Decimal | None) -> str | None:
    """Whole numbers from low to high, both included, without leading zeros; None is no bound. None where there are none."""
    if low is None and high is None:
        return f'"-"? ("0" | [1-9] [0-9]{{0,{DIGITS - 1}}})'
    least = int(low) if low is not None else -(10**DIGITS) + 1
    most = int(high) if high is not None else max(10**DIGITS - 1, least)
    options = _between(max(least, 0), most) if most >= 0 else []
    if least < 0:
        options.append(f'"-" ({" | ".join(_between(max(-most, 1), -least))})')
    return f"({' | '.join(options)})" if options and least <= most else None


def _between(low: int, high: int) -> list[str]:
    """Options for whole numbers without a sign, from low to high."""
    found = []
    for length in range(len(str(low)), len(str(high)) + 1):
        first, last = max(low, 10 ** (length - 1) if length > 1 else 0), min(high, 10**length - 1)
        found += _same_length(str(first), str(last))
    return found


def _same_length(low: str, high: str) -> list[str]:
    """Options for digits from low to high, of one length."""
    rest = len(low) - 1
    if not rest:
        return [f"[{low}-{high}]"]
    if low == "0" * len(low) and high == "9" * len(high):
        return [f"[0-9]{{{len(low)}}}"]
    if low[0] == high[0]:
        return [f"{quoted(low[0])} ({' | '.join(_same_length(low[1:], high[1:]))})"]
    found, first, last = [], int(low[0]), int(high[0])
    if low[1:] != "0" * rest:
        found, first = _same_length(low, low[0] + "9" * rest), first + 1
    upper = [] if high[1:] == "9" * rest else _same_length(high[0] + "0" * rest, high)
    last -= bool(upper)
    return found + ([f"[{first}-{last}] [0-9]{{{rest}}}"] if first <= last else []) + upper
