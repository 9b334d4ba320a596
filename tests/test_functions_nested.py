"""Calls whose arguments are calls, and the order of keys in nested objects."""

from __future__ import annotations

import random
import re
from collections import Counter

import pytest
from function_parts import make_model, make_tokenizer
from hypothesis import given, settings
from hypothesis import strategies as st

from omnivision.errors import ConfigError, DataError
from omnivision.functions import Action, CallError, Function, FunctionSet, format_call, functional_tokens, install_tokens, parse_calls, target_ids

SEND = {"type": "object", "properties": {"to": {"type": "string"}, "text": {"type": "string"}, "from": {}}, "required": ["to", "text"]}
FIND = {"type": "object", "properties": {"name": {"type": "string"}, "call_": {"type": "integer", "maximum": 9}}, "required": ["name"]}
ANN = {"name": "find", "arguments": {"name": "Ann"}}


@pytest.fixture(scope="module")
def mail() -> FunctionSet:
    return FunctionSet((Function("send", "Send a text.", SEND), Function("find", "Find an address.", FIND)))


@pytest.fixture(scope="module")
def tokenizer(mail):
    tokenizer = make_tokenizer()
    install_tokens(make_model(400), tokenizer, mail)
    return tokenizer


def ids_of(pieces: list, tokenizer, mail) -> list[int]:
    """Ids of text and of tokens; a token stands as a number of the set, or as "end"."""
    tokens = functional_tokens(tokenizer, mail)
    special = {**dict(enumerate(tokens.functions)), "end": tokens.end}
    return [one for piece in pieces
            for one in ([special[piece]] if piece in special else tokenizer.encode(piece, add_special_tokens=False, split_special_tokens=True))]


def test_nested_calls_are_written_as_tokens_in_the_place_of_a_value(tokenizer, mail):
    call = {"name": "send", "arguments": {"text": "hi"}, "nested": {"to": ANN}}
    assert target_ids(call, tokenizer, mail) == ids_of([0, "(to=", 1, "(name='Ann')", "end", ", text='hi')", "end"], tokenizer, mail)
    keyword = {"name": "send", "arguments": {"to": "a", "text": "b"}, "nested": {"from": ANN}}
    written = ids_of([0, "(to='a', text='b', **{'from': ", 1, "(name='Ann')", "end", "})", "end"], tokenizer, mail)
    assert target_ids(keyword, tokenizer, mail) == written


def test_actions_hold_actions_with_their_own_spans(tokenizer, mail):
    inner = {**ANN, "arguments": {}, "nested": {"name": ANN, "call_": ANN}}
    calls = [{"name": "send", "arguments": {"text": "call_0_ call__"}, "nested": {"to": inner, "from": ANN}}, ANN]
    ids = target_ids(calls, tokenizer, mail)
    found = parse_calls(ids, tokenizer, mail)
    assert found.errors == [] and [action.to_dict() for action in found] == calls
    assert found[0].span[1] == found[1].span[0] and found[1].span[1] == len(ids)

    def check(action):
        """Every action's own ids are a call of their own, and say the same."""
        alone = parse_calls(ids[slice(*action.span)], tokenizer, mail)
        assert [one.to_dict() for one in alone] == [action.to_dict()] and alone.errors == []
        for one in action.nested.values():
            assert action.span[0] < one.span[0] < one.span[1] < action.span[1]
            check(one)

    for action in found:
        check(action)


@pytest.mark.parametrize(("call", "word"), [
    ({"name": "send", "arguments": {}, "nested": {"to": ANN}}, "'text' is a required"),
    ({"name": "send", "arguments": {"to": "a", "text": "b"}, "nested": {"to": ANN}}, "a value and a call"),
    ({"name": "send", "arguments": {"to": "a", "text": "b"}, "nested": {"cc": ANN}}, "no argument 'cc'"),
    ({"name": "send", "arguments": {"text": "b"}, "nested": {"to": {"name": "find", "arguments": {"name": 3}}}}, "not of type 'string'"),
    ({"name": "send", "arguments": {"text": "b"}, "nested": {"to": {"name": "nobody"}}}, "no function named"),
])
def test_a_wrong_nested_call_is_never_written(tokenizer, mail, call, word):
    with pytest.raises(DataError, match=word):
        target_ids(call, tokenizer, mail)


def test_nesting_has_an_end(tokenizer, mail):
    def deep(levels: int) -> dict:
        return {"name": "find", "arguments": {}, "nested": {"name": deep(levels - 1)}} if levels else ANN

    found = parse_calls(target_ids(deep(16), tokenizer, mail), tokenizer, mail)
    assert [action.to_dict() for action in found] == [deep(16)]
    with pytest.raises(DataError, match="more than 16"):
        target_ids(deep(17), tokenizer, mail)
    runaway = ids_of([1, "(name="] * 3000 + [1, "(name='Ann')", "end"] + [")", "end"] * 3000, tokenizer, mail)
    found = parse_calls(runaway, tokenizer, mail)
    assert found == [] and {error.kind for error in found.errors} == {"nested"}


@pytest.mark.parametrize(("pieces", "kinds"), [
    ([0, "(to=", 1, "(name='Ann')", "end", ", text='b')"], ["unclosed"]),  # a call inside none is none
    ([0, "(to=", 1, "(name='Ann')", ", text='b')", "end"], ["unclosed", "syntax"]),
    ([0, "(to=", 1, "(name=3)", "end", ", text='b')", "end"], ["nested", "schema"]),
    ([0, "(to='", 1, "(name='Ann')", "end", "', text='b')", "end"], ["not_literal"]),  # inside a string
    ([0, "(to=[", 1, "(name='Ann')", "end", "], text='b')", "end"], ["not_literal"]),
    ([0, "(to=a", 1, "(name='Ann')", "end", ", text='b')", "end"], ["not_literal"]),
    ([0, "(to=", 1, "(name='Ann')", "end", "0_, text='b')", "end"], ["not_literal"]),
    ([0, "(to=", 1, "(name='Ann')", "end", ", to='a', text='b')", "end"], ["duplicate"]),
    ([0, "(to=", 1, "(name='Ann')", "end", ", text=call_0_)", "end"], ["not_literal"]),
    ([0, "(to=", 1, "(name='Ann')", "end", ", text=ｃａｌｌ_0_)", "end"], ["not_literal"]),  # the parser folds it to ASCII
    ([0, "(to='", 1, "(name='Ann')", "end", "', text=ｃａｌｌ_0_)", "end"], ["not_literal"]),
    ([0, "(to='a', text='b')", 1, "(name='Ann')", "end", "end"], ["syntax"]),
    ([0, "(to='a', text='b') # ", 1, "(name='Ann')", "end", "end"], ["syntax"]),
    ([0, "(", 1, "(name='Ann')", "end", "=1, to='a', text='b')", "end"], ["not_literal"]),
    ([0, "(to=", 1, "(name='Ann')", "end", ")", "end", "end"], ["schema", "stray_end"]),
])
def test_malformed_nesting_is_a_typed_error_in_the_order_of_places(tokenizer, mail, pieces, kinds):
    found = parse_calls(ids_of(pieces, tokenizer, mail) + target_ids(ANN, tokenizer, mail) * (kinds[0] != "unclosed"), tokenizer, mail)
    assert [error.kind for error in found.errors] == kinds
    assert [action.name for action in found] == ["find"] * (kinds[0] != "unclosed")  # what follows is still read


def test_a_positional_argument_may_be_a_call(tokenizer, mail):
    found = parse_calls(ids_of([0, "(", 1, "('Ann', ", 1, "('Bo')", "end", ")", "end", ", 'x')", "end"], tokenizer, mail), tokenizer, mail)
    inner = {"name": "find", "arguments": {"name": "Ann"}, "nested": {"call_": {"name": "find", "arguments": {"name": "Bo"}}}}
    assert [one.to_dict() for one in found] == [{"name": "send", "arguments": {"text": "x"}, "nested": {"to": inner}}]


CALLS = st.recursive(
    st.builds(lambda name: {"name": "find", "arguments": {"name": name}}, st.text()),
    lambda inner: st.builds(lambda to, text: {"name": "send", "arguments": {"text": text}, "nested": {"to": to}}, inner, st.text())
    | st.builds(lambda one: {"name": "find", "arguments": {"call_": -1}, "nested": {"name": one}}, inner), max_leaves=6)


@settings(max_examples=200, deadline=None)
@given(st.lists(CALLS, min_size=1, max_size=3))
def test_nested_calls_survive_tokens_and_parser(tokenizer, mail, calls):
    found = parse_calls(target_ids(calls, tokenizer, mail), tokenizer, mail)
    assert found.errors == [] and [one.to_dict() for one in found] == calls


@settings(max_examples=300, deadline=None)
@given(st.lists(st.integers(0, 1) | st.sampled_from(["end", "(to=", "(name='Ann')", ")", ", text='b')", "'", "call_0_", "，"]), max_size=25))
def test_any_nesting_at_all_never_raises(tokenizer, mail, pieces):
    found = parse_calls(ids_of(pieces, tokenizer, mail), tokenizer, mail)
    assert found.errors == sorted(found.errors, key=lambda one: one.span)
    spans = [action.span for action in found]
    assert all(first[1] <= second[0] for first, second in zip(spans, spans[1:]))


def test_1000_damaged_answers_are_actions_or_errors(tokenizer, mail):
    """Ids of good answers left out, doubled, exchanged and strewn in: what comes out is typed, fits its schema and lies inside."""
    rng, kinds = random.Random(0), Counter()
    inner = {"name": "find", "arguments": {"name": "it's \"猫\"", "call_": -3}}
    answer = target_ids([{"name": "send", "arguments": {"text": "<nexa_1>\n", "from": {"a": [1.5, None]}}, "nested": {"to": inner}}, ANN], tokenizer, mail)
    for _ in range(1000):
        ids = list(answer)
        for _ in range(rng.randint(1, 6)):
            at, other = rng.randrange(len(ids)), rng.randrange(-1, len(tokenizer) + 3)
            ids[at : at + rng.choice([0, 1, 1, 4])] = rng.choice([[], [other], [ids[at]] * 2, answer[: rng.randrange(9)]])
            ids = ids or [other]
        found = parse_calls(ids, tokenizer, mail)
        for action in found:
            assert isinstance(action, Action) and mail[action.name].faults(action.arguments, action.nested) == []
            assert 0 <= action.span[0] < action.span[1] <= len(ids)
        assert all(isinstance(error, CallError) for error in found.errors)
        kinds.update([error.kind for error in found.errors] or ["none"])
    assert set(kinds) >= {"none", "unclosed", "stray_end", "foreign_token", "syntax", "not_literal", "unknown_argument", "schema", "nested"}, kinds


# ---- objects ----


def test_keys_of_nested_objects_take_the_schemas_order():
    place = {"type": "object", "properties": {"city": {}, "zip": {"anyOf": [{"type": "null"}, {"$ref": "#/$defs/code"}]}}}
    code = {"properties": {"land": {}, "number": {"$ref": "#/$defs/code"}}}
    schema = {"type": "object", "$defs": {"code": code, "place": place}, "properties": {
        "at": {"allOf": [{"$ref": "#/$defs/place"}]},
        "list": {"type": "array", "prefixItems": [{"$ref": "#/$defs/code"}], "items": {"$ref": "#/$defs/place"}},
        "map": {"type": "object", "additionalProperties": {"$ref": "#/$defs/code"}}}}
    functions = FunctionSet((Function("f", "f", schema),))
    inner = {"number": {"number": 1, "land": 2}, "land": 3}
    arguments = {"map": {"b": inner, "a": 1}, "list": [inner, {"x": 1, "zip": inner, "city": 0}], "at": {"zip": None, "city": "B"}}
    ordered = "{'land': 3, 'number': {'land': 2, 'number': 1}}"
    assert format_call("f", arguments, functions) == (
        "(at={'city': 'B', 'zip': None}, list=["
        f"{ordered}, {{'city': 0, 'zip': {ordered}, 'x': 1}}], map={{'b': {ordered}, 'a': 1}})")


@pytest.mark.parametrize("reference", ["#/$defs/none", "#anchor", "#/type"])
def test_references_lead_somewhere(reference):
    with pytest.raises(ConfigError, match=re.escape(reference)):
        Function("f", "f", {"type": "object", "properties": {"a": {"$ref": reference}}})


def test_a_definition_of_nothing_but_itself_is_a_fault_of_every_value(tokenizer):
    circle = {"type": "object", "properties": {"a": {"anyOf": [{"$ref": "#/properties/a"}]}}}
    with pytest.raises(DataError, match="cannot be applied"):
        format_call("f", {"a": {"b": 1}}, FunctionSet((Function("f", "f", circle),)))


def test_a_whole_number_is_no_float():
    schema = {"type": "object", "properties": {"a": {"type": "integer"}, "b": {"type": "number"}}}
    function = Function("f", "f", schema)
    assert function.faults({"a": 2, "b": 2}) == [] == function.faults({"b": 2.0})
    assert [kind for kind, _ in function.faults({"a": 2.0})] == ["schema"]


def test_a_multiple_is_one_of_the_numbers_as_they_are_written():
    schema = {"type": "object", "properties": {"price": {"type": "number", "multipleOf": 0.01}, "tiny": {"multipleOf": 1e-300}, "five": {"type": "integer", "multipleOf": 5.0}}}
    function = Function("f", "f", schema)
    assert [cents for cents in range(1, 10001) if function.faults({"price": cents / 100})] == []
    for good in ({"price": 19}, {"price": 10**400}, {"tiny": 1e308}, {"tiny": "no number"}, {"five": -10}):
        assert function.faults(good) == []
    for bad in ({"price": 19.995}, {"price": float("inf")}, {"tiny": float("nan")}, {"tiny": 1e-301}, {"five": 10**400 + 1}, {"five": 10.0}):
        assert [kind for kind, _ in function.faults(bad)] == ["schema"]


@pytest.mark.parametrize(("rules", "good", "bad"), [
    ({"anyOf": [{"required": ["a"]}, {"required": ["b"]}]}, [({}, "a"), ({"c": 1}, "b")], [({}, "c")]),
    ({"minProperties": 2}, [({"a": 1}, "b"), ({}, "ab")], [({}, "a")]),
    ({"maxProperties": 1}, [({}, "a")], [({"a": 1}, "b")]),
    ({"oneOf": [{"required": ["a"]}, {"required": ["b"]}]}, [({}, "a"), ({"b": 1}, "c")], [({"a": 1}, "b"), ({}, "c")]),
    ({"oneOf": [{"properties": {"a": {"const": 1}}}, {"properties": {"a": {"const": 2}}}]}, [({}, "a")], []),
    ({"oneOf": [{"properties": {"a": {"const": 1}}, "required": ["b"]}, {"properties": {"a": {"const": 2}}, "required": ["c"]}]}, [({"b": 1}, "a")], [({}, "a")]),
    ({"dependentRequired": {"a": ["b"]}}, [({"a": 1}, "b"), ({"b": 1}, "a")], [({}, "a")]),
    ({"not": {"required": ["a", "b"]}}, [({"a": 1}, "c")], [({"a": 1}, "b")]),
    ({"not": {"properties": {"a": {"const": 1}}, "required": ["a"]}}, [({}, "a")], [({"a": 1}, "b")]),
    ({"if": {"properties": {"a": {"const": 1}}}, "then": {"required": ["b"]}, "else": {"required": ["c"]}}, [({"b": 1}, "a"), ({"c": 1}, "a"), ({"a": 1}, "b")], [({"a": 1}, "c")]),
    ({"$ref": "#/$defs/both", "$defs": {"both": {"allOf": [{"required": ["a"]}, {"properties": {"a": {"type": "string", "minLength": 3}}}]}}}, [({}, "a")], [({"a": "no"}, "b")]),
])
def test_an_argument_that_a_call_gives_counts_as_given_and_fits_where_a_value_could(rules, good, bad):
    function = Function("f", "f", {"type": "object", "properties": {"a": {}, "b": {}, "c": {}}, **rules})
    for arguments, nested in good:
        assert function.faults(arguments, list(nested)) == []
    for arguments, nested in bad:
        assert [kind for kind, _ in function.faults(arguments, list(nested))] == ["schema"]
