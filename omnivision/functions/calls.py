"""Calls as text and as ids, there and back.

A call is <nexa_i>(item='red cat', count=2)<nexa_end>: the functional token chooses, the text
between is an argument list (arguments.py). The value of an argument may be a call itself:
<nexa_0>(to=<nexa_3>(name='Ann')<nexa_end>)<nexa_end>. Only ids make a call; text that spells one is text.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from omnivision.errors import DataError
from omnivision.functions.arguments import Malformed, read_arguments, write_arguments
from omnivision.functions.function import Function
from omnivision.functions.function_set import FunctionSet
from omnivision.functions.tokens import functional_tokens

BROKEN = "\ufffd"  # in the place of bytes that are no character
MAX_NESTED = 16  # calls in calls; far above any answer, so that nothing that walks an action meets Python's limit


@dataclass(frozen=True)
class Action:
    """A valid call that a model made; span = [first, past last) in the ids, both tokens included."""

    name: str
    arguments: dict
    span: tuple[int, int]
    nested: dict[str, Action] = field(default_factory=dict)  # arguments whose value another call gives

    def to_dict(self) -> dict:
        """The call as `target_ids` and rows of data hold it, without spans."""
        call = {"name": self.name, "arguments": self.arguments}
        return {**call, "nested": {name: one.to_dict() for name, one in self.nested.items()}} if self.nested else call


@dataclass(frozen=True)
class CallError:
    """Why a piece of the ids is no call.

    kind: unclosed (no end token), stray_end, foreign_token (a special or unknown id inside),
    syntax (not an argument list), not_literal (an expression), duplicate, unknown_argument,
    schema (the values do not fit), nested (a call among the arguments is none, or too many lie in each other).
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
    return write_arguments(function_set[name], arguments)[0][0]


def target_ids(calls: dict | Sequence[dict], tokenizer, function_set: FunctionSet) -> list[int]:
    """Ids that a model should generate: [<nexa_i>] + argument text + [<nexa_end>] for each call.

    Args:
        calls: one {"name": ..., "arguments": {...}} or several, in order. "nested" may hold further
            arguments, whose values are calls: {"to": {"name": ..., "arguments": {...}}}.
        tokenizer: with the set's tokens installed. The text is encoded by itself with special
            tokens split, so a value that spells a token stays text.

    Raises:
        DataError: as format_call, or calls nested more than MAX_NESTED deep.
        ConfigError: the tokens are not installed.
    """
    tokens = functional_tokens(tokenizer, function_set)

    def encoded(call: dict, depth: int) -> list[int]:
        name, nested = call["name"], call.get("nested") or {}
        if depth > MAX_NESTED:
            raise DataError(f"calls nested more than {MAX_NESTED} deep", f"function {name!r}", "Flatten them.")
        pieces, inside = write_arguments(function_set[name], call.get("arguments", {}), nested)
        ids = [tokens.functions[function_set.position(name)]]
        for piece, inner in zip(pieces, [*inside, None]):
            ids += tokenizer.encode(piece, add_special_tokens=False, split_special_tokens=True)
            if inner is not None:
                ids += encoded(nested[inner], depth + 1)
        return [*ids, tokens.end]

    return [one for call in ([calls] if isinstance(calls, dict) else calls) for one in encoded(call, 0)]


def parse_calls(ids: Sequence[int], tokenizer, function_set: FunctionSet) -> Calls:
    """Read calls from generated ids; text that merely looks like a call is none.

    Ids outside calls (a description that follows, the end of the turn) are passed over. A functional
    token inside a call begins a nested one; where an outer call is none, nor are those inside it.

    Args:
        ids: what the model generated, without the prompt; a list or a one-dimensional tensor.
        tokenizer: with the set's tokens installed.
        function_set: the functions that may be called.

    Returns:
        The valid actions in order; `.errors` lists every malformed piece by its place. Never raises
        for what a model wrote.

    Raises:
        ConfigError: the set's tokens are not installed in the tokenizer.
    """
    tokens = functional_tokens(tokenizer, function_set)
    chooses = dict(zip(tokens.functions, function_set.functions))
    ids = [int(one) for one in ids]
    decode = _Decoder(tokenizer)
    calls = Calls()
    opened: list[_Opened] = []
    for index, one in enumerate(ids):
        if one in chooses:
            opened.append(_Opened(chooses[one], index))
        elif one != tokens.end:
            if opened:
                opened[-1].texts[-1].append(one)
        elif not opened:
            calls.errors.append(CallError("stray_end", "an end token without a call", (index, index + 1)))
        else:
            call = opened.pop()
            read = call.close(index + 1, len(opened), decode)
            if isinstance(read, CallError):
                calls.errors.append(read)
            if opened:
                opened[-1].hold(read)
            elif isinstance(read, Action):
                calls.append(read)
    calls.errors += [CallError("unclosed", "no end token after the arguments", (call.start, len(ids)), call.function.name) for call in opened]
    calls.errors.sort(key=lambda error: error.span)
    return calls


class _Opened:
    """A call whose end token has not come yet."""

    def __init__(self, function: Function, start: int) -> None:
        self.function, self.start = function, start
        self.texts: list[list[int]] = [[]]  # ids of the text around the calls inside
        self.inside: list[Action | CallError] = []

    def hold(self, call: Action | CallError) -> None:
        self.inside.append(call)
        self.texts.append([])

    def close(self, stop: int, depth: int, decode: _Decoder) -> Action | CallError:
        span = (self.start, stop)
        try:
            if depth > MAX_NESTED:
                raise Malformed("nested", f"calls nested more than {MAX_NESTED} deep")
            values, numbers = read_arguments([decode(text) for text in self.texts], self.function)
            faulty = [name for name, number in numbers.items() if isinstance(self.inside[number], CallError)]
            if faulty:
                raise Malformed("nested", f"the call in argument {faulty[0]!r} is none")
        except Malformed as error:
            return CallError(error.kind, str(error), span, self.function.name)
        return Action(self.function.name, values, span, {name: self.inside[number] for name, number in numbers.items()})


class _Decoder:
    """Ids of plain text as text; special and unknown ids are foreign to it."""

    def __init__(self, tokenizer) -> None:
        self.tokenizer, self.size = tokenizer, len(tokenizer)
        self.special = set(tokenizer.all_special_ids)
        self.special.update(id_ for id_, token in tokenizer.added_tokens_decoder.items() if token.special)

    def __call__(self, ids: list[int]) -> str:
        for one in ids:
            if one in self.special or not 0 <= one < self.size:
                raise Malformed("foreign_token", f"id {one} cannot stand among arguments")
        text = self.tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
        if BROKEN in text and self.tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True) != ids:
            raise Malformed("syntax", "a character's bytes are not whole")
        return text
