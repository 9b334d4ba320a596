"""Questions about scenes as data: their one wording each, reading them back, and the true answer.

The same table writes the questions and reads them, so the oracle can judge an answer from the question's text alone.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

from omnivision.world.captions import CELLS, CELLS_ZH, caption, cell, kinds_in_order
from omnivision.world.truth import Item, Scene
from omnivision.world.vocabulary import COLORS_ZH, article, color_name, kinds, places

# form -> wording by language. {x}, {y}: objects; {xs}: plural; {a}: article with its space; {r}: relation; {c}: colour; {is}, {Is}: is/are.
FORMS = {
    "exist": {"en": "{Is} there {a}{x} in the image?", "zh": "图中有{x}吗？"},
    "count": {"en": "How many {xs} are there?", "zh": "图中有几个{x}？"},
    "color": {"en": "What color {is} the {xs}?", "zh": "{x}是什么颜色的？"},
    "position": {"en": "Where {is} the {x}?", "zh": "{x}在哪里？"},
    "relation": {"en": "{Is} the {x} {r} the {y}?", "zh": "{x}在{y}的{r}吗？"},
    "beside": {"en": "What is {r} the {y}?", "zh": "{y}的{r}是什么？"},
    "list": {"en": "What objects are in the image?", "zh": "图中有哪些东西？"},
    "place": {"en": "What place is this?", "zh": "这是什么地方？"},
    "sign": {"en": "What does the sign say?", "zh": "牌子上写着什么？"},
    "caption": {"en": "Describe the image.", "zh": "描述这张图片。"},
    "where_all": {"en": "How many {xs} are there and where are they?", "zh": "图中有几个{x}，分别在哪里？"},
    "colored": {"en": "Which objects are {c}?", "zh": "哪些东西是{c}的？"},
}
RELATIONS = {"left of": "左边", "right of": "右边", "above": "上面", "below": "下面"}
YES_NO = {"exist": {"en": ("Yes", "No"), "zh": ("有", "没有")}, "relation": {"en": ("Yes", "No"), "zh": ("是", "不是")}}


@dataclass(frozen=True)
class Asked:
    """A question's meaning: its form and what fills it (x, y: kinds; relation, color: English words)."""

    form: str
    language: str = "en"
    x: str | None = None
    y: str | None = None
    relation: str | None = None
    color: str | None = None


def wording(asked: Asked, scene: Scene | None = None) -> str:
    """The question's text. With a scene, the colour question takes the number of objects into account."""
    language = asked.language
    fill = {}
    if asked.x:
        many = 2 if scene is None or len(items_of(scene, asked.x)) != 1 else 1
        kind = kinds()[asked.x]
        pair, number = "pair" in kind.flags, many if asked.form == "color" else 2
        fill |= {"x": kind.name(language), "xs": kind.name(language, number), "a": "" if pair else f"{article(kind.en)} "}
        fill["is"] = "are" if pair or (asked.form == "color" and number > 1) else "is"
        fill["Is"] = fill["is"].capitalize()
    if asked.y:
        fill["y"] = kinds()[asked.y].name(language)
    if asked.relation:
        fill["r"] = RELATIONS[asked.relation] if language == "zh" else asked.relation
    if asked.color:
        fill["c"] = color_name(asked.color, language)
    return FORMS[asked.form][language].format(**fill)


@lru_cache(maxsize=2)
def names_table(language: str) -> dict[str, str]:
    """Every written name (both numbers) in lower case -> kind."""
    table = {}
    for kind in kinds().values():
        for name in (kind.zh,) if language == "zh" else (kind.plural, kind.en):
            table[name.lower()] = kind.en
    return table


def alternatives(words) -> str:
    """A pattern for any of the words, longest first."""
    return "|".join(re.escape(word) for word in sorted(words, key=len, reverse=True))


@lru_cache(maxsize=1)
def _readers() -> list[tuple[str, str, re.Pattern]]:
    readers = []
    for form, wordings in FORMS.items():
        for language, text in wordings.items():
            name = alternatives(names_table(language))
            relation = alternatives(RELATIONS.values() if language == "zh" else RELATIONS)
            color = alternatives(COLORS_ZH.values() if language == "zh" else COLORS_ZH)
            slots = {"x": f"(?P<x>{name})", "xs": f"(?P<x>{name})", "y": f"(?P<y>{name})", "a": "(?:an? )?", "r": f"(?P<r>{relation})",
                     "c": f"(?P<c>{color})", "is": "(?:is|are)", "Is": "(?:is|are)"}
            pattern = "".join(slots[part[1:-1]] if part.startswith("{") else re.escape(part) for part in re.split(r"(\{\w+\})", text))
            readers.append((form, language, re.compile(pattern, re.IGNORECASE)))
    return readers


@lru_cache(maxsize=4096)
def read_question(text: str) -> Asked | None:
    """The meaning of a question in one of our wordings (an instruction on a second line is ignored), or None."""
    first = text.strip().split("\n")[0].strip()
    for form, language, pattern in _readers():
        match = pattern.fullmatch(first)
        if match:
            got = match.groupdict()
            names, relation, color = names_table(language), got.get("r"), got.get("c")
            if language == "zh":
                relation = next((en for en, zh in RELATIONS.items() if zh == relation), None)
                color = next((en for en, zh in COLORS_ZH.items() if zh == color), None)
            x, y = (names[got[slot].lower()] if got.get(slot) else None for slot in "xy")
            return Asked(form, language, x, y, relation.lower() if relation else None, color.lower() if color else None)
    return None


def items_of(scene: Scene, kind: str) -> list[Item]:
    """The items of a kind, from left to right."""
    return sorted((item for item in scene.items if item.kind == kind), key=lambda item: (item.x, item.y))


def distance(a: Item, b: Item, relation: str) -> float:
    """How far a is "left of" (or another relation) b; positive where the relation holds."""
    along = {"left of": b.x - a.x, "right of": a.x - b.x, "above": b.y - a.y, "below": a.y - b.y}
    return along[relation]


def kinds_asked_for(scene: Scene, asked: Asked) -> list[str]:
    """The kinds that answer a question for objects (list, caption, beside, colored), from left to right."""
    if asked.form == "beside":
        anchor = items_of(scene, asked.y)[:1]
        return [k for k in kinds_in_order(scene) if k != asked.y
                and any(distance(item, a, asked.relation) > 0 for item in items_of(scene, k) for a in anchor)]
    if asked.form == "colored":
        return [kind for kind in kinds_in_order(scene) if items_of(scene, kind)[0].color == asked.color]
    return kinds_in_order(scene)


def holds(scene: Scene, asked: Asked) -> bool | None:
    """Whether the answer to a yes/no question is yes; None if it speaks of objects that are not there."""
    if asked.form == "exist":
        return bool(items_of(scene, asked.x))
    x, y = items_of(scene, asked.x), items_of(scene, asked.y)
    return distance(x[0], y[0], asked.relation) > 0 if x and y else None


def true_answer(scene: Scene, asked: Asked) -> str | None:
    """The answer in our wording, or None where the question has none (a colour nobody set, an absent object)."""
    zh, form = asked.language == "zh", asked.form
    if form in YES_NO:
        yes = holds(scene, asked)
        return None if yes is None else YES_NO[form][asked.language][0 if yes else 1]
    if form in ("list", "beside", "colored"):
        named = [kinds()[k].name(asked.language) for k in kinds_asked_for(scene, asked)]
        return ("、" if zh else ", ").join(named) or None
    if form == "caption":
        return caption(scene, asked.language)
    if form == "place":
        return places()[scene.place].name(asked.language)
    if form == "sign":
        return scene.sign
    found = items_of(scene, asked.x)
    if form == "count":
        return str(len(found))
    if not found:
        return None
    cells = CELLS_ZH if zh else CELLS
    if form == "color":
        return color_name(found[0].color, asked.language) if found[0].color else None
    if form == "position":
        return cells[cell(found[0])] if len(found) == 1 else None
    where = ("、" if zh else ", ").join(cells[cell(item)] for item in found)
    return f"{len(found)}个：{where}" if zh else f"{len(found)}: {where}"  # where_all
