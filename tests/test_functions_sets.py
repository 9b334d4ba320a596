"""Where function sets come from: type hints of every kind, type names of other lists; and what a larger set keeps."""

from __future__ import annotations

import functools
import json
import subprocess
import sys
import typing
from dataclasses import dataclass, field
from datetime import date
from enum import Enum
from typing import Literal, NotRequired, TypedDict

import pytest
import torch
from function_parts import add_tokens, make_model, make_shop, make_tokenizer

from omnivision.errors import ConfigError
from omnivision.functions import Function, FunctionSet, install_tokens, parse_calls, target_ids
from omnivision.functions.constraint import CallConstraint


class Place(TypedDict):
    city: str
    zip: NotRequired[int]


@dataclass
class Parcel:
    to: Place
    weight: float | None
    marks: list[Literal["fragile", "heavy"]] = field(default_factory=list)
    serial: str = field(default="", init=False)


class Tree(TypedDict):
    below: list[Tree]


def post(parcel: Parcel, copies: int = 1, note: str | None = None) -> None:
    """Post a parcel."""


def test_typed_dictionaries_and_dataclasses_are_objects_of_their_fields():
    place = {"type": "object", "properties": {"city": {"type": "string"}, "zip": {"type": "integer"}}, "required": ["city"],
             "additionalProperties": False}
    parcel = {"type": "object", "required": ["to", "weight"], "additionalProperties": False, "properties": {
        "to": place, "weight": {"anyOf": [{"type": "number"}, {"type": "null"}]},
        "marks": {"type": "array", "items": {"enum": ["fragile", "heavy"]}}}}
    function = FunctionSet.from_callables(post)["post"]
    assert function.parameters["properties"] == {
        "parcel": parcel, "copies": {"type": "integer", "default": 1}, "note": {"anyOf": [{"type": "string"}, {"type": "null"}]}}
    assert function.parameters["required"] == ["parcel"]
    assert function.faults({"parcel": {"to": {"city": "Bonn", "zip": 53111}, "weight": None, "marks": ["heavy"]}}) == []
    for wrong in ({"to": {"zip": 1}, "weight": 1}, {"to": {"city": "x", "street": "y"}, "weight": 1}, {"to": {"city": "x"}, "weight": 1, "serial": "s"}):
        assert [kind for kind, _ in function.faults({"parcel": wrong})] == ["schema"]


class Shade(Enum):
    DARK = "dark"
    LIGHT = 2


def test_members_of_an_enum_are_their_values(tmp_path):
    def paint(one: Literal[Shade.DARK, "grey"], other: Shade = Shade.LIGHT, more: list[Shade] | None = None):
        """Paint it."""

    functions = FunctionSet.from_callables(paint)
    functions.save(tmp_path)
    assert FunctionSet.load(tmp_path)["paint"].parameters["properties"] == {
        "one": {"enum": ["dark", "grey"]}, "other": {"enum": ["dark", 2], "default": 2}, "more": {"anyOf": [{"type": "array", "items": {"enum": ["dark", 2]}}, {"type": "null"}]}}


@pytest.mark.parametrize("hint", [Literal[b"a"], Enum("Days", {"first": date(2026, 1, 1)}), Enum("Odd", {"none": float("nan")})])
def test_what_json_cannot_hold_is_no_listed_value(hint):
    def wait(until: hint):
        """Wait."""

    wait.__annotations__["until"] = hint
    with pytest.raises(ConfigError, match="has no JSON form.*function wait, parameter 'until'"):
        FunctionSet.from_callables(wait)


def test_restructured_text_tells_of_arguments():
    def count(things: str, most: int = 3):
        """Count things
        of a kind.
        :param str things: what is
            counted
        :param most: where to stop.
        :return: the number
        """

    function = FunctionSet.from_callables(count)["count"]
    assert function.description == "Count things of a kind."
    assert function.parameters["properties"] == {"things": {"type": "string", "description": "what is counted"},
                                                 "most": {"type": "integer", "description": "where to stop.", "default": 3}}


def test_hints_that_cannot_be_read_name_the_function():
    def grow(tree: Tree):
        """Grow."""

    def lost(a: Nowhere):  # noqa: F821
        """Lose."""

    for function, word in ((grow, "Tree holds itself"), (lost, "Nowhere")):
        with pytest.raises(ConfigError, match=word) as error:
            FunctionSet.from_callables(function)
        assert f"function {function.__name__}" in error.value.where


def test_type_names_of_python_are_read_as_json_schemas():
    inner = {"type": "dict", "properties": {"type": {"type": "str"}, "at": {"type": "tuple", "items": {"type": "float"}}, "all": {"type": "any"}}}
    parameters = {"type": "dict", "required": ["a"], "$defs": {"d": {"type": "bool"}}, "properties": {
        "a": {"type": ["int", "None"], "default": {"type": "dict"}}, "b": {"anyOf": [inner, {"type": "double"}]}, "c": {"type": ["str", "any"]},
        "e": {"type": "list", "prefixItems": [{"type": "int"}], "items": {"type": "dict", "additionalProperties": {"type": "NoneType"}}}}}
    function = FunctionSet.from_json([{"name": "f", "parameters": parameters}])["f"]
    inner = {"type": "object", "properties": {"type": {"type": "string"}, "at": {"type": "array", "items": {"type": "number"}}, "all": {}}}
    assert function.parameters == {"type": "object", "required": ["a"], "$defs": {"d": {"type": "boolean"}}, "properties": {
        "a": {"type": ["integer", "null"], "default": {"type": "dict"}}, "b": {"anyOf": [inner, {"type": "number"}]}, "c": {},
        "e": {"type": "array", "prefixItems": [{"type": "integer"}], "items": {"type": "object", "additionalProperties": {"type": "null"}}}}}
    with pytest.raises(ConfigError, match="datetime"):
        FunctionSet.from_json([{"name": "f", "parameters": {"type": "dict", "properties": {"a": {"type": "datetime"}}}}])


LAMP = {"type": "object", "properties": {"room": {"type": "string"}, "level": {"type": ["integer", "null"]}}, "required": ["room"]}
IN_CAPITALS = {"type": "OBJECT", "properties": {"room": {"type": "STRING"}, "level": {"type": "INTEGER", "nullable": True}}, "required": ["room"]}


@pytest.mark.parametrize("source", [
    {"tools": [{"name": "lamp", "description": "Switch it on.", "inputSchema": LAMP}], "nextCursor": None},  # an MCP server's tools/list
    [{"name": "lamp", "description": "Switch it on.", "input_schema": LAMP}],  # Anthropic
    [{"name": "lamp", "description": "Switch it on.", "parameters": IN_CAPITALS}],  # Gemini
    {"tools": [{"type": "function", "function": {"name": "lamp", "description": "Switch it on.", "parameters": LAMP}}]}])
def test_lists_of_other_servers_are_read_as_they_are(source):
    assert FunctionSet.from_json(source).functions[0] == Function("lamp", "Switch it on.", LAMP)


@pytest.mark.parametrize(("schema", "in_json"), [
    ({"type": "string", "nullable": True}, {"type": ["string", "null"]}), ({"type": ["string", "null"], "nullable": True}, {"type": ["string", "null"]}),
    ({"type": "string", "enum": ["a"], "nullable": True}, {"type": ["string", "null"], "enum": ["a", None]}), ({"enum": ["a", None], "nullable": True}, {"enum": ["a", None]}),
    ({"$ref": "#/$defs/d", "nullable": True, "description": "It."}, {"description": "It.", "anyOf": [{"$ref": "#/$defs/d", "description": "It."}, {"type": "null"}]}),
    ({"type": "string", "nullable": False}, {"type": "string"}), ({"nullable": True}, {}),
    ({"type": "object", "properties": {"nullable": {"type": "BOOLEAN"}}}, {"type": "object", "properties": {"nullable": {"type": "boolean"}}})])
def test_what_may_be_null_is_said_in_json_schemas_words(schema, in_json):
    parameters = {"type": "object", "properties": {"a": schema}, "$defs": {"d": {"type": "string"}}}
    function = FunctionSet.from_json([{"name": "f", "parameters": parameters}])["f"]
    assert function.parameters["properties"]["a"] == in_json
    assert (function.faults({"a": None}) == []) is (schema.get("nullable") is True)


def test_what_a_function_gives_back_is_kept(tmp_path):
    tools = [{"name": "find", "parameters": LAMP, "returns": {"type": "dict"}}, {"name": "look"}]
    functions = FunctionSet.from_json(tools)
    functions.save(tmp_path)
    assert FunctionSet.load(tmp_path) == functions and [one.returns for one in functions.functions] == [{"type": "object"}, None, None]
    with pytest.raises(ConfigError, match="'returns' is 'a text', no schema.*'look'"):
        FunctionSet.from_json([{"name": "look", "returns": "a text"}])
    with pytest.raises(ConfigError, match="not a JSON schema.*Fix 'returns'"):
        FunctionSet.from_json([{"name": "look", "returns": {"type": "strng"}}])


def test_a_list_that_does_not_name_irrelevant_extends_a_trained_set():
    a, b, c, irrelevant = (Function(name, name) for name in ("a", "b", "c", "irrelevant"))
    trained = FunctionSet((a, b))
    longer = FunctionSet((a, b, c)).keeping(trained)
    assert [one.name for one in longer.functions] == ["a", "b", "irrelevant", "c"] and longer.keeping(longer) == longer
    assert FunctionSet((a, b, irrelevant, c)).keeping(trained).functions == (a, b, irrelevant, c)
    assert FunctionSet((a, b)).keeping(FunctionSet((irrelevant, a))).tokens == ("<nexa_0>", "<nexa_1>", "<nexa_2>")
    with pytest.raises(ConfigError, match="<nexa_1> was 'b' and is now 'c'"):
        FunctionSet((a, c)).keeping(trained)


def test_a_set_that_moves_a_trained_function_is_refused():
    shop = make_shop()
    larger = shop.extended([Function("later", "Comes later.")])
    assert larger.keeping(shop) == larger
    first = larger.functions
    for functions, prefix, words in (
        ((first[3], *first[:3]), "nexa", "<nexa_0> was 'order' and is now 'later'"),
        (first[:3], "nexa", "<nexa_3> was 'later' and is now None"),
        (first, "act", "prefix 'act' after 'nexa'"),
    ):
        with pytest.raises(ConfigError, match=words):
            FunctionSet(functions, prefix).keeping(larger)


@pytest.mark.parametrize("where", ["pattern", "patternProperties"])
def test_patterns_are_read_when_a_set_is_made(where):
    schema = {"pattern": r"\p{L}+"} if where == "pattern" else {"patternProperties": {r"\p{L}+": {}}}
    with pytest.raises(ConfigError, match="is not a 'regex'"):
        Function("f", "f", {"type": "object", "properties": {"a": {"type": "array", "items": schema}}})


@pytest.mark.parametrize("tied", [True, False])
def test_a_trained_set_grows_past_the_spare_rows(tied):
    """Qwen2.5's 271 spare rows, then more: no id moves, no trained row changes, tables that are tied stay so."""
    tokenizer, shop = make_tokenizer(), make_shop()
    model = make_model(len(tokenizer) + 271, tied)
    first = install_tokens(model, tokenizer, shop)
    with torch.no_grad():
        for table in (model.get_input_embeddings().weight, model.get_output_embeddings().weight):
            table[list(first.tokens.functions)] += 1
    trained = [model.get_input_embeddings().weight.detach().clone(), model.get_output_embeddings().weight.detach().clone()]
    larger = shop.extended(Function(f"f{index}", f"Do the {index}th thing.") for index in range(300))
    second = install_tokens(model, tokenizer, larger)
    assert second.tokens.functions[:3] == first.tokens.functions and second.tokens.end == first.tokens.end
    assert (first.spare_rows_used, second.spare_rows_used, second.added) == (4, 267, 300)
    assert second.rows_after == second.rows_before + 33 == len(tokenizer)
    tables = [model.get_input_embeddings().weight, model.get_output_embeddings().weight]
    kept = [row for row in range(second.rows_before) if row not in second.tokens.functions[3:]]
    assert all(torch.equal(now[kept], before[kept]) for now, before in zip(tables, trained))
    assert (tables[0] is tables[1]) is tied
    calls = [{"name": "order", "arguments": {"item": "x"}}, {"name": "f299", "arguments": {}}]
    found = parse_calls(target_ids(calls, tokenizer, larger), tokenizer, larger)
    assert [one.to_dict() for one in found] == calls


def test_training_needs_no_grammar():
    code = "import sys, omnivision.functions; print('llguidance' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"


@pytest.mark.parametrize("rest", [{}, True, {"type": "string"}])
def test_an_empty_schema_of_further_arguments_opens_the_function(rest):
    functions = FunctionSet((Function("f", "Do it.", {"type": "object", "properties": {}, "additionalProperties": rest}),))
    assert functions["f"].faults({"colour": "red"}) == []
    tokenizer = add_tokens(make_tokenizer(), functions)
    constraint = CallConstraint(tokenizer, functions)
    matcher = constraint.matcher()
    assert matcher.try_consume_tokens(target_ids({"name": "f", "arguments": {"colour": "red"}}, tokenizer, functions)) > 2
    assert matcher.is_accepting()


def test_a_named_dialect_does_not_loosen_what_a_whole_number_is():
    schema = {"$schema": "http://json-schema.org/draft-07/schema#", "type": "object", "properties": {"to": {"type": "string"}, "count": {"type": "integer"}},
              "required": ["to", "count"]}
    function = Function("f", "Do it.", schema)
    assert function.faults({"count": 2.0}, ["to"]) and function.faults({"to": "a", "count": 2.0}) and not function.faults({"count": 2}, ["to"])


@pytest.mark.parametrize("key", ["$ref", "allOf", "anyOf"])
def test_arguments_behind_a_reference_are_refused(key):
    inside = {"type": "object", "properties": {"a": {"type": "string"}}}
    schema = {"$defs": {"n": inside}, "$ref": "#/$defs/n"} if key == "$ref" else {key: [inside]}
    with pytest.raises(ConfigError, match="stand behind"):
        Function("f", "Do it.", schema)


@pytest.mark.parametrize("key", ["params", "arguments", "args"])
def test_other_names_of_the_schema_are_no_function_without_arguments(tmp_path, key):
    (tmp_path / "functions.json").write_text(json.dumps([{"name": "f", "description": "Do it.", key: {"type": "object", "properties": {"a": {"type": "string"}}}}]))
    with pytest.raises(ConfigError, match=f"{key}.*parameters"):
        FunctionSet.from_json(tmp_path / "functions.json")


@pytest.mark.parametrize(("parameters", "key"), [({"city": {"type": "string"}, "days": {"type": "integer"}}, "city"), ({"type": "object", "propertes": {"a": {}}}, "propertes")])
def test_arguments_that_do_not_stand_under_properties_are_refused(parameters, key):
    with pytest.raises(ConfigError, match=f"'{key}' stands in 'parameters'.*function 'f'"):
        FunctionSet.from_json([{"name": "f", "parameters": parameters}])


@pytest.mark.parametrize("parameters", [None, {}, {"type": "object"}, {"type": "object", "additionalProperties": {"type": "string"}, "title": "T", "default": {}, "x-of": {}}])
def test_a_function_may_have_no_arguments_of_its_own(parameters):
    assert FunctionSet.from_json([{"name": "f", "parameters": parameters}])["f"].argument_names == ()


@pytest.mark.parametrize("text", ['[{"name": "f", "name": "g"}]', '[{"name": "f", "parameters": {"type": "object", "properties": {"a": {"minimum": NaN}}}}]'])
def test_tables_are_strict_json(tmp_path, text):
    (tmp_path / "functions.json").write_text(text)
    with pytest.raises(ConfigError, match="stands twice|NaN"):
        FunctionSet.from_json(tmp_path / "functions.json")


def test_what_has_no_name_and_what_is_no_prefix_are_told():
    class Caller:
        def __call__(self, a: int) -> None:
            """Call."""

    for function in (functools.partial(post), Caller(), [post]):
        with pytest.raises(ConfigError, match="no function with a name"):
            FunctionSet.from_callables(function)
    with pytest.raises(ConfigError, match="prefix 5"):
        FunctionSet.from_json({"prefix": 5, "functions": []})


def test_a_default_that_json_cannot_hold_is_left_out(tmp_path):
    def wait(most: float = float("inf"), least: float = 0.5, count: int = 10**400) -> None:
        """Wait."""

    functions = FunctionSet.from_callables(wait)
    properties = functions["wait"].parameters["properties"]
    assert properties["most"] == {"type": "number"} and properties["least"]["default"] == 0.5 and functions["wait"].parameters["required"] == []
    functions.save(tmp_path)
    assert FunctionSet.load(tmp_path) == functions


@pytest.mark.parametrize("heading", ["Args:", "Parameters:"])
def test_a_heading_ends_the_description(heading):
    def order(item: str) -> None:
        pass

    order.__doc__ = f"Order\n    an item.\n    {heading}\n        item: what.\n    Returns:\n        nothing.\n    "
    function = FunctionSet.from_callables(order)["order"]
    assert function.description == "Order an item." and function.parameters["properties"]["item"]["description"] == "what."


def test_bare_typing_hints_are_plain_lists_and_objects():
    def f(a: typing.List, b: typing.Dict) -> None:  # noqa: UP006
        """Do it."""

    assert FunctionSet.from_callables(f)["f"].parameters["properties"] == {"a": {"type": "array"}, "b": {"type": "object"}}


def test_a_function_that_no_arguments_fit_is_told():
    path = {"type": "object", "properties": {"path": {"type": "string", "pattern": r"^[A-Z]:\\"}}, "required": ["path"]}
    functions = FunctionSet((Function("open", "Open a file.", path), Function("wipe", "Wipe the disk.")))
    constraint = CallConstraint(add_tokens(make_tokenizer(), functions), functions)
    with pytest.raises(ConfigError, match=r"another would be called.*functions open"):
        constraint.check_all_can_be_called()


def test_a_function_without_a_description_starts_from_its_name():
    functions = FunctionSet((Function("play_song", ""), Function("b", "Do b.")))
    tokenizer = make_tokenizer()
    model = make_model(len(tokenizer) + 8)
    install_tokens(model, tokenizer, functions)
    assert torch.isfinite(model.get_input_embeddings().weight).all()


def test_half_a_character_is_no_text():
    functions = FunctionSet((Function("say", "Say it.", {"type": "object", "properties": {"text": {"type": "string"}}}),))
    tokenizer = add_tokens(make_tokenizer(), functions)
    ids = target_ids({"name": "say", "arguments": {"text": "a猫b"}}, tokenizer, functions)
    assert parse_calls(ids, tokenizer, functions)[0].arguments == {"text": "a猫b"}
    broken = [at for at in range(1, len(ids) - 1) if parse_calls(ids[:at] + ids[at + 1:], tokenizer, functions).errors]
    found = [call.arguments["text"] for at in range(1, len(ids) - 1) for call in parse_calls(ids[:at] + ids[at + 1:], tokenizer, functions) if "text" in call.arguments]
    assert broken and not any("\ufffd" in text for text in found)
    kept = target_ids({"name": "say", "arguments": {"text": "\ufffd"}}, tokenizer, functions)
    assert parse_calls(kept, tokenizer, functions)[0].arguments == {"text": "\ufffd"}
