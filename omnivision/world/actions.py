"""Requests for actions whose arguments can only be read from the picture, with the true call.

A request never names what it is about: "the object on the far left", "the person on the sign". It is made only where
the picture leaves one reading.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, replace

from .action_words import REFERENCES, SENTENCES
from .art import HELD_OUT_STYLE, TRAIN_STYLES
from .negatives import BEHIND, ambiguous
from .scene import make_scene
from .sign import NAMES
from .truth import Scene
from .vocabulary import Kind, kinds

IRRELEVANT_SHARE = 0.1
CLEAR = 0.10  # an object is the leftmost only if every other kind is this far behind, in parts of the side
Found = tuple[dict, dict[str, str]]  # arguments of the call, words of the sentence


@dataclass(frozen=True)
class Action:
    """A request about a scene and the calls it should lead to: [{"name", "arguments"}]."""

    scene: Scene
    request: str
    language: str
    calls: tuple[dict, ...]


def make_action(rng: random.Random, split: str, language: str = "en") -> Action:
    """A scene, a request about it and the true call.

    Args:
        rng: the only source of chance.
        split: "eval_held_out" is drawn in the held-out style, anything else in the others.
        language: of the request; names and values in the call are English in any case.
    """
    styles = (HELD_OUT_STYLE,) if split == "eval_held_out" else TRAIN_STYLES
    if rng.random() < IRRELEVANT_SHARE:
        return _irrelevant(rng, styles, language)
    name = rng.choice(tuple(_MAKERS))
    places, signed, make = _MAKERS[name]
    for _ in range(5000):
        scene = _scene(rng, styles, places, signed)
        found = make(rng, scene, language)
        if found:
            arguments, words = found
            request = _wording(rng, name, language, words)
            return Action(scene, request, language, ({"name": name, "arguments": arguments},))
    raise AssertionError(f"no scene in 5000 serves {name}")


def further_actions(rng: random.Random, first: Action, count: int) -> list[Action]:
    """Up to `count` other requests about the scene of an action, see scene_actions."""
    return scene_actions(rng, first.scene, first.language, count, without=first.calls[0]["name"])


def scene_actions(rng: random.Random, scene: Scene, language: str, count: int, without: str = "") -> list[Action]:
    """Up to `count` requests about a scene, each of another function and none of the function `without`.

    A request is made only where it has one reading in this scene. A web search nearly always has one, so it comes last.
    """
    found = []
    for name in sorted(rng.sample(list(_MAKERS), len(_MAKERS)), key=lambda name: name == "web_search"):
        _, signed, make = _MAKERS[name]
        if len(found) == count or name == without or (signed and scene.sign is None):
            continue
        arguments, words = make(rng, scene, language) or (None, {})
        if arguments is None:
            continue
        if rng.random() < IRRELEVANT_SHARE:
            name, arguments, words = "irrelevant", {}, {}
        if name == "irrelevant" and scene.sign is None and rng.random() < 0.5:
            request = _request_for_nothing(rng, scene, language)
        else:
            request = _wording(rng, name, language, words)
        found.append(Action(scene, request, language, ({"name": name, "arguments": arguments},)))
    return found


def pointing_actions(rng: random.Random, scene: Scene, language: str = "en") -> list[Action]:
    """A web search for each object that lies farthest to a side of the scene."""
    asked = []
    for kind, word in _farthest(scene):
        request = _wording(rng, "web_search", language, {"ref": REFERENCES[word][language == "zh"]})
        asked.append(Action(scene, request, language, ({"name": "web_search", "arguments": {"query": kind}},)))
    return asked


def counting_actions(rng: random.Random, scene: Scene, language: str = "en") -> list[Action]:
    """Requests whose calls say how many there are: a message about each kind that is no `ambiguous` one to the person on the sign, and orders of food."""
    asked = []
    for kind in _countable(scene) if scene.sign else ():
        words = _count_words(kind, language)
        asked.append(("send_message", {"recipient": scene.sign, "count": _counts(scene)[kind]}, words))
    for name, make in (("order_groceries", _order_groceries), ("order_food", _order_food)):
        if found := make(rng, scene, language):
            asked.append((name, *found))
    return [Action(scene, _wording(rng, name, language, words), language, ({"name": name, "arguments": arguments},)) for name, arguments, words in asked]


def _wording(rng: random.Random, name: str, language: str, words: dict[str, str]) -> str:
    """One of the sentences that ask for a function, with its words filled in."""
    return rng.choice(SENTENCES[name][language == "zh"]).format(**words)


def _scene(rng: random.Random, styles: tuple[str, ...], places: tuple[str, ...] | None, signed: bool) -> Scene:
    scene = make_scene(rng, rng.choice(styles), places, min_kinds=2, max_kinds=4, max_items=6, with_sign=signed)
    return replace(scene, sign=rng.choice(NAMES)) if signed else scene


def _irrelevant(rng: random.Random, styles: tuple[str, ...], language: str) -> Action:
    """Either something no function serves, or an action whose object is not in the picture."""
    call = ({"name": "irrelevant", "arguments": {}},)
    if rng.random() < 0.5:
        scene = _scene(rng, styles, None, rng.random() < 0.2)
        return Action(scene, _wording(rng, "irrelevant", language, {}), language, call)
    scene = _scene(rng, styles, None, False)
    return Action(scene, _request_for_nothing(rng, scene, language), language, call)


def _request_for_nothing(rng: random.Random, scene: Scene, language: str) -> str:
    """A request for an action whose object a scene without a sign does not show."""
    shown = [kinds()[item.kind] for item in scene.items]
    tests = (("animal_care", _is_animal), ("order_food", _is_edible), ("order_groceries", _is_edible))
    absent = [name for name, test in tests if not any(map(test, shown))]
    name = rng.choice((*absent, "send_email", "send_message"))
    words = _count_words(rng.choice(sorted(_counts(scene))), language) if name == "send_message" else {}
    ref = _pointed(rng, scene, language)
    words["ref"] = ref[1] if ref else REFERENCES["left"][language == "zh"]
    return _wording(rng, name, language, words)


def _is_animal(kind: Kind) -> bool:
    return kind.group == "animal"


def _is_edible(kind: Kind) -> bool:
    """What one may order: food, and groceries of other groups such as bottles."""
    return kind.group == "food" or "grocery" in kind.flags


def _counts(scene: Scene) -> dict[str, int]:
    found: dict[str, int] = {}
    for item in scene.items:
        found[item.kind] = found.get(item.kind, 0) + 1
    return found


def _countable(scene: Scene) -> list[str]:
    return sorted({item.kind for item in scene.items} - ambiguous(scene))


def _only(scene: Scene, test: Callable[[object], bool]) -> str | None:
    """The one kind in the scene and its background that passes a test, or None where none or several do."""
    passing = [name for name in {*_counts(scene), *BEHIND.get(scene.place, ())} if test(kinds()[name])]
    return passing[0] if len(passing) == 1 else None


def _farthest(scene: Scene) -> list[tuple[str, str]]:
    """(kind, side) of each object that lies clearly farther to that side than any of another kind."""
    found = []
    for word, axis, sign in (("left", "x", 1), ("right", "x", -1), ("top", "y", 1), ("bottom", "y", -1)):
        order = sorted(scene.items, key=lambda item: sign * getattr(item, axis))
        rest = [item for item in order if item.kind != order[0].kind]
        if rest and sign * (getattr(rest[0], axis) - getattr(order[0], axis)) >= CLEAR:
            found.append((order[0].kind, word))
    return found


def _pointed(rng: random.Random, scene: Scene, language: str, groups: bool = True) -> tuple[str, str] | None:
    """A kind and a phrase that can mean nothing else: an extreme position, or the only one of its group."""
    found = _farthest(scene)
    for group in ("animal", "vehicle", "plant", "food") if groups else ():
        only = _only(scene, lambda kind: kind.group == group)
        if only:
            found.append((only, group))
    if not found:
        return None
    kind, word = rng.choice(found)
    return kind, REFERENCES[word][language == "zh"]


def _send_email(rng: random.Random, scene: Scene, language: str) -> Found | None:
    found = _pointed(rng, scene, language)
    return found and ({"recipient": scene.sign, "subject": found[0]}, {"ref": found[1]})


def _count_words(name: str, language: str) -> dict[str, str]:
    kind = kinds()[name]
    return {"things": kind.zh if language == "zh" else kind.plural, "measure": kind.measure}


def _send_message(rng: random.Random, scene: Scene, language: str) -> Found | None:
    countable = _countable(scene)
    if not countable:
        return None
    name = rng.choice(countable)
    return {"recipient": scene.sign, "count": _counts(scene)[name]}, _count_words(name, language)


def _web_search(rng: random.Random, scene: Scene, language: str) -> Found | None:
    found = _pointed(rng, scene, language)
    return found and ({"query": found[0]}, {"ref": found[1]})


def _shop(rng: random.Random, scene: Scene, language: str) -> Found | None:
    found = _pointed(rng, scene, language, groups=False)
    color = found and next(item.color for item in scene.items if item.kind == found[0])
    if not color or "shop" not in kinds()[found[0]].flags:
        return None
    return {"item": found[0], "color": color}, {"ref": found[1]}


def _recycle(rng: random.Random, scene: Scene, language: str) -> Found | None:
    found = _pointed(rng, scene, language, groups=False)
    if not found or not kinds()[found[0]].bin:
        return None
    return {"item": found[0], "bin": kinds()[found[0]].bin}, {"ref": found[1]}


def _report_lost_item(rng: random.Random, scene: Scene, language: str) -> Found | None:
    found = _pointed(rng, scene, language, groups=False)
    if not found or kinds()[found[0]].group not in ("thing", "clothing", "sport", "container", "utensil"):
        return None  # nobody loses a bus or a tree
    return {"item": found[0], "place": scene.place}, {"ref": found[1]}


def _interior_design(rng: random.Random, scene: Scene, language: str) -> Found | None:
    name = _only(scene, lambda kind: "furniture" in kind.flags or "decor" in kind.flags)
    if not name or _counts(scene)[name] > 1:
        return None
    x = next(item.x for item in scene.items if item.kind == name)
    if 0.28 < x < 0.4 or 0.6 < x < 0.72:
        return None  # neither clearly in the middle nor clearly at a side
    position = "left" if x <= 0.28 else "right" if x >= 0.72 else "middle"
    flag = "furniture" if "furniture" in kinds()[name].flags else "decor"
    return {"item": name, "position": position}, {"ref": REFERENCES[flag][language == "zh"]}


def _order_groceries(rng: random.Random, scene: Scene, language: str) -> Found | None:
    name = _only(scene, _is_edible)
    if name not in _countable(scene) or "grocery" not in kinds()[name].flags:
        return None
    return {"item": name, "count": _counts(scene)[name]}, {}


def _order_food(rng: random.Random, scene: Scene, language: str) -> Found | None:
    name = _only(scene, _is_edible)
    if name not in _countable(scene) or "grocery" in kinds()[name].flags:
        return None
    return {"dish": name, "count": _counts(scene)[name]}, {}


def _animal_care(rng: random.Random, scene: Scene, language: str) -> Found | None:
    name = _only(scene, lambda kind: kind.group == "animal")
    return name and ({"animal": name}, {})


_FOODS, _ROOMS = ("kitchen", "shop", "street", "living room", "farm", "office"), ("living room", "office", "kitchen", "workshop")
_MAKERS: dict[str, tuple[tuple[str, ...] | None, bool, Callable]] = {  # places to look in, with a sign, maker
    "send_email": (None, True, _send_email),
    "send_message": (None, True, _send_message),
    "web_search": (None, False, _web_search),
    "shop": (None, False, _shop),
    "recycle": (("kitchen", "office", "workshop", "shop", "farm", "garden", "living room"), False, _recycle),
    "report_lost_item": (None, False, _report_lost_item),
    "interior_design": (_ROOMS, False, _interior_design),
    "order_groceries": (_FOODS, False, _order_groceries),
    "order_food": (_FOODS, False, _order_food),
    "animal_care": (None, False, _animal_care),
}
