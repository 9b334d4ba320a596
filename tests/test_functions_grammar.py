"""The grammar of a set allows what the parser takes, and nothing else."""

from __future__ import annotations

import json
import random

import pytest
from function_parts import ANYTHING, add_tokens, make_llama_tokenizer, make_tokenizer
from function_walks import accepts, allowed, same, walk
from hypothesis import given, settings
from hypothesis import strategies as st

from omnivision.errors import ConfigError
from omnivision.functions import Function, FunctionSet, format_call, functional_tokens, parse_calls, target_ids
from omnivision.functions.constraint import CallConstraint
from omnivision.functions.grammar import CALLS, TEXT_OR_CALLS

TREE = {"type": "object", "properties": {"left": {"$ref": "#/$defs/tree"}, "value": {"type": "string"}}, "required": ["value"]}
EVERY = {"type": "object", "required": ["share", "名"], "$defs": {"tree": TREE}, "properties": {
    "age": {"type": "integer", "minimum": -5, "exclusiveMaximum": 120},
    "share": {"type": "number", "exclusiveMinimum": 0, "maximum": 1},
    "one": {"enum": ["x", "it's", 1, None, [1, {"k": 2}]]},
    "tags": {"type": "array", "items": {"type": "string", "minLength": 1, "maxLength": 3}, "minItems": 2, "maxItems": 3},
    "at": {"type": "object", "properties": {"city": {"type": "string", "pattern": "^[A-Z][a-z]+$"}, "zip": {"type": ["integer", "null"]}}, "required": ["zip"]},
    "tree": {"anyOf": [{"type": "boolean"}, {"$ref": "#/$defs/tree"}]},
    "class": {"type": "array", "prefixItems": [{"type": "integer"}, {"const": "z"}], "items": False, "minItems": 1},
    "both": {"allOf": [{"type": "string", "maxLength": 5}, {"minLength": 2}]},
    "counts": {"type": "object", "additionalProperties": {"type": "integer"}},
    "名": {}}}
OPEN = {"type": "object", "properties": {"sure": {"const": True}}, "required": ["sure"], "additionalProperties": {"type": "number"}}
OPTIONAL = {"type": "object", "properties": {"a": {"type": "string"}, "b": {"type": "boolean"}, "from": {}}}
FUNCTIONS = FunctionSet((Function("every", "Every.", EVERY), Function("open", "Open.", OPEN), Function("optional", "Optional.", OPTIONAL)))


@pytest.fixture(scope="module", params=[make_tokenizer, make_llama_tokenizer])
def tokenizer(request):
    return add_tokens(request.param(), FUNCTIONS)


@pytest.fixture(scope="module")
def constraint(tokenizer):
    return CallConstraint(tokenizer, FUNCTIONS, nested=True)


def one_argument(schema: dict, *others: Function) -> tuple[FunctionSet, object, CallConstraint]:
    functions = FunctionSet((Function("f", "F.", {"type": "object", "properties": {"a": schema}, "required": ["a"]}), *others))
    tokenizer = add_tokens(make_tokenizer(), functions)
    return functions, tokenizer, CallConstraint(tokenizer, functions)


def takes(made: tuple, text: str) -> bool:
    """Whether the grammar lets f(a=text) through."""
    functions, tokenizer, constraint = made
    tokens = functional_tokens(tokenizer, functions)
    ids = [tokens.functions[0], *tokenizer.encode(f"(a={text})", split_special_tokens=True), tokens.end]
    return accepts(constraint, ids, len(tokenizer), tokenizer.eos_token_id)


# ---- what it allows ----

SCHEMAS = [
    ({"type": "integer", "minimum": 1, "maximum": 12}, ["1", "9", "12"], ["0", "13", "-1", "1.0", "'1'", "01", "True", "1 "]),
    ({"type": "integer", "exclusiveMinimum": 0.5, "exclusiveMaximum": 3}, ["1", "2"], ["0", "3"]),
    ({"type": "number", "exclusiveMinimum": 0, "maximum": 2.5}, ["1", "0.1", "2.5", "1e-07"], ["0", "0.0", "2.6", "3", "-1"]),
    ({"type": "number", "exclusiveMaximum": 10**400}, ["1", "-0.5"], ["'1'"]),
    ({"type": ["number", "null"], "exclusiveMinimum": 10**400}, ["None"], ["1"]),
    ({"allOf": [{"enum": [1, 2, True, [2]]}, {"enum": [2.0, True, 3, [2.0]]}]}, ["2", "True", "[2]"], ["1", "3"]),
    ({"type": "boolean"}, ["True", "False"], ["true", "1", "None"]),
    ({"type": ["string", "null"]}, ["'a'", '"it\'s"', "None"], ["null", "a", "1"]),
    ({"enum": ["a", "ab", 1, 12, None, True, [1], {"b": "'"}]}, ["'a'", "'ab'", "1", "12", "None", "True", "[1]", '{\'b\': "\'"}'], ["'b'", "2", '"a"', "False"]),
    ({"const": "红色"}, ["'红色'"], ["'红'"]),
    ({"type": "string", "enum": ["a", 1]}, ["'a'"], ["1"]),
    ({"type": "array", "items": {"type": "integer"}, "minItems": 1}, ["[1]", "[1, 2, 3]"], ["[]", "[1,2]", "['a']", "[1, ]"]),
    ({"type": "array", "maxItems": 0}, ["[]"], ["[1]"]),
    ({"type": "array", "items": {"const": 1}, "minItems": 1, "maxItems": 1}, ["[1]"], ["[]", "[1, 1]"]),
    ({"type": "array", "prefixItems": [{"const": 1}, {"const": 2}], "items": {"const": 3}, "maxItems": 4}, ["[]", "[1]", "[1, 2]", "[1, 2, 3, 3]"], ["[2]", "[1, 3]", "[1, 2, 3, 3, 3]"]),
    ({"type": "array", "prefixItems": [{"const": 1}], "items": False, "minItems": 1}, ["[1]"], ["[]", "[1, 1]"]),
    ({"type": "object"}, ["{}", "{'a': 1, 'b': [None]}"], ["{a: 1}", "{1: 2}", "{'a': 1,}"]),
    ({"type": "object", "properties": {"x": {"const": 1}, "y": {"const": 2}, "z": {"const": 3}}, "required": ["y"]},
     ["{'y': 2}", "{'x': 1, 'y': 2}", "{'y': 2, 'z': 3}"], ["{}", "{'x': 1}", "{'y': 2, 'x': 1}", "{'y': 2, 'w': 0}", "{'y': 2, 'y': 2}"]),
    ({"type": "object", "properties": {"x": {"const": 1}, "y": {"const": 2}, "z": {"const": 3}}}, ["{}", "{'x': 1}", "{'y': 2}", "{'x': 1, 'z': 3}", "{'y': 2, 'z': 3}"], ["{'z': 3, 'x': 1}"]),
    ({"type": "object", "properties": {"x": {"const": 1}}, "additionalProperties": {"type": "boolean"}}, ["{'x': 1}", "{'w': True}", "{'x': 1, 'w': True, 'v': False}"], ["{'w': 1}", "{'w': True, 'x': 1}"]),
    ({"type": ["object", "null"], "properties": {"x": False}, "required": ["x"]}, ["None"], ["{}", "{'x': 1}"]),
    ({"type": "object", "properties": {"x": False, "y": {"const": 1}}}, ["{}", "{'y': 1}"], ["{'x': 1}"]),
    ({"type": "object", "required": ["k"]}, ["{'k': 'v'}", "{'k': 1, 'l': 2}"], ["{}", "{'l': 1}"]),
    ({"type": "object", "required": ["k"], "properties": {"x": {"const": 1}}}, ["{'k': 'v'}", "{'x': 1, 'k': 1}"], ["{}", "{'x': 1}"]),
    ({"anyOf": [{"type": "integer"}, {"type": "array", "items": {"type": "string"}}]}, ["1", "['a']"], ["'a'", "[1]"]),
    ({"type": "string", "anyOf": [{"minLength": 3}, {"enum": ["a", 1]}]}, ["'abc'", "'a'"], ["'ab'", "1"]),
    ({"allOf": [{"type": ["string", "integer"]}, {"type": ["integer", "null"]}], "maximum": 5}, ["5"], ["6", "'a'", "None"]),
    ({"allOf": [{"type": "integer"}, {"type": "string"}]}, [], ["1", "'a'"]),
    ({"allOf": [{"properties": {"x": {"type": "integer"}}, "additionalProperties": False}, {"properties": {"x": {"maximum": 1}, "y": {}}}], "type": "object"},
     ["{}", "{'x': 1}"], ["{'x': 2}", "{'y': 1}"]),
    ({"type": "string", "pattern": "^a", "allOf": [{"pattern": "z$"}]}, ["'az'", "'a-z'"], ["'a'", "'z'"]),
    ({"allOf": [{"prefixItems": [{"const": 1}], "items": False}, {"type": "array", "items": {"type": "integer"}}]}, ["[]", "[1]"], ["[2]", "[1, 2]"]),
    ({"type": ["array", "string", "integer"], "minItems": 2, "maxItems": 1, "minLength": 3, "maxLength": 2}, ["1"], ["[1]", "'ab'", "'abc'"]),
    ({"allOf": [{"type": ["string", "null"], "minLength": 3}, {"pattern": "^[ab]$"}]}, ["None"], ["'a'", "'abc'"]),
    (False, [], ["1", "'a'"]),
    (True, ["1", "'a'", "None", "[[], {'k': -2.5}]", "{}"], ["a", "(1)", "1+1", "b'a'"]),
]


@pytest.mark.parametrize(("schema", "good", "bad"), SCHEMAS)
def test_every_keyword_says_to_the_grammar_what_it_says_to_the_parser(schema, good, bad):
    made = one_argument(schema)
    assert [text for text in good + bad if takes(made, text)] == good
    for text in good:
        ids = [functional_tokens(made[1], made[0]).functions[0], *made[1].encode(f"(a={text})"), functional_tokens(made[1], made[0]).end]
        assert parse_calls(ids, made[1], made[0]).errors == []
    assert not set(made[2].grammar.left_out.get("f", ())) - {"additionalProperties"}


@pytest.mark.parametrize(("schema", "word", "more"), [
    ({"type": "array", "items": {"const": 1}, "uniqueItems": True}, "uniqueItems", "[1, 1]"),
    ({"type": "integer", "multipleOf": 5}, "multipleOf", "3"),
    ({"type": "integer", "not": {"const": 3}}, "not", "3"),
    ({"type": "string", "pattern": "(?=x)"}, "pattern", "'a'"),
    ({"type": "object", "patternProperties": {"^s": {"type": "string"}}, "additionalProperties": False}, "patternProperties", "{'t': 1}"),
    ({"oneOf": [{"type": "integer"}, {"type": "number"}]}, "oneOf", "1"),
])
def test_what_only_the_parser_checks_is_named(schema, word, more):
    made = one_argument(schema)
    assert word in made[2].grammar.left_out["f"] and takes(made, more)


def test_alternatives_that_exclude_each_other_are_enforced():
    for schema in ({"oneOf": [{"type": "integer"}, {"type": "string"}]}, {"oneOf": [{"const": 1}, {"const": 2}]}):
        assert one_argument(schema)[2].grammar.left_out == {}


def test_functions_that_no_arguments_fit_are_left_out_and_named():
    missing = Function("g", "G.", {"type": "object", "properties": {}, "required": ["x"]})
    functions, tokenizer, constraint = one_argument({"type": "integer"}, missing)
    assert constraint.grammar.never == ("g",)
    first = functional_tokens(tokenizer, functions).functions
    assert allowed(constraint, [], len(tokenizer)) == [first[0], first[2]]
    assert functions["g"].faults({}) and functions["g"].faults({"x": 1})


def test_a_definition_of_nothing_but_itself_is_refused():
    with pytest.raises(ConfigError, match="refers to nothing but itself"):
        one_argument({"anyOf": [{"$ref": "#/properties/a"}]})


# ---- there and back ----


def strategy(schema: dict) -> st.SearchStrategy:
    return {"age": st.integers(-5, 119), "share": st.floats(0, 1, exclude_min=True) | st.just(1), "one": st.sampled_from(EVERY["properties"]["one"]["enum"]),
            "tags": st.lists(st.text(min_size=1, max_size=3), min_size=2, max_size=3),
            "at": st.fixed_dictionaries({"zip": st.none() | st.integers()}, optional={"city": st.from_regex(r"\A[A-Z][a-z]+\Z")}),
            "tree": st.booleans() | TREES, "class": st.integers().map(lambda one: [one]) | st.integers().map(lambda one: [one, "z"]),
            "both": st.text(min_size=2, max_size=5), "counts": st.dictionaries(st.text(), st.integers()), "名": VALUES}[schema]


VALUES = st.recursive(st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
                      lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4), max_leaves=8)
TREES = st.recursive(st.fixed_dictionaries({"value": st.text()}),
                     lambda inner: st.fixed_dictionaries({"value": st.text()}, optional={"left": inner}), max_leaves=4)
TYPED = st.fixed_dictionaries({name: strategy(name) for name in EVERY["required"]},
                              optional={name: strategy(name) for name in EVERY["properties"] if name not in EVERY["required"]})
PLAIN = st.fixed_dictionaries({}, optional={"a": st.text(), "b": st.booleans(), "from": VALUES})
CALL = (st.builds(lambda arguments: {"name": "every", "arguments": arguments}, TYPED)
        | st.builds(lambda arguments: {"name": "optional", "arguments": arguments}, PLAIN)
        | st.builds(lambda rest: {"name": "open", "arguments": {"sure": True, **rest}},
                    st.dictionaries(st.text().filter(lambda name: name != "sure"), st.floats(-1e9, 1e9), max_size=3)))
NESTED = CALL | st.builds(lambda call, inner: {**call, "arguments": {k: v for k, v in call["arguments"].items() if k != "b"}, "nested": {"b": inner}},
                          CALL.filter(lambda call: call["name"] == "optional"), CALL)


def check_there_and_back(calls, tokenizer, constraint):
    ids = target_ids(calls, tokenizer, FUNCTIONS)
    found = parse_calls(ids, tokenizer, FUNCTIONS)
    assert found.errors == [] and same([one.to_dict() for one in found], calls)
    matcher = constraint.matcher()
    assert matcher.try_consume_tokens(ids) == len(ids) and matcher.is_accepting()


@settings(max_examples=200, deadline=None)
@given(calls=st.lists(NESTED, min_size=1, max_size=2))
def test_what_is_written_is_allowed_and_read_back(calls, tokenizer, constraint):
    check_there_and_back(calls, tokenizer, constraint)


@pytest.mark.slow
@settings(max_examples=10_000, deadline=None)
@given(calls=st.lists(NESTED, min_size=1, max_size=1))
def test_10000_argument_lists_are_allowed_and_read_back(calls, tokenizer, constraint):
    check_there_and_back(calls, tokenizer, constraint)


@pytest.mark.parametrize("nested", [False, True])
def test_whatever_is_allowed_is_read_as_calls(tokenizer, nested):
    constraint, rng = CallConstraint(tokenizer, FUNCTIONS, nested=nested), random.Random(0)
    answers = [ids for ids in (walk(constraint, tokenizer, FUNCTIONS, rng) for _ in range(60)) if ids]
    found = [parse_calls(ids, tokenizer, FUNCTIONS) for ids in answers]
    assert len(found) > 30 and all(calls and not calls.errors for calls in found)
    assert any(call.nested for calls in found for call in calls) is nested
    assert {call.name for calls in found for call in calls} == {function.name for function in FUNCTIONS.functions}


LEAVES = st.sampled_from([{}, {"type": "string"}, {"maxLength": 2}, {"type": "string", "minLength": 3}, {"type": "integer", "minimum": 3}, {"type": "number", "maximum": 1.5},
                          {"type": "boolean"}, {"type": "null"}, {"enum": ["a", 2, None]}, {"const": [1]}, {"pattern": "^[ab]$"}, {"type": ["integer", "string"]}])
RANDOM = st.recursive(LEAVES, lambda inner: st.one_of(
    st.builds(lambda one, least: {"type": "array", "items": one, "minItems": least, "maxItems": least + 1}, inner, st.integers(0, 2)),
    st.builds(lambda fields, required, more: {"type": "object", "properties": fields, "required": [k for k in required if k in fields], **more},
              st.dictionaries(st.sampled_from("xyz"), inner, max_size=3), st.sets(st.sampled_from("xyz")),
              st.sampled_from([{}, {"additionalProperties": False}])),
    st.builds(lambda key, several: {key: several}, st.sampled_from(["anyOf", "allOf"]), st.lists(inner, min_size=1, max_size=2)),
    st.builds(lambda first, items: {"type": "array", "prefixItems": [first], "items": items}, inner, st.just(False) | inner)), max_leaves=5)


def check_random_schema(schema):
    made = one_argument(schema)
    functions, tokenizer, constraint = made
    rng = random.Random(json.dumps(schema))
    for _ in range(3):
        ids = walk(constraint, tokenizer, functions, rng, 80)
        found = parse_calls(ids or [], tokenizer, functions)
        repeated = [error for error in found.errors if "Dict is not" in error.message]  # a key twice, where any key may stand
        assert len(repeated) == len(found.errors), found.errors
        for call in found:
            again = target_ids(call.to_dict(), tokenizer, functions)
            matcher = constraint.matcher()
            assert matcher.try_consume_tokens(again) == len(again), tokenizer.decode(again)


@settings(max_examples=60, deadline=None)
@given(RANDOM)
def test_grammar_and_parser_agree_on_schemas_made_at_random(schema):
    check_random_schema(schema)


@pytest.mark.slow
@settings(max_examples=3000, deadline=None)
@given(RANDOM)
def test_grammar_and_parser_agree_on_3000_schemas(schema):
    check_random_schema(schema)


# ---- where calls and text may stand ----


def test_functional_tokens_come_only_where_the_grammar_has_one(tokenizer, constraint):
    tokens, width = functional_tokens(tokenizer, FUNCTIONS), len(tokenizer)
    special = {*tokens.functions, tokens.end, tokenizer.eos_token_id}
    assert allowed(constraint, [], width) == list(tokens.functions)
    ids = target_ids({"name": "optional", "arguments": {"a": "<nexa_0>", "b": True}}, tokenizer, FUNCTIONS)
    for at in range(1, len(ids)):
        here = special & set(allowed(constraint, ids[:at], width))
        text = tokenizer.decode(ids[1:at])
        wanted = {tokens.end} if at == len(ids) - 1 else set(tokens.functions[:3]) if text.endswith("=") else set()
        assert here == wanted, text
    after = allowed(constraint, ids, width)
    assert set(after) == {*tokens.functions, tokenizer.eos_token_id}


def test_modes_and_numbers_of_calls(tokenizer):
    tokens, width, end = functional_tokens(tokenizer, FUNCTIONS), len(tokenizer), tokenizer.eos_token_id
    call = target_ids({"name": "optional", "arguments": {}}, tokenizer, FUNCTIONS)
    text = tokenizer.encode("red cat <nexa_0>()", add_special_tokens=False, split_special_tokens=True)
    mixed = CallConstraint(tokenizer, FUNCTIONS, TEXT_OR_CALLS, most_calls=1)
    for ids in ([], text, call, text + call, call + text, text + call + text):
        assert accepts(mixed, ids, width, end)
    assert not accepts(mixed, call + text + call, width, end) and not accepts(mixed, call[:-1], width, end)
    strict = CallConstraint(tokenizer, FUNCTIONS, CALLS, most_calls=2)
    assert accepts(strict, call + call, width, end) and allowed(strict, call + call, width) == [end]
    for ids in ([], text, text + call, call + text, call * 3):
        assert not accepts(strict, ids, width, end)
    nested = [tokens.functions[2], *tokenizer.encode("(a=", add_special_tokens=False), *call]
    assert tokens.functions[2] not in allowed(strict, nested[: -len(call)], width)
    with pytest.raises(ConfigError, match="calls, text_or_calls"):
        CallConstraint(tokenizer, FUNCTIONS, "json")
    for mode, most in ((CALLS, 0), (TEXT_OR_CALLS, 0), (CALLS, -1)):
        with pytest.raises(ConfigError, match=f"most_calls is {most} .*Give 1 or more"):
            CallConstraint(tokenizer, FUNCTIONS, mode, most_calls=most)


@pytest.mark.parametrize(("schema", "given_", "text"), [
    ({"const": {"b": 1, "a": 2}}, {"a": 2, "b": 1}, "{'b': 1, 'a': 2}"), ({"enum": [1, 2.5]}, 1.0, "1"), ({"enum": [2.0]}, 2, "2.0"), ({"enum": [0, True]}, True, "True"),
    ({"enum": [{"k": [1.0]}]}, {"k": [1]}, "{'k': [1.0]}"), ({"type": "array", "items": {"anyOf": [{"type": "null"}, {"$ref": "#/$defs/one"}]}}, [1.0, None], "[1, None]")])
def test_what_a_schema_lists_is_written_as_it_lists_it(schema, given_, text):
    function = Function("f", "F.", {"type": "object", "properties": {"a": schema}, "required": ["a"], "additionalProperties": schema, "$defs": {"one": {"enum": ["x", 1]}}})
    functions = FunctionSet((function,))
    tokenizer = add_tokens(make_tokenizer(), functions)
    constraint = CallConstraint(tokenizer, functions)
    for arguments, written in (({"a": given_}, f"(a={text})"), ({"a": given_, "b": given_}, f"(a={text}, **{{'b': {text}}})")):
        assert format_call("f", arguments, functions) == written
        assert accepts(constraint, target_ids({"name": "f", "arguments": arguments}, tokenizer, functions), len(tokenizer), tokenizer.eos_token_id)


def test_whole_numbers_are_among_the_numbers_once():
    assert one_argument({"type": "number"})[2].grammar.text.count("L0: ") == 1 and "L1: " not in one_argument({"type": ["integer", "number"]})[2].grammar.text


def test_functions_of_one_schema_share_their_rules():
    many = FunctionSet(tuple(Function(f"f{index}", "F.", ANYTHING) for index in range(200)))
    tokenizer = add_tokens(make_tokenizer(), many)
    constraint = CallConstraint(tokenizer, many)
    assert constraint.grammar.text.count("\n") < 20
    assert len(allowed(constraint, [], len(tokenizer))) == 201
