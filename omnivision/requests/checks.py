"""What a row has to be before it is written: calls that fit, that the grammar can write and the parser reads back, values that were said."""

from __future__ import annotations

import json

from tokenizers import AddedToken

from omnivision.data.writing import stand_in_tokenizer
from omnivision.errors import DataError
from omnivision.functions import FunctionSet, parse_calls, target_ids
from omnivision.requests.grounding import values_not_said
from omnivision.requests.language import each_call, speaks

Fault = tuple[str, str]  # (reason, message)
AT_ONCE = 64  # rows that go through ids together: what costs is looking the set's tokens up, not the rows


class Checks:
    """Checks rows against one function set.

    Args:
        function_set: the functions. tokenizer: with the set's tokens, for the way through ids; None takes the stand-in's.

    Raises:
        ConfigError: the set is too large for one grammar.
    """

    def __init__(self, function_set: FunctionSet, tokenizer=None) -> None:
        from omnivision.functions.constraint import CallConstraint

        self.function_set = function_set
        self.functions = {function.name: function for function in function_set.functions}
        self.tokenizer = tokenizer or with_tokens(stand_in_tokenizer("tiny")[0], function_set)
        self.constraint = CallConstraint(self.tokenizer, function_set, nested=True)

    def faults(self, rows: list[dict]) -> list[Fault | None]:
        """Of every row why it cannot be written; None where it can."""
        found = [self._fault(row) for row in rows]
        good = [row for row, fault in zip(rows, found) if fault is None]
        through = iter([fault for start in range(0, len(good), AT_ONCE) for fault in self._through_ids(good[start : start + AT_ONCE])])
        return [fault or next(through) for fault in found]

    def _fault(self, row: dict) -> Fault | None:
        calls, request, language = list(each_call(row["calls"])), row["request"], row["language"]
        for call in calls:
            if call["name"] not in self.functions:
                return "unknown_function", f"there is no function {call['name']!r}"
            faults = self.functions[call["name"]].faults(call["arguments"], call.get("nested") or {})
            if faults:
                return "schema", faults[0][1]
        if not request.strip():
            return "empty", "the request is empty"
        for call in calls:
            unsaid = values_not_said(self.functions[call["name"]], call["arguments"], request, language)
            if unsaid:
                return "value_not_said", f"{unsaid[0]} of {call['name']} is not in the request"
        return None if speaks(request, language, row["calls"]) else ("language", f"the request is not {language}")

    def _through_ids(self, rows: list[dict]) -> list[Fault | None]:
        """Rows as ids and back; where some do not come back, each half by itself, down to the single row."""
        calls = [call for row in rows for call in row["calls"]]
        fault: Fault = "not_expressible", "the calls do not come back as they were written"
        try:
            ids = target_ids(calls, self.tokenizer, self.function_set)
        except DataError as error:
            fault = "not_expressible", error.what
        else:
            actions = parse_calls(ids, self.tokenizer, self.function_set)
            if not actions.errors and _same([one.to_dict() for one in actions], calls):
                spans = iter([action.span for action in actions])
                return [self._by_grammar([one for _ in row["calls"] for one in ids[slice(*next(spans))]]) for row in rows]
        half = len(rows) // 2
        return [fault] if not half else self._through_ids(rows[:half]) + self._through_ids(rows[half:])

    def _by_grammar(self, ids: list[int]) -> Fault | None:
        matcher = self.constraint.matcher()
        fits = matcher.try_consume_tokens(ids) == len(ids) and matcher.is_accepting()
        return None if fits else ("grammar", "the grammar of the set does not allow the calls")


def _same(first: list[dict], second: list[dict]) -> bool:
    """Equal, and of equal types; an empty `nested` is none."""
    plain = [{key: value for key, value in call.items() if key != "nested" or value} for call in second]
    return json.dumps(first, sort_keys=True) == json.dumps(plain, sort_keys=True)


def with_tokens(tokenizer, function_set: FunctionSet):
    """A tokenizer with the tokens of a set, for work without a model."""
    tokenizer.add_tokens([AddedToken(one, special=True, normalized=False) for one in (*function_set.tokens, function_set.end_token)], special_tokens=True)
    return tokenizer
