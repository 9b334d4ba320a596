"""The nouns of the embedded world: 160 kinds of object, the places they are seen in, six colours."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from functools import lru_cache
from importlib import resources

from omnivision.errors import DataError

COLORS_ZH = {"red": "红色", "orange": "橙色", "yellow": "黄色", "green": "绿色", "blue": "蓝色", "purple": "紫色"}
COLORS = tuple(COLORS_ZH)
NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
NUMBERS_ZH = ("零", "一", "两", "三", "四", "五", "六", "七", "八", "九", "十")
SIGN_WORDS = tuple("OPEN CLOSED SALE EXIT STOP PARK CAFE HOTEL BANK SHOP TAXI BOOKS FRESH HOT COLD NEW FREE "
                   "QUIET PUSH PULL ENTER WAIT SLOW NORTH SOUTH EAST WEST START LUNCH MUSIC".split())


@dataclass(frozen=True)
class Kind:
    """One kind of object.

    Args:
        char: the emoji whose art draws it.
        en, zh, plural: its names; `en` is the key used everywhere.
        measure: the Chinese measure word (只, 辆, 个 ...).
        group: animal, plant, food, container, utensil, vehicle, street, sport, clothing, furniture or thing.
        flags: what one can do with it: grocery, furniture, decor, shop (sold in shops); pair: English knows it in the plural only.
        bin: the recycling bin it belongs in, where it is rubbish: plastic, paper, glass, metal, organic, electronic.
    """

    char: str
    en: str
    zh: str
    plural: str
    measure: str
    group: str
    flags: tuple[str, ...] = ()
    bin: str | None = None

    def name(self, language: str = "en", count: int = 1) -> str:
        """The bare noun in a language, in the number asked for."""
        return self.zh if language == "zh" else self.plural if count > 1 else self.en


@dataclass(frozen=True)
class Place:
    """Where scenes are set: its names, its phrase ("in a kitchen") and how often each kind is seen there."""

    en: str
    zh: str
    phrase: str
    phrase_zh: str
    weights: dict[str, int] = field(hash=False)

    def name(self, language: str = "en") -> str:
        return self.zh if language == "zh" else self.en


@lru_cache(maxsize=1)
def _load() -> tuple[dict[str, Kind], dict[str, Place]]:
    source = resources.files("omnivision.world") / "vocabulary.json"
    raw = json.loads(source.read_text(encoding="utf-8"))
    places = {
        name: Place(name, row["zh"], row["phrase"], row["phrase_zh"], row["kinds"]) for name, row in raw["places"].items()
    }
    kinds = {}
    for row in raw["kinds"]:
        row = dict(row)
        row["flags"] = tuple(row.get("flags", ()))
        kinds[row["en"]] = Kind(**row)
    strangers = {name for place in places.values() for name in place.weights} - kinds.keys()
    if strangers:
        raise DataError(f"places name kinds that are not in the list: {sorted(strangers)}", "vocabulary.json")
    return kinds, places


def kinds() -> dict[str, Kind]:
    """All kinds by English name."""
    return _load()[0]


def places() -> dict[str, Place]:
    """All places by English name."""
    return _load()[1]


def color_name(color: str, language: str = "en") -> str:
    """A colour in a language."""
    return COLORS_ZH[color] if language == "zh" else color


def article(noun: str) -> str:
    """"a" or "an", by the first letter (our nouns have no silent h and no spoken "you")."""
    return "an" if noun[:1].lower() in "aeiou" else "a"
