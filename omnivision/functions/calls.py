"""Calls as text and as ids, there and back.

A call is <nexa_i>(item='red cat', count=2)<nexa_end>: the functional token chooses, the text
between is an argument list (arguments.py). Only ids make a call; text that spells one is text.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from omnivision.functions.arguments import Malformed, read_arguments, write_arguments
from omnivision.functions.function_set import Function, FunctionSet
from omnivision.functions.tokens import functional_tokens


@dataclass(frozen=True)
class Action:
    """A valid call that a model made; span = [first, past last) in the ids, both tokens included."""

    name: str
    arguments: dict
    span: tuple[int, int]


@dataclass(frozen=True)
class CallError:
    """Why a piece of the ids is no call.

    kind: unclosed (no end token), stray_end, foreign_token (a special or unknown id inside),
    syntax (not an argument list), not_literal (an expression), duplicate, unknown_argument,
    schema (the values do not fit).
    """

    kind: str
    message: str
    span: tuple[int, int]
    name: str | None = None  # the function, where one was chosen


class Calls(list):
    """The actions in order, and `errors` for every piece that is none."""

    def __init__(self, actions: Iterable[Action] = (), errors: Iterable[CallError] = ()) -> None:
        super().__init__(actions)
        self.errors = list(errors)


def format_call(name: str, arguments: dict, function_set: FunctionSet) -> str:
    """Arguments as canonical text, without the tokens: "(item='red cat', count=2)".

    Raises:
        DataError: an unknown function, arguments that do not fit its schema, or a value that JSON
            cannot hold.
    """
    return write_arguments(function_set[name], arguments)


def target_ids(calls: dict | Sequence[dict], tokenizer, function_set: FunctionSet) -> list[int]:
    """Ids that a model should generate: [<nexa_i>] + argument text + [<nexa_end>] for each call.

    Args:
        calls: one {"name": ..., "arguments": {...}} or several, in order.
        tokenizer: with the set's tokens installed. The text is encoded by itself with special
            tokens split, so a value that spells a token stays text.

    Raises:
        DataError: as format_call. ConfigError: the tokens are not installed.
    """
    tokens = functional_tokens(tokenizer, function_set)
    ids: list[int] = []
    for call in [calls] if isinstance(calls, dict) else calls:
        text = format_call(call["name"], call.get("arguments", {}), function_set)
        ids.append(tokens.functions[function_set.position(call["name"])])
        ids.extend(tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True))
        ids.append(tokens.end)
    return ids


def parse_calls(ids: Sequence[int], tokenizer, function_set: FunctionSet) -> Calls:
    """Read calls from generated ids; text that merely looks like a call is none.

    Ids outside calls (a description that follows, the end of the turn) are passed over.

    Args:
        ids: what the model generated, without the prompt; a list or a one-dimensional tensor.
        tokenizer: with the set's tokens installed.
        function_set: the functions that may be called.

    Returns:
        The valid actions in order; `.errors` lists every malformed piece. Never raises for what
        a model wrote.

    Raises:
        ConfigError: the set's tokens are not installed in the tokenizer.
    """
    tokens = functional_tokens(tokenizer, function_set)
    chooses = dict(zip(tokens.functions, function_set.functions))
    ids = [int(one) for one in ids]
    calls = Calls()
    start, function = 0, None
    for index, one in enumerate(ids):
        if one in chooses:
            if function is not None:
                calls.errors.append(_unclosed(function, start, index))
            start, function = index, chooses[one]
        elif one == tokens.end:
            span = (start if function else index, index + 1)
            if function is None:
                calls.errors.append(CallError("stray_end", "an end token without a call", span))
                continue
            try:
                arguments = read_arguments(_decode(ids[start + 1 : index], tokenizer), function)
                calls.append(Action(function.name, arguments, span))
            except Malformed as error:
                calls.errors.append(CallError(error.kind, str(error), span, function.name))
            function = None
    if function is not None:
        calls.errors.append(_unclosed(function, start, len(ids)))
    return calls


def _unclosed(function: Function, start: int, stop: int) -> CallError:
    return CallError("unclosed", "no end token after the arguments", (start, stop), function.name)


def _decode(ids: list[int], tokenizer) -> str:
    special = set(tokenizer.all_special_ids)
    special.update(id_ for id_, token in tokenizer.added_tokens_decoder.items() if token.special)
    for one in ids:
        if one in special or not 0 <= one < len(tokenizer):
            raise Malformed("foreign_token", f"id {one} cannot stand among arguments")
    return tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
