"""What a row has to be before it is written: calls that fit, that the grammar can write and the parser reads back, values that were said."""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Iterator
from pathlib import Path

from rapidfuzz import fuzz
from tokenizers import AddedToken

from omnivision.data.writing import stand_in_tokenizer
from omnivision.errors import ConfigError, DataError
from omnivision.functions import Function, FunctionSet, parse_calls, target_ids
from omnivision.functions.constraint import CallConstraint
from omnivision.functions.options import options
from omnivision.requests.same import normalised
from omnivision.requests.wording import CHINESE
from omnivision.requests.words import words_of

LIKENESS = 90  # of 100, rapidfuzz's partial_ratio: how near a text of the call has to be to a part of the request; one letter in ten may differ
FIGURES = re.compile(r"\d+(?:[.,]\d+)*")
COUNTED = {"en": "zero one two three four five six seven eight nine ten eleven twelve".split(), "zh": "零一二三四五六七八九十"}
REASONS = ("unknown_function", "schema", "not_expressible", "grammar", "value_not_said", "language")  # in the order in which they are looked for


class Checks:
    """Checks rows against one function set.

    Args:
        function_set: the functions. tokenizer: with the set's tokens, for the way through ids; None takes the stand-in's.

    Raises:
        ConfigError: the set is too large for one grammar.
    """

    def __init__(self, function_set: FunctionSet, tokenizer=None) -> None:
        self.function_set = function_set
        self.names = {function.name: function for function in function_set.functions}
        self.tokenizer = tokenizer or with_tokens(stand_in_tokenizer("tiny")[0], function_set)
        self.constraint = CallConstraint(self.tokenizer, function_set, nested=True)

    def fault(self, row: dict) -> tuple[str, str] | None:
        """Why a row cannot be written: (reason, message); None where it can."""
        request, language = row["request"], row["language"]
        for call in each_call(row["calls"]):
            if call["name"] not in self.names:
                return "unknown_function", f"there is no function {call['name']!r}"
            faults = self.names[call["name"]].faults(call["arguments"], call.get("nested") or {})
            if faults:
                return "schema", faults[0][1]
        fault = self._way_through_ids(row["calls"])
        if fault:
            return fault
        for call in each_call(row["calls"]):
            unsaid = values_not_said(self.names[call["name"]], call["arguments"], request, language)
            if unsaid:
                return "value_not_said", f"{unsaid[0]} of {call['name']} is not in the request"
        return None if speaks(request, language, row["calls"]) else ("language", f"the request is not {language}")

    def _way_through_ids(self, calls: list[dict]) -> tuple[str, str] | None:
        try:
            ids = target_ids(calls, self.tokenizer, self.function_set)
        except DataError as error:
            return "not_expressible", error.what
        found = parse_calls(ids, self.tokenizer, self.function_set)
        if found.errors or not _same([one.to_dict() for one in found], calls):
            return "not_expressible", "the calls do not come back as they were written"
        matcher = self.constraint.matcher()
        if matcher.try_consume_tokens(ids) != len(ids) or not matcher.is_accepting():
            return "grammar", "the grammar of the set does not allow the calls"
        return None


def _same(first: list[dict], second: list[dict]) -> bool:
    """Equal, and of equal types; an empty `nested` is none."""
    plain = [{key: value for key, value in call.items() if key != "nested" or value} for call in second]
    return json.dumps(first, sort_keys=True) == json.dumps(plain, sort_keys=True)


def with_tokens(tokenizer, function_set: FunctionSet):
    """A tokenizer with the tokens of a set, for work without a model."""
    tokenizer.add_tokens([AddedToken(one, special=True, normalized=False) for one in (*function_set.tokens, function_set.end_token)], special_tokens=True)
    return tokenizer


def each_call(calls: list[dict]) -> Iterator[dict]:
    """All calls, those in others too."""
    for call in calls:
        yield call
        yield from each_call(list((call.get("nested") or {}).values()))


def values_not_said(function: Function, arguments: dict, request: str, language: str) -> list[str]:
    """Arguments with a text or number that does not stand in the request.

    Truth values, null, and values that the schema lists or has as its default may be told in other words.
    """
    fields = function.parameters.get("properties", {})
    return [name for name, value in arguments.items() if not _is_said(value, fields.get(name, {}), function, request, language)]


def _is_said(value: object, schema: dict | bool, function: Function, request: str, language: str) -> bool:
    if value is None or isinstance(value, bool) or isinstance(schema, dict) and _is_told(value, schema, function):
        return True
    if isinstance(value, str):
        return text_said(value, request)
    if isinstance(value, int | float):
        return number_said(value, request, language)
    if isinstance(value, list):
        items = schema.get("items", {}) if isinstance(schema, dict) else {}
        return all(_is_said(one, items, function, request, language) for one in value)
    fields = schema.get("properties", {}) if isinstance(schema, dict) else {}
    return all(_is_said(one, fields.get(key, {}), function, request, language) for key, one in value.items())


def _is_told(value: object, schema: dict, function: Function) -> bool:
    """Whether the schema itself names the value."""
    return "default" in schema and schema["default"] == value or any(value in option.get("enum", ()) for option in options(schema, function, set()))


def text_said(text: str, request: str) -> bool:
    """Whether a text stands in a request, whatever its case, punctuation and underscores; long ones with a slip of the pen."""
    for wanted, given in ((normalised(text), normalised(request)), (" ".join(words_of(text)), " ".join(words_of(request)))):
        if not wanted:
            continue
        if CHINESE.search(wanted):
            found = wanted.replace(" ", "") in given.replace(" ", "")
        else:
            found = f" {wanted} " in f" {given} " or re.search(rf"(?<![a-z0-9]){re.escape(wanted)}(?![a-z0-9])", given)
        if found or len(wanted) >= 100 // (100 - LIKENESS) and not FIGURES.search(wanted) and fuzz.partial_ratio(wanted, given) >= LIKENESS:
            return True
    return not normalised(text) and text in request


def number_said(value: int | float, request: str, language: str) -> bool:
    """Whether a number stands in a request: in figures, as a percentage, or as a word up to twelve."""
    plain = unicodedata.normalize("NFKC", request)
    figures = {float(one.replace(",", "")) for one in FIGURES.findall(plain) if one.replace(",", "").count(".") < 2}
    size = abs(value)
    if size in figures or "%" in plain and any(abs(one / 100 - size) < 1e-9 for one in figures) or repr(value) in request:
        return True
    words = COUNTED[language]
    if size != int(size) or size >= len(words):
        return False
    word = words[int(size)]
    return word in plain or size == 2 and "两" in plain if language == "zh" else re.search(rf"\b{word}\b", plain.casefold()) is not None


def speaks(request: str, language: str, calls: list[dict]) -> bool:
    """Whether a request is in its language, the texts of its calls aside: English without Chinese letters, Chinese with as many as it has Latin words."""
    for text in sorted((text for call in each_call(calls) for text in _texts(call["arguments"])), key=len, reverse=True):
        request = request.replace(text, " ")
    letters, words = len(CHINESE.findall(request)), len(re.findall(r"[A-Za-z]{2,}", request))
    return letters == 0 if language == "en" else letters >= max(2, words)


def _texts(value: object) -> Iterator[str]:
    if isinstance(value, str) and value:
        yield value
    elif isinstance(value, list | dict):
        for one in value.values() if isinstance(value, dict) else value:
            yield from _texts(one)


def returns_of(file: Path) -> dict[str, dict]:
    """What functions give back, by name: the schema under `returns` in a function table.

    Raises:
        ConfigError: it is no schema.
    """
    content = json.loads(file.read_text(encoding="utf-8"))
    tools = [tool.get("function", tool) for tool in (content["functions"] if isinstance(content, dict) else content)]
    found = {tool["name"]: tool["returns"] for tool in tools if "returns" in tool}
    for name, schema in found.items():
        if not isinstance(schema, dict):
            raise ConfigError(f"`returns` of {name!r} is no schema", str(file), 'Write one such as {"type": "string"}.')
    return found
