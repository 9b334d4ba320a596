"""Captions of scenes: every fact once, objects from left to right, one wording."""

from __future__ import annotations

from omnivision.world.truth import Item, Scene
from omnivision.world.vocabulary import NUMBERS, NUMBERS_ZH, article, color_name, kinds, places

DESCRIBE = {"en": "Describe the image.", "zh": "描述这张图片。"}  # asks for `caption`
LAYOUT = {"en": "What is where in the image?", "zh": "图中各处有什么？"}  # asks for `layout`
CELLS = ("top left", "top", "top right", "left", "center", "right", "bottom left", "bottom", "bottom right")
CELLS_ZH = ("左上", "上方", "右上", "左侧", "中间", "右侧", "左下", "下方", "右下")


def cell(item: Item) -> int:
    """Which of the nine cells (see CELLS) holds the item's centre."""
    return 3 * min(2, int(item.y * 3)) + min(2, int(item.x * 3))


def kinds_in_order(scene: Scene) -> list[str]:
    """The kinds of a scene by their leftmost object, from left to right."""
    leftmost: dict[str, tuple[float, float]] = {}
    for item in scene.items:
        at = (item.x, item.y)
        leftmost[item.kind] = min(at, leftmost.get(item.kind, at))
    return sorted(leftmost, key=leftmost.get)


def layout(scene: Scene, language: str = "en") -> str:
    """Every object with its cell, row by row: "top left: red cat; center: apple"; 左上：红色的猫；中间：苹果."""
    zh = language == "zh"
    parts = []
    for item in sorted(scene.items, key=lambda item: (cell(item), item.x, item.y)):
        noun = kinds()[item.kind].name(language)
        color = color_name(item.color, language) + ("的" if zh else " ") if item.color else ""
        parts.append(f"{(CELLS_ZH if zh else CELLS)[cell(item)]}{'：' if zh else ': '}{color}{noun}")
    return ("；" if zh else "; ").join(parts)


def object_phrase(kind: str, count: int, color: str | None, language: str = "en") -> str:
    """"a red cat", "two apples"; 一只红色的猫, 两个苹果."""
    noun = kinds()[kind].name(language, count)
    if language == "zh":
        return f"{NUMBERS_ZH[count]}{kinds()[kind].measure}{color_name(color, 'zh') + '的' if color else ''}{noun}"
    described = f"{color} {noun}" if color else noun
    return f"{article(described) if count == 1 else NUMBERS[count]} {described}"


def caption(scene: Scene, language: str = "en") -> str:
    """One sentence (two with a sign): "A red cat, two apples and a dog on a street."""
    phrases = []
    for kind in kinds_in_order(scene):
        items = [item for item in scene.items if item.kind == kind]
        phrases.append(object_phrase(kind, len(items), items[0].color, language))
    place = places()[scene.place]
    if language == "zh":
        text = f"{place.phrase_zh}有{_join(phrases, '、', '和')}。"
        return text + (f"牌子上写着{scene.sign}。" if scene.sign else "")
    text = f"{_join(phrases, ', ', ' and ')} {place.phrase}."
    return text[0].upper() + text[1:] + (f" The sign says {scene.sign}." if scene.sign else "")


def _join(phrases: list[str], comma: str, last: str) -> str:
    return phrases[0] if len(phrases) == 1 else comma.join(phrases[:-1]) + last + phrases[-1]
