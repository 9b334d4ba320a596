"""Short texts in pictures: names, places, shop words, numbers and dates on coloured boards."""

from __future__ import annotations

import random

from PIL import Image, ImageDraw

from .fonts import LATIN_FONTS, font, has_chinese
from .truth import Region, Sign

NAMES = tuple(
    "Anna Ben Clara David Emma Felix Grace Henry Iris Jack Kate Leo Mia Noah Olga Paul Rosa Sam Tina Victor "
    "Wendy Alice Bob Carol Daniel Eva Frank Helen Ivan Julia".split()
)
PLACES = tuple(
    "London Paris Berlin Tokyo Rome Madrid Cairo Lima Oslo Delhi Sydney Boston Moscow Vienna Dublin Prague Beijing "
    "Shanghai Nairobi Toronto".split()
)
SHOP_WORDS = tuple(
    "Open Closed Sale Exit Cafe Bakery Market Hotel Bank Library School Museum Garden Station Parking Pizza Tea "
    "Coffee Fresh Fruit Books Toys Flowers Pharmacy Clinic Taxi Bus Stop Welcome Lost Found Free Sold Push Pull "
    "Danger Quiet Gym Cinema Barber".split()
)
SHOP_PHRASES = ("Fresh Fish", "Bus Stop", "Ice Cream", "Book Shop", "Tea House", "City Hall", "No Entry", "Post Office")
CHINESE_NAMES = tuple("李明 王芳 张伟 刘洋 陈静 杨丽 赵强 周涛 吴敏 孙磊".split())
CHINESE_WORDS = tuple("出口 入口 超市 书店 医院 学校 银行 酒店 餐厅 茶馆 面包 水果 鲜花 药店 车站 公园 欢迎 打折 北京 上海 广州".split())
MONTHS = ("January", "March", "May", "June", "July", "August", "October")
BOARDS = {  # colour of the board: shade, and whether the letters on it are light
    "red": ((196, 40, 40), True), "blue": ((36, 86, 190), True), "green": ((30, 120, 66), True),
    "yellow": ((246, 214, 70), False), "white": ((250, 250, 250), False), "black": ((28, 28, 32), True),
    "orange": ((238, 140, 44), False), "brown": ((104, 66, 36), True),
}


def sign_text(rng: random.Random, language: str = "en") -> str:
    """A short text from the closed lists, or a number or date."""
    draw = rng.random()
    if language == "zh":
        if draw < 0.15:
            return f"{rng.randint(1, 12)}月{rng.randint(1, 28)}日"
        return rng.choice(CHINESE_NAMES if draw < 0.45 else CHINESE_WORDS)
    if draw < 0.12:
        return str(rng.randint(10, 999))
    if draw < 0.2:
        return f"{rng.choice(MONTHS)} {rng.randint(1, 28)}"
    if draw < 0.28:
        return rng.choice(SHOP_PHRASES)
    return rng.choice(rng.choice((NAMES, PLACES, SHOP_WORDS)))


def make_sign(rng: random.Random, language: str = "en") -> Sign:
    """A sign's truth: its text, the colour of its board, a font."""
    board = rng.choice(tuple(BOARDS))
    return Sign(sign_text(rng, language), language, board, rng.randrange(len(LATIN_FONTS)), rng.randrange(1 << 30))


def draw_sign(sign: Sign, size: int = 216) -> tuple[Image.Image, list[Region]]:
    """Draw a sign on a plain wall.

    Args:
        sign: its truth.
        size: side of the square picture in pixels.

    Returns:
        The RGB picture, a "text" region round the letters and an "object" region round the board ("red sign").
    """
    dice = random.Random(sign.seed)
    image = Image.new("RGB", (size, size), _wall(dice))
    pen = ImageDraw.Draw(image)
    for row in range(0, size, max(8, size // dice.randint(5, 9))):  # faint courses of bricks or boards
        pen.line((0, row, size, row), fill=tuple(max(0, part - 14) for part in image.getpixel((0, size - 1))))
    face = _face(sign, dice, size)
    left, top, right, bottom = pen.textbbox((0, 0), sign.text, font=face)
    wide, high = right - left, bottom - top
    pad = round(size * dice.uniform(0.035, 0.07))
    x = dice.randint(pad, max(pad, size - wide - pad))
    y = dice.randint(pad, max(pad, size - high - pad))
    shade, light = BOARDS[sign.color]
    board = (x - pad, y - pad, min(size - 1, x + wide + pad), min(size - 1, y + high + pad))
    edge = (245, 245, 245) if light else (50, 50, 50)
    pen.rounded_rectangle(board, radius=dice.choice((0, 4, 10)), fill=shade, outline=edge, width=2)
    pen.text((x - left, y - top), sign.text, font=face, fill=edge if light else (30, 30, 30))
    text = Region((x, y, x + wide, y + high), sign.text, "text")
    return image, [text, Region(board, f"{sign.color} sign", "object")]


def _wall(dice: random.Random) -> tuple[int, int, int]:
    base = dice.randint(150, 215)
    return tuple(base + dice.randint(-18, 18) for _ in range(3))


def _face(sign: Sign, dice: random.Random, size: int):
    """The sign's font at the largest height up to a random one at which the text fits the picture."""
    family, weight = ("cjk", 400) if has_chinese(sign.text) else LATIN_FONTS[sign.font]
    most = dice.randint(30, 56)
    for height in range(most, 17, -2):
        face = font(family, max(6, round(height * size / 216)), weight)
        if face.getlength(sign.text) <= 0.84 * size:
            break
    return face
