"""Requests for actions: the arguments are in the picture, never in the request."""

import random
from collections import Counter
from dataclasses import replace

import jsonschema
import pytest

from omnivision.world.action_words import SENTENCES, function_tools
from omnivision.world.actions import _request_for_nothing, counting_actions, further_actions, make_action, scene_actions
from omnivision.world.truth import Item, Scene
from omnivision.world.vocabulary import kinds

TOOLS = {tool["function"]["name"]: tool["function"] for tool in function_tools()}


@pytest.fixture(scope="module")
def actions():
    rng = random.Random(11)
    return [make_action(rng, "functions", language) for language in ("en", "zh") for _ in range(500)]


def test_ten_actions_and_irrelevant():
    assert len(TOOLS) == 11 and list(TOOLS)[-1] == "irrelevant"
    assert all(len(tool["parameters"]["properties"]) <= 3 for tool in TOOLS.values())


def test_calls_keep_to_the_schemas(actions):
    for action in actions:
        (call,) = action.calls
        jsonschema.validate(call["arguments"], TOOLS[call["name"]]["parameters"])
        assert list(call["arguments"]) == list(TOOLS[call["name"]]["parameters"]["properties"])


def test_all_actions_are_asked_for_about_equally(actions):
    counts = Counter(action.calls[0]["name"] for action in actions)
    assert set(counts) == set(TOOLS) and min(counts.values()) > 50
    assert 60 < counts["irrelevant"] < 150


def test_arguments_are_in_the_picture_and_not_in_the_request(actions):
    for action in actions:
        shown = {item.kind: item for item in action.scene.items}
        for key, value in action.calls[0]["arguments"].items():
            if key in ("item", "query", "subject", "dish", "animal"):
                assert value in shown
            if key == "recipient":
                assert value == action.scene.sign
            if key == "color":
                assert value == shown[action.calls[0]["arguments"]["item"]].color
            if key == "place":
                assert value == action.scene.place
            if key == "count" and "item" in action.calls[0]["arguments"]:
                item = action.calls[0]["arguments"]["item"]
                assert value == sum(one.kind == item for one in action.scene.items)
            if isinstance(value, str) and key != "position":
                assert value not in action.request
        assert "{" not in action.request


def test_what_is_said_not_to_be_there_is_not_there():
    """A bottle is a grocery though it is no food."""
    bottle = Scene("kitchen", "noto", (Item("bottle", 0.2, 0.5, 0.3), Item("chair", 0.8, 0.5, 0.3)))
    said = {_request_for_nothing(random.Random(seed), bottle, "en") for seed in range(200)}
    orders = {sentence for name in ("order_groceries", "order_food") for sentence in SENTENCES[name][0]}
    assert not said & orders
    assert {_request_for_nothing(random.Random(seed), replace(bottle, items=bottle.items[1:]), "en") for seed in range(200)} & orders


@pytest.mark.parametrize("place, kinds_shown, counted", [
    ("forest", ("tree", "cat"), {"cat": {"send_message"}}),
    ("street", ("tree", "pine tree"), {"pine tree": {"send_message"}}), ("street", ("tree", "cat"), {"tree": {"send_message"}, "cat": {"send_message"}}),
    ("kitchen", ("bottle", "lotion bottle"), {"lotion bottle": {"send_message"}}),
    ("kitchen", ("bottle", "chair"), {"bottle": {"send_message", "order_groceries"}, "chair": {"send_message"}}),
    ("forest", ("tree",), {}),
])
def test_a_call_counts_only_what_nobody_could_see_more_of(place, kinds_shown, counted):
    """Every kind as often as its number, from 1, says."""
    items = tuple(Item(kind, 0.1 + 0.1 * at, 0.2 + 0.3 * at, 0.1) for at, kind in enumerate(kinds_shown) for _ in range(at + 1))
    scene, found = Scene(place, "noto", items, sign="Anna"), {}
    made = counting_actions(random.Random(0), scene) + [one for seed in range(40) for one in scene_actions(random.Random(seed), scene, "en", 10)]
    for call in (action.calls[0] for action in made):
        if "count" in call["arguments"]:
            found.setdefault(kinds_shown[call["arguments"]["count"] - 1], set()).add(call["name"])
    assert found == counted


def test_trees_behind_are_plants_of_the_picture():
    """"The plant in the picture" is none of many."""
    shown = (Item("mushroom", 0.5, 0.5, 0.3), Item("cat", 0.5, 0.5, 0.3))
    for place, found in (("farm", {"mushroom", "cat"}), ("forest", {"cat"})):
        made = [one for seed in range(40) for one in scene_actions(random.Random(seed), Scene(place, "noto", shown), "en", 10)]
        assert {one.calls[0]["arguments"]["query"] for one in made if one.calls[0]["name"] == "web_search"} == found


def test_the_animal_is_only_said_where_there_is_one_kind(actions):
    for action in actions:
        animals = {item.kind for item in action.scene.items if kinds()[item.kind].group == "animal"}
        name = action.calls[0]["name"]
        if name == "animal_care":
            assert len(animals) == 1
        if name == "irrelevant" and action.request in sum(SENTENCES["animal_care"], ()):
            assert not animals


def test_the_far_left_is_clearly_the_far_left(actions):
    checked = 0
    for action in actions:
        if "far left" in action.request and action.calls[0]["name"] != "irrelevant":
            first, *rest = sorted(action.scene.items, key=lambda item: item.x)
            others = [item.x for item in rest if item.kind != first.kind]
            assert first.kind in action.calls[0]["arguments"].values() and min(others) - first.x >= 0.1
            checked += 1
    assert checked > 10


def test_further_requests_about_a_scene_are_of_other_functions_and_read_from_it(actions):
    rng, found = random.Random(2), []
    for first in actions[:200]:
        more = further_actions(rng, first, 2)
        names = [action.calls[0]["name"] for action in (first, *more)]
        real = [name for name in names if name != "irrelevant"]
        assert len(more) <= 2 and len(set(real)) == len(real)
        assert all(action.scene == first.scene and action.language == first.language for action in more)
        found += more
    assert len(found) > 300 and {action.calls[0]["name"] for action in found} == set(TOOLS)
    test_calls_keep_to_the_schemas(found)
    test_arguments_are_in_the_picture_and_not_in_the_request(found)


def test_held_out_requests_are_drawn_in_the_held_out_style():
    rng = random.Random(1)
    assert {make_action(rng, "eval_held_out").scene.style for _ in range(20)} == {"openmoji"}
    assert {make_action(rng, "eval").scene.style for _ in range(40)} == {"noto", "twemoji"}


def test_requests_repeat_from_the_seed():
    assert make_action(random.Random("1/eval/4"), "eval", "zh") == make_action(random.Random("1/eval/4"), "eval", "zh")
