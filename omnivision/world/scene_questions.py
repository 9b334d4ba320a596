"""Questions about scenes with true answers: at least half about existence, the rest about everything else."""

from __future__ import annotations

import random
from collections.abc import Callable

from omnivision.world.art import natural_colors
from omnivision.world.captions import kinds_in_order
from omnivision.world.negatives import adversarial_negatives, ambiguous, popular_negatives, random_negatives
from omnivision.world.scene_facts import RELATIONS, Asked, distance, items_of, kinds_asked_for, true_answer, wording
from omnivision.world.truth import QA, Item, Scene
from omnivision.world.vocabulary import COLORS, kinds

_CLEAR = 0.15  # two centres at least so far apart before "left of" is asked
_OFF_BORDER = 0.03  # a centre at least so far from a cell's border before "where" is asked
# How often each form is drawn among the questions that are not about existence.
_WEIGHTS = {"count": 5, "color": 4, "position": 4, "relation": 3, "beside": 2, "list": 3, "place": 2, "sign": 5, "caption": 1,
            "where_all": 1, "colored": 1}


def scene_questions(scene: Scene, rng: random.Random, language: str = "en", count: int = 8, yes_share: float = 0.5) -> list[QA]:
    """`count` different questions with true answers, in random order.

    Half of the absent objects that existence questions ask for are frequent companions of what is there. `QA.kind` is the form,
    `QA.meta` what fills it.

    Args:
        yes_share: of the existence questions that are true; where a scene has few kinds, or other questions run out, it
            comes out lower.
    """
    asked = _existence(scene, rng, language, (count + 1) // 2, yes_share)
    others = {form: make(scene, rng) for form, make in _OTHERS.items()}
    others = {form: choices for form, choices in others.items() if choices}
    while len(asked) < count and others:
        form = rng.choices(list(others), [_WEIGHTS[form] for form in others])[0]
        choices = others[form]
        fill = choices.pop(rng.randrange(len(choices)))
        asked.append(Asked(form, language, **fill))
        if not choices:
            del others[form]
    if len(asked) < count:
        known = {a.x for a in asked if a.form == "exist"}
        asked += [a for a in _existence(scene, rng, language, 2 * count) if a.x not in known][: count - len(asked)]
    rng.shuffle(asked)
    return [_qa(scene, a) for a in asked]


def open_questions(scene: Scene, rng: random.Random, language: str = "en", n: int = 3) -> list[QA]:
    """At most n open-ended questions (the oracle grades their answers in tenths); the description comes first."""
    asked = [Asked("caption", language)]
    pool = [Asked(form, language, **fill) for form in ("list", "where_all", "colored", "sign") for fill in _OTHERS[form](scene, rng)]
    pool += [Asked("beside", language, **fill) for fill in _beside(scene, rng, most=9)]
    asked += rng.sample(pool, min(len(pool), max(0, n - 1)))
    return [_qa(scene, a) for a in asked[:n]]


def existence_questions(scene: Scene, rng: random.Random, language: str = "en", count: int = 8) -> list[QA]:
    """`count` existence questions; the present kinds first, then absent ones as in scene_questions."""
    return [_qa(scene, asked) for asked in _existence(scene, rng, language, count)]


def lookup_questions(scene: Scene, rng: random.Random, language: str = "en") -> list[QA]:
    """Where each single object is, what colour each recoloured one has, how many there are of each kind; none of `ambiguous` kinds."""
    asked = [Asked(form, language, **fill) for form in ("position", "color") for fill in _OTHERS[form](scene, rng)]
    return [_qa(scene, a) for a in [*asked, *(Asked("count", language, kind) for kind in _definite(scene))]]


def _qa(scene: Scene, asked: Asked) -> QA:
    meta = {key: value for key, value in vars(asked).items() if value is not None and key not in ("form", "language")}
    return QA(wording(asked, scene), true_answer(scene, asked), asked.form, asked.language, meta)


def _existence(scene: Scene, rng: random.Random, language: str, count: int, yes_share: float = 0.5) -> list[Asked]:
    present = kinds_in_order(scene)
    yes = rng.sample(present, min(len(present), int(count * yes_share) + (count % 2 and rng.randrange(2))))
    wanted = count - len(yes)
    if yes_share > 0.5:
        wanted = min(wanted, round(len(yes) * (1 - yes_share) / yes_share))
    near = adversarial_negatives(scene, 2 * wanted + 6)
    no = rng.sample(near, (wanted + rng.randrange(2)) // 2)
    rest = [kind for kind in rng.sample(popular_negatives(scene, 30), wanted // 3) if kind not in no]
    rest += [kind for kind in random_negatives(scene, rng, 2 * wanted + 6) if kind not in no and kind not in rest]
    return [Asked("exist", language, kind) for kind in (*yes, *no, *rest[: wanted - len(no)])]


def _definite(scene: Scene) -> list[str]:
    """The kinds of which the picture shows as many as the scene has, in everybody's reading: "how many" and "the" ask for no others."""
    unclear = ambiguous(scene)
    return [kind for kind in kinds_in_order(scene) if kind not in unclear]


def _single(scene: Scene) -> dict[str, Item]:
    return {kind: items_of(scene, kind)[0] for kind in _definite(scene) if len(items_of(scene, kind)) == 1}


def _count(scene, rng):
    many = [kind for kind in _definite(scene) if kind not in _single(scene)]
    few = rng.sample(list(_single(scene)), min(1, len(_single(scene))))  # "1" must not be the answer to everything
    return [{"x": kind} for kind in (many + few)]


def _off_borders(item: Item) -> bool:
    return all(min(abs(at - 1 / 3), abs(at - 2 / 3)) > _OFF_BORDER for at in (item.x, item.y))


def _position(scene, rng):
    return [{"x": kind} for kind, item in _single(scene).items() if _off_borders(item)]


def _where_all(scene, rng):
    return [{"x": kind} for kind in _definite(scene) if kind not in _single(scene) and all(map(_off_borders, items_of(scene, kind)))]


def _relation(scene, rng):
    single, found = _single(scene), []
    for x, a in single.items():
        for y, b in single.items():
            if x < y and rng.random() < 0.5:
                x, y, a, b = y, x, b, a
            relation = rng.choice(list(RELATIONS))
            if x != y and abs(distance(a, b, relation)) >= _CLEAR:
                found.append({"x": x, "y": y, "relation": relation})
    unique = {frozenset((f["x"], f["y"])): f for f in found}
    return list(unique.values())[:3]


def _beside(scene, rng, most: int = 1):
    found = []
    for y, anchor in _single(scene).items():
        for relation in RELATIONS:
            gaps = [distance(item, anchor, relation) for item in scene.items if item.kind != y]
            if all(abs(gap) >= _CLEAR / 2 for gap in gaps):
                if 1 <= len(kinds_asked_for(scene, Asked("beside", "en", y=y, relation=relation))) <= most:
                    found.append({"y": y, "relation": relation})
    return found


def _colored(scene, rng):
    """Colours that were given, and that nothing else has by nature: a lemon is yellow, too."""
    used = {item.color for item in scene.items}
    natural = {color for item in scene.items if not item.color for color in natural_colors(kinds()[item.kind].char, scene.style)}
    return [{"color": color} for color in COLORS if color in used - natural]


_OTHERS: dict[str, Callable[[Scene, random.Random], list[dict]]] = {
    "count": _count,
    "color": lambda scene, rng: [{"x": kind} for kind in _definite(scene) if items_of(scene, kind)[0].color],
    "position": _position,
    "relation": _relation,
    "beside": _beside,
    "list": lambda scene, rng: [{}],
    "place": lambda scene, rng: [{}],
    "sign": lambda scene, rng: [{}] if scene.sign else [],
    "caption": lambda scene, rng: [{}],
    "where_all": _where_all,
    "colored": _colored,
}
