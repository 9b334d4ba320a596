"""The words the oracle understands, in both languages: patterns for names, numbers, colours, positions and places."""

from __future__ import annotations

import re
from functools import lru_cache

from omnivision.world.scene_facts import CELLS, CELLS_ZH, alternatives, names_table
from omnivision.world.vocabulary import COLORS_ZH, NUMBERS, kinds, places

_DIGITS_ZH = {"零": 0, "一": 1, "二": 2, "两": 2, "三": 3, "四": 4, "五": 5, "六": 6, "七": 7, "八": 8, "九": 9, "十": 10}
_POSITIONS_EN = {"upper": "top", "lower": "bottom", "middle": "center", "centre": "center"}
_POSITIONS_ZH = {"左上方": 0, "左上角": 0, "上面": 1, "上边": 1, "右上方": 2, "右上角": 2, "左边": 3, "左侧": 3, "右边": 5, "中央": 4,
                 "中心": 4, "左下方": 6, "左下角": 6, "下面": 7, "下边": 7, "右下方": 8, "右下角": 8}
_FUNCTION = set("""a an the and or of in on at to with there is are it its this that image picture photo scene shows show
shown showing contains has have i see can says sign reads objects object yes no not none color colour left right above
below next side corner placed located also both one etc too as well other others more things
图 中 有 的 在 这 是 了 里 上 下 和 与 还 没 不 片 张 幅 个 牌 子 写 着 颜 色 东 西 物 体 地 方 左 右 边 面 它 们 共 一 及""".split())


@lru_cache(maxsize=2)
def number_words(language: str) -> dict[str, int]:
    """Written number -> value (digits are matched apart)."""
    return dict(_DIGITS_ZH) if language == "zh" else {word: value for value, word in enumerate(NUMBERS)}


@lru_cache(maxsize=2)
def position_words(language: str) -> dict[str, int]:
    """Written position -> cell."""
    if language == "zh":
        return {word: at for at, word in enumerate(CELLS_ZH)} | _POSITIONS_ZH
    table = {word: at for at, word in enumerate(CELLS)}
    table |= {"center left": 3, "center right": 5, "top center": 1, "bottom center": 7}
    for other, word in _POSITIONS_EN.items():
        table |= {name.replace(word, other): at for name, at in list(table.items()) if word in name}
    return table | {name.replace(" ", "-"): at for name, at in table.items() if " " in name}


@lru_cache(maxsize=2)
def color_words(language: str) -> dict[str, str]:
    """Written colour -> colour."""
    return {zh: en for en, zh in COLORS_ZH.items()} if language == "zh" else {en: en for en in COLORS_ZH}


@lru_cache(maxsize=2)
def place_words(language: str) -> dict[str, str]:
    """Written place -> place."""
    return {place.name(language): name for name, place in places().items()}


@lru_cache(maxsize=16)
def pattern_for(what: str, language: str) -> re.Pattern:
    """A pattern whose whole match is one number, colour, position or place."""
    table = {"count": number_words, "color": color_words, "position": position_words, "place": place_words}[what](language)
    words = alternatives(table)
    if language == "zh":
        return re.compile(rf"[0-9]+|{words}" if what == "count" else words)
    return re.compile(rf"\b(?:[0-9]+|{words})\b" if what == "count" else rf"\b(?:{words})\b", re.IGNORECASE)


def value_of(what: str, word: str, language: str):
    """The meaning of a match of `pattern_for`."""
    if what == "count" and word.isascii() and word.isdigit():
        return int(word[:9])  # longer ones are wrong anyway, and Python limits the digits it converts
    table = {"count": number_words, "color": color_words, "position": position_words, "place": place_words}[what](language)
    return table[word.lower()]


@lru_cache(maxsize=2)
def mention_pattern(language: str) -> re.Pattern:
    """Groups count, color, name (and measure in Chinese) of one noun phrase."""
    names, numbers = alternatives(names_table(language)), alternatives(number_words(language))
    colors = alternatives(color_words(language))
    if language == "zh":
        measures = alternatives({kind.measure for kind in kinds().values()} | {"个"})
        return re.compile(rf"(?:(?P<count>[0-9]+|{numbers})(?P<measure>{measures}))?(?:(?P<color>{colors})的?)?(?P<name>{names})")
    # "can see" and "saw a" are verbs, not tins and tools.
    return re.compile(
        rf"(?:\b(?P<count>an?|[0-9]+|{numbers})\s+)?(?:\b(?P<color>{colors})\s+)?"
        rf"\b(?P<name>(?!can\s+(?:see|be|find|also)\b)(?!saw\s+(?:an?|the|[a-z]+s)\b)(?:{names}))\b",
        re.IGNORECASE,
    )


@lru_cache(maxsize=1)
def _lexicon() -> tuple[frozenset[str], re.Pattern]:
    english = set(_FUNCTION)
    chinese = {kind.measure for kind in kinds().values()} | {word for word in _FUNCTION if not word.isascii()}
    for table in (names_table, number_words, position_words, color_words, place_words):
        english |= {part for word in table("en") for part in re.findall(r"[a-z]+", word)}
        chinese |= set(table("zh"))
    return frozenset(english), re.compile(alternatives(chinese))


def readable(text: str, most_unknown: float = 0.5) -> bool:
    """Whether fewer than half of the words (or a given share) are strangers; anything else is not worth editing."""
    if len(text) > 1000:
        return False
    known, strangers = _counted(text)
    return known > 0 and strangers <= most_unknown * (known + strangers - 1)


def _counted(text: str) -> tuple[int, int]:
    """How many words the oracle knows, and how many it does not; Chinese counts by the character."""
    words, chinese = _lexicon()
    known, strangers = sum(len(match.group()) for match in chinese.finditer(text)), 0
    for token in re.findall(r"[^\W\d_]+|\d+", chinese.sub(" ", text)):
        if token.isdigit() or token.lower() in words:
            known += 1
        else:
            strangers += 1 if token.isascii() else len(token)
    return known, strangers


def has_strangers(text: str) -> bool:
    """Whether a text has a word that the oracle does not know."""
    return _counted(text)[1] > 0


def all_known(text: str) -> bool:
    """Whether a text consists only of words the oracle understands, and of at least one."""
    return readable(text, 1e-9) if text.strip() else False
