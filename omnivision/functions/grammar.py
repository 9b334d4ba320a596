"""The grammar of a function set: which ids may follow each other in an answer, for llguidance.

A functional token comes only where the grammar has one, by its id; between it and the end token stands the
text of an argument list, whose rules come from the function's schema (values.py).
"""

from __future__ import annotations

import json
from dataclasses import dataclass

from omnivision.errors import ConfigError
from omnivision.functions.function_set import IRRELEVANT, FunctionSet
from omnivision.functions.options import Impossible
from omnivision.functions.tokens import FunctionalTokens
from omnivision.functions.values import Rules, Values, quoted

CALLS = "calls"  # nothing but calls
TEXT_OR_CALLS = "text_or_calls"  # text may stand before, between and after them, or alone
MODES = (CALLS, TEXT_OR_CALLS)


@dataclass(frozen=True)
class CallGrammar:
    """A grammar in llguidance's language."""

    text: str
    left_out: dict[str, tuple[str, ...]]  # of each function, the keywords of its schema that only the parser checks
    never: tuple[str, ...]  # functions for which no arguments can be written, so that they are never called


def call_grammar(function_set: FunctionSet, tokens: FunctionalTokens, mode: str = CALLS, *, most_calls: int | None = None,
                 nested: bool = False, lead: str = "") -> CallGrammar:
    """Write the grammar of a set.

    Args:
        function_set, tokens: the functions, and their ids in a tokenizer.
        mode: CALLS or TEXT_OR_CALLS.
        most_calls: at most so many calls in an answer; None is no bound.
        nested: whether the value of an argument may be a call.
        lead: what the tokenizer puts before a text that it encodes: a space (SentencePiece), or nothing.

    Raises:
        ConfigError: an unknown mode, fewer than one call, or a schema that refers to nothing but itself.
    """
    if mode not in MODES:
        raise ConfigError(f"no mode {mode!r}", "grammar of calls", f"Use one of: {', '.join(MODES)}.")
    if most_calls is not None and most_calls < 1:
        raise ConfigError(f"most_calls is {most_calls}", "grammar of calls", "Give 1 or more, or None for no bound.")
    rules = Rules()
    groups: dict[str, list[int]] = {}  # numbers of the functions that share a schema
    for number, function in enumerate(function_set.functions):
        groups.setdefault(json.dumps(function.parameters), []).append(number)
    calls, inside, left_out, never = [], [], {}, []
    for group, numbers in enumerate(groups.values()):
        names = [function_set.functions[number].name for number in numbers]
        values = Values(rules, function_set.functions[numbers[0]], f"f{group}", "inner" if nested else None)
        try:
            rules.rule(f"f{group}", f"{quoted(lead + '(')} {values.arguments()} {quoted(')')}")
        except Impossible:
            never += names
            continue
        left_out.update({name: tuple(sorted(values.left_out)) for name in names if values.left_out})
        calls.append(_call([tokens.functions[number] for number in numbers], group, tokens.end))
        useful = [number for number, name in zip(numbers, names) if name != IRRELEVANT]
        inside += [_call([tokens.functions[number] for number in useful], group, tokens.end)] * bool(useful)
    rules.rule("call", " | ".join(calls))
    if nested and inside:
        rules.rule("inner", f"({' | '.join(inside)}) {quoted(lead)}")  # what follows is encoded by itself
    return CallGrammar("\n".join([_start(mode, most_calls), *rules.lines]) + "\n", left_out, tuple(never))


def _call(ids: list[int], group: int, end: int) -> str:
    return f"<[{','.join(map(str, ids))}]> f{group} <[{end}]>"


def _start(mode: str, most_calls: int | None) -> str:
    if mode == CALLS:
        return f"start: call{{1,{most_calls or ''}}}"
    return f"start: TEXT? (call TEXT?){{0,{most_calls or ''}}}\nTEXT: /(?s:.+)/"
