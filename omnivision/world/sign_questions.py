"""Questions and captions about a sign."""

from __future__ import annotations

import random

from .chart_questions import CHART_COLORS_ZH
from .truth import QA, Sign
from .vocabulary import article

# The board's colours that charts do not have.
BOARD_ZH = {**CHART_COLORS_ZH, "white": "白色"}
READ = {
    "en": ("What does the sign say?", "What is written on the sign?", "Read the text in the image."),
    "zh": ("牌子上写着什么？", "图中的文字是什么？", "读出牌子上的字。"),
}
COLOR = {"en": "What color is the sign?", "zh": "牌子是什么颜色？"}


def sign_questions(sign: Sign, rng: random.Random, language: str | None = None, count: int = 2) -> list[QA]:
    """Questions about a sign: what it says, its colour.

    Args:
        language: of the questions (the sign's own by default); the text on the sign is answered as it is written.
        count: at most this many, each in another wording.
    """
    language = language or sign.language
    color = BOARD_ZH[sign.color] if language == "zh" else sign.color
    first, *more = rng.sample(READ[language], len(READ[language]))
    asked = [QA(first, sign.text, "text", language), QA(COLOR[language], color, "color", language)]
    asked += [QA(question, sign.text, "text", language) for question in more]
    return asked[:count]


def sign_caption(sign: Sign, language: str = "en") -> str:
    """'A red sign that says "Anna".'"""
    if language == "zh":
        return f"一块{BOARD_ZH[sign.color]}的牌子，上面写着“{sign.text}”。"
    return f'{article(sign.color).capitalize()} {sign.color} sign that says "{sign.text}".'
