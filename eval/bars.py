"""A bar chart of scores by task and run, drawn with Pillow: a plotting library would be a dependency for one picture."""

from __future__ import annotations

from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

COLORS = ("#4878a8", "#d9822b", "#5a9e5a", "#b5495b", "#7a68a6", "#8c6d46", "#4aa3a3", "#888888")
BAR, GAP, HEIGHT, LEFT = 24, 56, 300, 60

Scores = dict[str, dict[str, tuple[float | None, float | None]]]  # run -> task -> (score, stderr)


def draw(scores: Scores, path: Path) -> None:
    """Writes the chart as PNG.

    Args:
        scores: run -> task -> (score in 0-100, standard error); a missing score leaves its place empty.
        path: the file; its folder is made.
    """
    tasks = list(dict.fromkeys(task for found in scores.values() for task in found))
    group, top = BAR * len(scores) + GAP, 30 + 18 * len(scores)
    floor = top + HEIGHT
    picture = Image.new("RGB", (max(420, LEFT + group * len(tasks)), floor + 50), "white")
    pen, font = ImageDraw.Draw(picture), ImageFont.load_default(13)
    _axis(pen, font, floor, picture.width)
    for i, (run, found) in enumerate(scores.items()):
        color = COLORS[i % len(COLORS)]
        pen.rectangle((LEFT - 10, 12 + 18 * i, LEFT + 2, 24 + 18 * i), fill=color)
        pen.text((LEFT + 10, 18 + 18 * i), run, fill="black", font=font, anchor="lm")
        for j, task in enumerate(tasks):
            score, error = found.get(task, (None, None))
            if score is not None:
                _bar(pen, font, LEFT + j * group + i * BAR, floor, score, error, color)
    for j, task in enumerate(tasks):  # two lines in turn: names are wider than a group of one bar
        pen.text((LEFT + j * group, floor + 6 + 18 * (j % 2)), task, fill="black", font=font)
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.save(path, format="PNG")


def _axis(pen: ImageDraw.ImageDraw, font, floor: int, width: int) -> None:
    for value in range(0, 101, 20):
        y = floor - HEIGHT * value / 100
        pen.line((LEFT - 15, y, width - 10, y), fill="#dddddd")
        pen.text((LEFT - 22, y), str(value), fill="black", font=font, anchor="rm")


def _bar(pen: ImageDraw.ImageDraw, font, x: float, floor: int, score: float, error: float | None, color: str) -> None:
    y, middle, reach = floor - HEIGHT * score / 100, x + BAR / 2 - 2, HEIGHT * (error or 0) / 100
    pen.rectangle((x, y, x + BAR - 4, floor), fill=color)
    pen.line((middle, y - reach, middle, y + reach), fill="black", width=2)
    pen.text((middle, y - reach - 3), f"{score:.0f}", fill="black", font=font, anchor="mb")
