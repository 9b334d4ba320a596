"""Requests from templates: what is drawn fits the schema and stands in the sentence; the splits differ in sentences and open values."""

from __future__ import annotations

import json
import random
import re

import bfcl
import pytest
from function_parts import add_tokens, make_tokenizer
from function_walks import same
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from omnivision.functions import Function, FunctionSet, parse_calls, target_ids
from omnivision.requests.composed import parallel_rows
from omnivision.requests.drawing import HELD_OUT, TRAIN, Drawing, Undrawable, side
from omnivision.requests.same import normalised
from omnivision.requests.sentences import BORDER
from omnivision.requests.templates import template_rows
from omnivision.requests.wording import deeds, labels

TICKET = {"type": "object", "properties": {
    "city": {"type": "string"}, "seats": {"type": "integer", "minimum": 1, "maximum": 6}, "price": {"type": "number", "exclusiveMinimum": 0, "maximum": 90},
    "class": {"enum": ["first", "second"]}, "code": {"type": "string", "pattern": "^[A-Z]{2}-[0-9]{3}$"}, "day": {"type": "string", "format": "date"},
    "tags": {"type": "array", "items": {"type": "string"}, "minItems": 2, "uniqueItems": True}, "window": {"type": "boolean"},
    "payer": {"$ref": "#/$defs/person"}}, "required": ["city", "seats"],
    "$defs": {"person": {"type": "object", "properties": {"name": {"type": "string"}, "age": {"type": "integer", "multipleOf": 5}}, "required": ["name"]}}}


@pytest.fixture(scope="module")
def tickets():
    return FunctionSet((Function("book_ticket", "Books a train ticket.", TICKET), Function("list_trains", "List the trains of today.")))


def test_rows_are_what_the_stage_reads_and_say_every_text(tickets):
    rows = template_rows(tickets, 90, 0, languages=("en", "zh"))
    booked = [row for row in rows if row["calls"][0]["name"] == "book_ticket"]
    assert len(booked) == 90 and {row["language"] for row in booked} == {"en", "zh"}
    for row in booked:
        arguments = row["calls"][0]["arguments"]
        assert tickets["book_ticket"].faults(arguments) == []
        for text in (arguments["city"], arguments.get("code", ""), *arguments.get("tags", ()), arguments.get("payer", {}).get("name", "")):
            assert normalised(text) in normalised(row["request"]), row
    assert {name for row in booked for name in row["calls"][0]["arguments"]} == set(TICKET["properties"])
    assert len({normalised(row["request"]) for row in rows}) == len(rows)
    assert 0 < len(rows) - 90 < 90  # a function without arguments has as many requests as wordings, and stops there


def test_splits_share_neither_sentences_nor_open_values(tickets):
    rows = {split: template_rows(tickets, 60, 0, split, ("en", "zh")) for split in (TRAIN, HELD_OUT)}
    requests = {split: {normalised(row["request"]) for row in found} for split, found in rows.items()}
    cities = {split: {row["calls"][0]["arguments"].get("city") for row in found} - {None} for split, found in rows.items()}
    assert not requests[TRAIN] & requests[HELD_OUT] and not cities[TRAIN] & cities[HELD_OUT] and all(cities.values())
    assert {side(city) for city in cities[HELD_OUT]} == {HELD_OUT}


def test_no_number_or_date_of_a_wide_range_is_the_other_splits():
    schema = {"type": "object", "properties": {"room": {"type": "integer", "minimum": 1, "maximum": 1000}, "day": {"type": "string", "format": "date"}}}
    drawing = Drawing(Function("find", "Find a room.", {**schema, "required": ["room", "day"]}), random.Random(1), HELD_OUT)
    assert {side(value) for _ in range(700) for value in drawing.arguments().values()} == {HELD_OUT}


@pytest.mark.parametrize(("schema", "kind"), [
    ({"type": "number", "multipleOf": 0.01}, float), ({"type": "number", "multipleOf": 0.1, "maximum": 0.3}, float), ({"type": "number", "multipleOf": 5}, int),
    ({"type": "integer", "multipleOf": 5.0}, int), ({"type": "integer", "multipleOf": 2.5}, int)])
def test_multiples_are_drawn_as_they_are_written(schema, kind):
    schema = {"type": "object", "properties": {"price": {"minimum": 0.3, "maximum": 99.99, **schema}}, "required": ["price"]}
    drawing = Drawing(Function("pay", "Pay a price.", schema), random.Random(1))
    drawn = [drawing.arguments()["price"] for _ in range(200)]
    assert {type(one) for one in drawn} == {kind} and all(len(repr(one)) <= 5 for one in drawn)


LOOKS = {"date": r"\d{4}-\d\d-\d\d", "duration": r"PT\d+M", "ipv6": r"2001:db8::[0-9a-f]{1,4}", "idn-email": r"\w+@example\.com", "uri-reference": r"https://\S+"}


@pytest.mark.parametrize("named", LOOKS)
@pytest.mark.parametrize("wrap", [lambda one: one, lambda one: {"anyOf": [one, {"type": "null"}]}, lambda one: {"allOf": [one]},
                                  lambda one: {"oneOf": [{"$ref": "#/$defs/one"}, {"type": "null"}]}])
def test_a_format_is_kept_wherever_it_stands(named, wrap):
    """pydantic writes an Optional[date] as anyOf."""
    one = {"type": "string", "format": named}
    function = Function("plan", "Plan it.", {"type": "object", "properties": {"x": wrap(one)}, "required": ["x"], "$defs": {"one": one}})
    drawn = {Drawing(function, random.Random(seed)).arguments()["x"] for seed in range(20)} - {None}
    assert drawn and all(re.fullmatch(LOOKS[named], value) for value in drawn)


def test_what_an_option_shows_is_drawn():
    either = [{"type": "string", "examples": ["a-1", "b-2"]}, {"type": "number", "multipleOf": 0.5, "minimum": 0, "maximum": 9}, {"type": "null"}]
    function = Function("plan", "Plan it.", {"type": "object", "properties": {"x": {"type": "array", "items": {"anyOf": either}, "minItems": 1}}, "required": ["x"]})
    drawn = [one for seed in range(60) for one in Drawing(function, random.Random(seed)).arguments()["x"]]
    numbers = [one for one in drawn if isinstance(one, float)]
    assert {one for one in drawn if isinstance(one, str)} == {"a-1", "b-2"} and len(numbers) > 10 and all(one * 2 == int(one * 2) for one in numbers)


@pytest.mark.parametrize("text", [{"format": "iban"}, {"format": "date", "maxLength": 4}])
def test_a_format_that_cannot_be_made_is_not_made_up(text):
    schema = {"type": "object", "properties": {"x": {"type": "string", **text}}, "required": ["x"]}
    with pytest.raises(Undrawable, match="format"):
        Drawing(Function("pay", "Pay it.", schema), random.Random(0)).arguments()
    shown = {**schema, "properties": {"x": {"type": "string", "format": "iban", "examples": ["DE02 1203"]}}}
    assert Drawing(Function("pay", "Pay it.", shown), random.Random(0)).arguments() == {"x": "DE02 1203"}


def test_seed_decides_all_and_a_larger_set_keeps_its_rows(tickets):
    assert template_rows(tickets, 5, 1) == template_rows(tickets, 5, 1) != template_rows(tickets, 5, 2)
    larger = FunctionSet((Function("sing", "Sing a song."), *tickets.functions))
    assert [row for row in template_rows(larger, 5, 1) if row["calls"][0]["name"] != "sing"] == template_rows(tickets, 5, 1)


@pytest.mark.parametrize(("description", "deed"), [
    ("Calculates the area of a circle (in cm).", (True, "calculate the area of a circle")),
    ("This function fetches news for a given country.", (True, "fetch news")),
    ("Weather of a city.", (False, "weather of a city")), ("List of flights.", (False, "list of flights"))])
def test_descriptions_become_deeds_or_things(description, deed):
    assert deeds(Function("x", description), "en")[0] == deed


@pytest.mark.parametrize(("name", "said"), [
    ("calculate_triangle_area", (True, "计算三角形面积")), ("area_of_circle", (False, "圆的面积")), ("find_a_hotel_by_city", (True, "查找酒店")),
    ("get_number_of_rooms", (True, "获取房间数量")), ("books_search", (True, "搜索书籍")), ("weather.forecast", (False, "天气预报")), ("orders", (False, "订单"))])
def test_names_in_chinese(name, said):
    assert deeds(Function(name, "Whatever it does."), "zh") == [said]


@pytest.mark.parametrize(("name", "description", "said"), [
    ("set-thermostat.v2", "Set the thermostat to a degree.", {(True, "set the thermostat to a degree"), (True, "set thermostat")}),
    ("climate.v1beta1.set_mode", "", {(True, "set mode")}), ("math.hypot", "", {(False, "math hypot")}), ("temperature.c_to_f", "", {(False, "c to f")}),
    ("v2", "", {(False, "v 2")}),
    ("shift", "Shifts the schedule.", {(True, "shift the schedule"), (True, "shift")}), ("weather", "Weather of a city.", {(False, "weather of a city"), (False, "weather")}),
    ("weather_news", "Weather for the week.", {(False, "weather for the week"), (False, "weather news")}), ("nothing", "Do nothing.", {(True, "do nothing"), (False, "nothing")})])
def test_a_function_is_asked_for_by_what_it_does(name, description, said):
    assert set(deeds(Function(name, description), "en")) == said


@pytest.mark.parametrize("name", ["find_wug", "wug", "get_nearby", "calculate_area_of_wug"])
def test_names_that_are_not_chinese_throughout_are_none(name):
    with pytest.raises(Undrawable, match="no Chinese words"):
        deeds(Function(name, "Whatever it does."), "zh")


@pytest.mark.parametrize(("name", "said"), [("to", "收件人"), ("to_currency", "目标货币"), ("from_city", "原城市"), ("startDate", "开始日期"), ("x", "x"), ("num_guests", "客人数量"), ("num1", "数字1"), ("数量", "数量")])
def test_arguments_in_chinese(name, said):
    assert labels(Function("f", "", {"type": "object", "properties": {name: {"type": "string"}}}), name, "zh") == [said]


def test_chinese_requests_are_chinese_throughout_or_not_made(tickets):
    wug = {"type": "object", "properties": {"wug": {"type": "integer"}}, "required": ["wug"]}
    functions = FunctionSet((*tickets.functions, Function("find_wug", "Find a wug.", TICKET), Function("set_seat", "Set the seat.", wug)))
    rows = template_rows(functions, 40, 0, languages=("en", "zh"))
    chinese = [row for row in rows if row["language"] == "zh"]
    assert {row["calls"][0]["name"] for row in chinese} == {"book_ticket", "list_trains"}
    assert {row["calls"][0]["name"] for row in rows} == {"book_ticket", "list_trains", "find_wug", "set_seat"}
    for row in chinese:
        texts = re.findall(r'"((?:[^"\\]|\\.)*)"', json.dumps(row["calls"], ensure_ascii=False))
        rest = row["request"]
        for text in sorted(texts, key=len, reverse=True):
            rest = rest.replace(text, "")
        assert not re.search("[A-Za-z]", rest), row


def test_a_text_of_two_scripts_stands_in_its_request_as_it_is():
    schema = {"type": "object", "properties": {"item": {"enum": ["卡拉OK", "T恤"]}}, "required": ["item"]}
    rows = template_rows(FunctionSet((Function("order", "Order something.", schema),)), 12, 0, languages=("zh", "en"))
    rows += parallel_rows(rows, 8, 0, TRAIN)
    for row in rows:  # the first letter of a sentence may be another case
        assert all(call["arguments"]["item"].casefold() in row["request"].casefold() for call in row["calls"]), row
        assert not BORDER.search(row["request"].replace("卡拉OK", "").replace("T恤", "").replace("t恤", "")), row
    assert {row["language"] for row in rows} == {"zh", "en"}


PARTS = st.recursive(
    st.one_of(st.just({"type": "string"}), st.just({"type": "boolean"}), st.just({"enum": ["a", 2, None]}), st.just({"type": ["integer", "null"]}),
              st.builds(lambda low, more: {"type": "integer", "minimum": low, "maximum": low + more}, st.integers(-50, 50), st.integers(0, 9)),
              st.builds(lambda low: {"type": "number", "minimum": low}, st.floats(-5, 5)), st.builds(lambda n: {"type": "string", "minLength": n}, st.integers(0, 20))),
    lambda inner: st.one_of(st.builds(lambda one: {"type": "array", "items": one, "minItems": 1}, inner), st.builds(lambda one, two: {"anyOf": [one, two]}, inner, inner),
                            st.builds(lambda one: {"type": "object", "properties": {"key": one}, "required": ["key"]}, inner)), max_leaves=4)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(properties=st.dictionaries(st.sampled_from(["to", "year", "数量", "from", "x"]), PARTS, max_size=4), optional=st.booleans(), seed=st.integers(0, 99))
def test_every_row_goes_through_ids_and_back(properties, optional, seed):
    function = Function("do", "Do something.", {"type": "object", "properties": properties, "required": [] if optional else list(properties)})
    functions = FunctionSet((function,))
    tokenizer = add_tokens(make_tokenizer(), functions)
    rows = template_rows(functions, 4, seed, languages=("en", "zh"))
    assert rows
    for row in rows:
        found = parse_calls(target_ids(row["calls"], tokenizer, functions), tokenizer, functions)
        assert found.errors == [] and same([one.to_dict() for one in found], row["calls"]), json.dumps(properties)


@pytest.mark.official_data
def test_every_berkeley_function_gets_its_rows(official_data):
    functions, _ = bfcl.read(official_data / "bfcl")
    rows = template_rows(functions, 3, 0)
    assert len(functions) == 863 and len(rows) == 3 * 862
    assert {row["calls"][0]["name"] for row in rows} == {function.name for function in functions.functions} - {"irrelevant"}
    assert all(functions[row["calls"][0]["name"]].faults(row["calls"][0]["arguments"]) == [] for row in rows)


def test_a_function_whose_schema_holds_itself_gets_rows():
    inside, itself = {"type": "array", "items": {"$ref": "#/$defs/n"}}, {"$ref": "#/$defs/n"}
    node = {"type": "object", "properties": {"name": {"type": "string"}, "children": inside}, "required": ["name", "children"]}
    schema = {"$defs": {"n": node}, "type": "object", "properties": {"tree": itself}, "required": ["tree"]}
    functions = FunctionSet((Function("plant", "Plant a tree.", schema),))
    rows = template_rows(functions, per_function=20, seed=0, split="train", languages=("en",))
    planted = [row["calls"][0]["arguments"]["tree"] for row in rows if row["calls"][0]["name"] == "plant"]
    assert planted and any(tree["children"] for tree in planted)
