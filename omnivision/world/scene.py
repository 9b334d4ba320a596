"""Scenes: which objects stand where (`make_scene`, truth only, fast) and how they look (`draw_scene`)."""

from __future__ import annotations

import random
from collections.abc import Sequence
from functools import lru_cache
from itertools import accumulate

from PIL import Image, ImageDraw

from omnivision.world.art import crop_to_alpha, tinted
from omnivision.world.background import draw_background
from omnivision.world.fonts import font
from omnivision.world.truth import Item, Region, Scene
from omnivision.world.vocabulary import COLORS, SIGN_WORDS, kinds, places

STRAY = 0.15  # chance of one kind that does not belong to the place
COPIES = 0.35  # chance that a kind appears 2-4 times
TINTED = 0.4  # chance that a kind is recoloured
_SIGN_BOX = (0.46, 0.20)  # room kept free for a sign, fractions of the side
_SIZES = {2: (0.26, 0.40), 3: (0.26, 0.40), 4: (0.22, 0.34), 5: (0.22, 0.32)}  # by number of items; more: 0.20-0.28


@lru_cache(maxsize=None)
def _menu(place: str) -> tuple[list[str], list[int]]:
    weights = places()[place].weights
    return list(weights), list(accumulate(weights.values()))


@lru_cache(maxsize=1)
def _all_names() -> tuple[tuple[str, ...], tuple[str, ...]]:
    return tuple(places()), tuple(kinds())


def make_scene(
    rng: random.Random,
    style: str,
    places: Sequence[str] | None = None,
    min_kinds: int = 3,
    max_kinds: int = 5,
    max_items: int = 7,
    with_sign: bool = False,
) -> Scene:
    """Decide what a scene contains, without drawing it.

    Args:
        rng: the only source of chance.
        style: drawing style, see art.STYLES.
        places: places to choose from (default: all).
        min_kinds, max_kinds: how many different kinds of object.
        max_items: at most so many objects in all.
        with_sign: add a sign with a short word.
    Returns:
        A Scene; items of one kind share their colour; boxes overlap by at most about 15 %.
    """
    place = rng.choice(places or _all_names()[0])
    names = _choose_kinds(rng, place, rng.randint(min_kinds, max_kinds))
    spare = max_items - len(names)
    wanted: list[tuple[str, str | None]] = []
    for name in names:
        copies = min(spare, rng.randint(1, 3)) if spare > 0 and rng.random() < COPIES else 0
        spare -= copies
        color = rng.choice(COLORS) if rng.random() < TINTED else None
        wanted += [(name, color)] * (copies + 1)
    sign = rng.choice(SIGN_WORDS) if with_sign else None
    taken, sign_at = [], None
    if sign:
        half_w, half_h = _SIGN_BOX[0] / 2, _SIGN_BOX[1] / 2
        sign_at = (round(rng.uniform(half_w, 1 - half_w), 3), round(rng.uniform(half_h, 1 - half_h), 3))
        taken.append((sign_at[0] - half_w, sign_at[1] - half_h, sign_at[0] + half_w, sign_at[1] + half_h))
    low, high = _SIZES.get(len(wanted) + 2 * bool(sign), (0.20, 0.28))
    items = []
    for name, color in wanted:
        x, y, size = _find_room(rng, rng.uniform(low, high), taken)
        items.append(Item(name, round(x, 3), round(y, 3), round(size, 3), color))
    return Scene(place, style, tuple(items), rng.getrandbits(32), sign, sign_at)


def _choose_kinds(rng: random.Random, place: str, count: int) -> list[str]:
    names, bounds = _menu(place)
    chosen: dict[str, None] = {}
    if rng.random() < STRAY:
        chosen[rng.choice(_all_names()[1])] = None
    while len(chosen) < count:
        chosen[rng.choices(names, cum_weights=bounds)[0]] = None
    return list(chosen)


def _find_room(rng: random.Random, size: float, taken: list[tuple[float, float, float, float]]) -> tuple[float, float, float]:
    """A place for a square; shrinks a little now and then, and settles for the least crowded spot in the end."""
    best = (9.0, 0.5, 0.5, size)
    for attempt in range(40):
        if attempt % 8 == 7:
            size = max(0.17, size * 0.9)
        x = size / 2 + rng.random() * (1 - size)
        y = size / 2 + rng.random() * (1 - size)
        x0, y0, x1, y1 = x - size / 2, y - size / 2, x + size / 2, y + size / 2
        worst = 0.0
        for a0, b0, a1, b1 in taken:
            wide, tall = min(x1, a1) - max(x0, a0), min(y1, b1) - max(y0, b0)
            if wide > 0 and tall > 0:
                worst = max(worst, wide * tall / min(size * size, (a1 - a0) * (b1 - b0)))
        if worst < best[0]:
            best = (worst, x, y, size)
        if worst <= 0.10:
            break
    _, x, y, size = best
    taken.append((x - size / 2, y - size / 2, x + size / 2, y + size / 2))
    return x, y, size


def draw_scene(scene: Scene, size: int = 216) -> tuple[Image.Image, list[Region]]:
    """Draw a scene.

    Args:
        scene: what to draw; its seed decides background, flips and turns.
        size: side of the square picture in pixels.
    Returns:
        The RGB picture and one Region per object (in the order of `scene.items`) and for the sign.
    """
    rng = random.Random(scene.seed)
    image = draw_background(scene.place, rng, size)
    regions: dict[int, Region] = {}
    for index in sorted(range(len(scene.items)), key=lambda i: scene.items[i].y + scene.items[i].size / 2):  # far first
        item = scene.items[index]
        drawing = _drawing(item, scene.style, rng.random() < 0.5, rng.uniform(-12, 12), max(2, round(item.size * size)))
        x = min(max(0, round(item.x * size - drawing.width / 2)), size - drawing.width)
        y = min(max(0, round(item.y * size - drawing.height / 2)), size - drawing.height)
        image.paste(drawing, (x, y), drawing)
        label = f"{item.color} {item.kind}" if item.color else item.kind
        regions[index] = Region((x, y, x + drawing.width, y + drawing.height), label, "object")
    found = [regions[i] for i in range(len(scene.items))]
    if scene.sign:
        found.append(_draw_sign(image, scene, rng))
    return image, found


def _drawing(item: Item, style: str, flip: bool, angle: float, side: int) -> Image.Image:
    """The sprite of an item, flipped, turned, and scaled so that its longer side has `side` pixels."""
    drawing = tinted(kinds()[item.kind].char, style, item.color)
    if flip:
        drawing = drawing.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    drawing = crop_to_alpha(drawing.rotate(angle, Image.Resampling.BILINEAR, expand=True))
    scale = side / max(drawing.size)
    shape = (max(1, round(drawing.width * scale)), max(1, round(drawing.height * scale)))
    return drawing.resize(shape, Image.Resampling.BICUBIC)


def _draw_sign(image: Image.Image, scene: Scene, rng: random.Random) -> Region:
    draw, size = ImageDraw.Draw(image), image.width
    dark, light = rng.choice([((30, 40, 90), (246, 246, 240)), ((120, 20, 24), (252, 244, 236)), ((16, 78, 48), (250, 250, 240)),
                              ((36, 36, 40), (250, 226, 120))])
    ink, board = (dark, light) if rng.random() < 0.5 else (light, dark)
    letters = font("aileron", max(8, round(size * 0.11)))  # capitals about 17 px tall at 216
    x0, y0, x1, y1 = letters.getbbox(scene.sign)
    pad = round(size * 0.022)
    wide, tall = x1 - x0 + 2 * pad, y1 - y0 + 2 * pad
    left = min(max(0, round(scene.sign_at[0] * size - wide / 2)), size - wide)
    top = min(max(0, round(scene.sign_at[1] * size - tall / 2)), size - tall)
    draw.rectangle((left, top, left + wide - 1, top + tall - 1), fill=board, outline=ink, width=max(1, size // 108))
    draw.text((left + pad - x0, top + pad - y0), scene.sign, font=letters, fill=ink)
    return Region((left, top, left + wide, top + tall), scene.sign, "text")
