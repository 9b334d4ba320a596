"""What lies behind the objects of a scene: each place has its own colours and simple shapes, varied by a seed."""

from __future__ import annotations

import random
from functools import lru_cache

from PIL import Image, ImageChops, ImageDraw

# place -> colour at the top, colour at the horizon, ground near, ground far, height of the horizon (fraction)
_GROUND = {
    "kitchen": ((226, 232, 226), (240, 240, 232), (196, 160, 122), (178, 140, 104), 0.62),
    "street": ((150, 190, 226), (214, 226, 236), (128, 130, 136), (104, 106, 112), 0.58),
    "farm": ((170, 212, 240), (226, 238, 240), (206, 190, 112), (186, 164, 84), 0.42),
    "beach": ((140, 204, 240), (206, 234, 246), (240, 222, 170), (228, 204, 146), 0.50),
    "garden": ((196, 226, 240), (226, 240, 226), (150, 200, 112), (122, 180, 90), 0.30),
    "office": ((204, 212, 224), (222, 226, 232), (158, 166, 178), (140, 148, 162), 0.66),
    "sports field": ((186, 214, 240), (214, 228, 240), (110, 182, 98), (92, 164, 84), 0.18),
    "living room": ((236, 214, 190), (242, 224, 204), (170, 116, 78), (150, 98, 64), 0.66),
    "forest": ((92, 134, 104), (126, 166, 124), (96, 116, 70), (80, 98, 58), 0.60),
    "savanna": ((248, 208, 140), (252, 228, 170), (216, 180, 98), (198, 158, 78), 0.55),
    "workshop": ((112, 120, 128), (130, 136, 142), (140, 106, 78), (118, 88, 64), 0.68),
    "shop": ((246, 226, 232), (250, 236, 240), (206, 200, 210), (192, 184, 198), 0.80),
}


def draw_background(place: str, rng: random.Random, size: int) -> Image.Image:
    """An RGB picture of an empty place.

    Args:
        place: a place of the vocabulary.
        rng: decides colours, horizon and the position of the shapes.
        size: side in pixels.
    """
    top, horizon, near, far, height = _GROUND[place]
    line = round(size * (height + rng.uniform(-0.06, 0.06)))
    shift = rng.randint(-14, 14)
    image = Image.new("RGB", (size, size))
    image.paste(_gradient(_shade(top, shift), _shade(horizon, shift), size, line), (0, 0))
    image.paste(_gradient(_shade(near, shift), _shade(far, shift), size, size - line), (0, line))
    _DETAILS[place](ImageDraw.Draw(image), rng, size, line, shift)
    grain = _grain(rng.randrange(6), size)
    return ImageChops.add(image, grain, 1, -128)


def _shade(color: tuple[int, int, int], shift: int) -> tuple[int, int, int]:
    return tuple(min(255, max(0, c + shift)) for c in color)



def _gradient(start, end, width: int, height: int) -> Image.Image:
    mask = Image.linear_gradient("L").resize((1, max(1, height))).resize((width, max(1, height)))
    return Image.composite(Image.new("RGB", mask.size, end), Image.new("RGB", mask.size, start), mask)


@lru_cache(maxsize=12)
def _grain(index: int, size: int) -> Image.Image:
    """Noise of several grain sizes around grey 128, so that flat areas are not perfectly flat."""
    rng = random.Random(index)
    coarse = 1 + index % 3
    small = max(1, size // coarse)
    noise = Image.frombytes("L", (small, small), bytes(min(255, max(0, round(rng.gauss(128, 5)))) for _ in range(small * small)))
    return Image.merge("RGB", [noise.resize((size, size), Image.Resampling.BILINEAR)] * 3)


def _kitchen(draw, rng, size, line, shift):
    step = round(size * rng.uniform(0.09, 0.14))
    for at in range(rng.randrange(step), size, step):  # wall tiles
        draw.line((at, 0, at, line), fill=_shade((206, 212, 206), shift))
    for at in range(line, 0, -step):
        draw.line((0, at, size, at), fill=_shade((206, 212, 206), shift))
    draw.rectangle((0, line, size, line + size // 40), fill=_shade((146, 112, 82), shift))


def _street(draw, rng, size, line, shift):
    left = 0
    while left < size:  # a row of house fronts with windows
        width, height = round(size * rng.uniform(0.14, 0.24)), round(size * rng.uniform(0.2, 0.42))
        tone = rng.choice([(188, 178, 170), (170, 180, 190), (200, 190, 176), (178, 170, 182)])
        draw.rectangle((left, line - height, left + width, line), fill=_shade(tone, shift))
        for x in range(left + size // 40, left + width - size // 30, size // 18):
            for y in range(line - height + size // 40, line - size // 30, size // 14):
                draw.rectangle((x, y, x + size // 45, y + size // 32), fill=_shade((216, 222, 226), shift))
        left += width
    y = (line + size) // 2
    for x in range(rng.randrange(size // 6) - size // 8, size, size // 5):
        draw.rectangle((x, y, x + size // 9, y + size // 60), fill=(226, 224, 206))


def _farm(draw, rng, size, line, shift):
    meet = rng.uniform(0.3, 0.7) * size
    for k in range(-8, 9):  # furrows towards one point
        draw.line((meet, line, meet + k * size * 0.22, size), fill=_shade((176, 152, 76), shift), width=max(1, size // 90))
    for x in range(0, size, size // 8):  # fence
        draw.rectangle((x, line - size // 16, x + size // 60, line + size // 50), fill=_shade((150, 116, 84), shift))
    draw.rectangle((0, line - size // 24, size, line - size // 32), fill=_shade((150, 116, 84), shift))


def _beach(draw, rng, size, line, shift):
    shore = round(line + size * rng.uniform(0.1, 0.18))
    draw.rectangle((0, line, size, shore), fill=_shade((64, 152, 200), shift))
    for _ in range(6):
        x, y = rng.randrange(size), rng.randrange(line, shore)
        draw.line((x, y, x + size // 10, y), fill=(206, 232, 240))
    draw.line((0, shore, size, shore), fill=(244, 246, 240), width=max(1, size // 70))


def _garden(draw, rng, size, line, shift):
    for x in range(-rng.randrange(size // 12), size, size // 12):  # white fence
        draw.rectangle((x, line - size // 9, x + size // 22, line + size // 40), fill=_shade((238, 236, 230), shift // 3))
    for _ in range(40):  # blades and blossoms
        x, y = rng.randrange(size), rng.randrange(line, size)
        draw.line((x, y, x, y - size // 40), fill=_shade((100, 158, 76), shift))


def _office(draw, rng, size, line, shift):
    left, width = round(size * rng.uniform(0.05, 0.3)), round(size * rng.uniform(0.4, 0.6))
    top, bottom = round(size * 0.08), round(line - size * 0.14)
    draw.rectangle((left, top, left + width, bottom), fill=_shade((190, 216, 234), shift), outline=(242, 244, 246), width=max(1, size // 50))
    for k in (1, 2):
        x = left + width * k // 3
        draw.line((x, top, x, bottom), fill=(242, 244, 246), width=max(1, size // 70))
    draw.rectangle((0, line, size, line + size // 50), fill=_shade((116, 124, 138), shift))


def _sports_field(draw, rng, size, line, shift):
    stripes = rng.randint(4, 7)
    for k in range(0, stripes, 2):  # mown stripes, wider towards the viewer
        y0, y1 = (line + (size - line) * (j / stripes) ** 1.3 for j in (k, k + 1))
        draw.rectangle((0, y0, size, y1), fill=_shade((126, 196, 110), shift))
    side = rng.uniform(0.1, 0.9) * size
    draw.line((side, line, side + rng.uniform(-0.4, 0.4) * size, size), fill=(240, 244, 238), width=max(1, size // 60))
    y = line + (size - line) // 3
    draw.line((0, y, size, y), fill=(240, 244, 238), width=max(1, size // 70))


def _living_room(draw, rng, size, line, shift):
    step = round(size * rng.uniform(0.08, 0.13))
    for at in range(rng.randrange(step), size, step):  # wallpaper
        draw.rectangle((at, 0, at + step // 3, line), fill=_shade((228, 202, 174), shift))
    draw.rectangle((0, line - size // 40, size, line), fill=_shade((248, 240, 228), shift // 2))
    tone = rng.choice([(196, 150, 136), (150, 160, 176), (206, 186, 140)])
    draw.ellipse((size * 0.1, line + size * 0.06, size * 0.9, size * 1.02), fill=_shade(tone, shift))


def _forest(draw, rng, size, line, shift):
    for _ in range(rng.randint(5, 8)):  # trunks
        x, width = rng.randrange(size), round(size * rng.uniform(0.03, 0.07))
        draw.rectangle((x, 0, x + width, line + rng.randrange(size // 12)), fill=_shade((98, 84, 68), shift))
    for _ in range(7):
        x, radius = rng.randrange(size), round(size * rng.uniform(0.06, 0.12))
        draw.ellipse((x - radius, -radius, x + radius, radius), fill=_shade((76, 118, 82), shift))


def _savanna(draw, rng, size, line, shift):
    x, radius = rng.randrange(size), round(size * rng.uniform(0.07, 0.12))
    draw.ellipse((x - radius, line - 2 * radius, x + radius, line), fill=(254, 238, 190))
    draw.rectangle((0, line, size, line + size // 60), fill=_shade((178, 140, 74), shift))
    for _ in range(30):
        x, y = rng.randrange(size), rng.randrange(line, size)
        draw.line((x, y, x + rng.randint(-3, 3), y - size // 24), fill=_shade((170, 136, 66), shift))


def _workshop(draw, rng, size, line, shift):
    step = max(4, round(size * rng.uniform(0.05, 0.07)))
    points = [(x, y) for x in range(step // 2, size, step) for y in range(step // 2, line, step)]
    draw.point(points, fill=_shade((70, 76, 82), shift))  # pegboard
    draw.point([(x + 1, y) for x, y in points], fill=_shade((70, 76, 82), shift))
    for y in range(line, size, max(3, size // 14)):
        draw.line((0, y, size, y), fill=_shade((98, 72, 50), shift))


def _shop(draw, rng, size, line, shift):
    gap = round(size * rng.uniform(0.22, 0.3))
    for y in range(line, 0, -gap):  # shelves
        draw.rectangle((0, y, size, y + size // 45), fill=_shade((214, 186, 196), shift))
        draw.rectangle((0, y + size // 45, size, y + size // 28), fill=_shade((232, 208, 216), shift))
    for x in (rng.randrange(size // 3), size - rng.randrange(1, size // 3)):
        draw.rectangle((x, 0, x + size // 60, line), fill=_shade((222, 196, 206), shift))


_DETAILS = {
    "kitchen": _kitchen, "street": _street, "farm": _farm, "beach": _beach, "garden": _garden, "office": _office,
    "sports field": _sports_field, "living room": _living_room, "forest": _forest, "savanna": _savanna,
    "workshop": _workshop, "shop": _shop,
}
