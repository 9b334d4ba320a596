"""Charts of real numbers in the look of published statistics: what they say (make) and how they look (draw)."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, field

from PIL import Image, ImageDraw

from .fonts import font_for, has_chinese
from .tables import Slice, take_slice
from .truth import Chart, Region

FORMS = ("bars", "horizontal bars", "grouped bars", "stacked bars", "line", "two lines", "pie", "dots")
FORM_NAMES = {
    "bars": ("bar chart", "柱状图"),
    "horizontal bars": ("horizontal bar chart", "条形图"),
    "grouped bars": ("grouped bar chart", "分组柱状图"),
    "stacked bars": ("stacked bar chart", "堆叠柱状图"),
    "line": ("line chart", "折线图"),
    "two lines": ("line chart", "折线图"),
    "pie": ("pie chart", "饼图"),
    "dots": ("dot plot", "点图"),
}
PAIRED = ("grouped bars", "stacked bars", "two lines")
COLORS = {  # a plain name and the shade drawn for it
    "blue": (40, 116, 222), "red": (214, 48, 49), "green": (39, 160, 80), "orange": (240, 140, 30),
    "purple": (128, 70, 175), "yellow": (240, 200, 40), "gray": (140, 146, 155), "black": (25, 35, 50),
    "brown": (135, 88, 50), "pink": (240, 130, 175),
}
_METALS = {"Gold": "yellow", "Silver": "gray", "Bronze": "brown", "金牌": "yellow", "银牌": "gray", "铜牌": "brown"}
INK, FAINT, BAND = (60, 60, 60), (224, 226, 230), (248, 248, 248)
TITLE, LABEL, VALUE = 12, 12, 12  # text heights (em) at the side of 216 px: 8-px patches can still read them


def make_chart(rng: random.Random, split: str, language: str = "en") -> Chart:
    """A chart's truth: a slice of a real table that belongs to the split, a form and colours.

    Args:
        rng: the only source of chance.
        split: "align", "sft", ... for training, "eval" for evaluation.
        language: "en" or "zh" (labels and title).
    """
    form = rng.choice(FORMS)
    for _ in range(200):
        found = _slice_for(form, rng, split, language)
        if found and (form == "pie" or _fits(form, found)):
            break
    else:
        raise AssertionError(f"no slice fits the form {form}")
    return Chart(
        form, found.title, found.labels, found.series, found.values, _colors(form, found, rng), language,
        found.source, found.slice_id, rng.randrange(1 << 30),
    )


def _slice_for(form: str, rng: random.Random, split: str, language: str) -> Slice | None:
    most = {"horizontal bars": 6, "line": 6, "bars": 6, "dots": 6, "two lines": 5}.get(form, 4)
    least = 2 if form == "grouped bars" else 3
    found = take_slice(
        rng, split, language, (least, most), 2 if form in PAIRED else 1,
        ordered=form in ("line", "two lines"), additive=form in ("pie", "stacked bars"),
    )
    return _as_percent(found) if form == "pie" else found


def _as_percent(found: Slice) -> Slice | None:
    """Whole percentages that add up to 100, or None where a slice of the pie would be too thin to read."""
    numbers = found.values[0]
    exact = [100 * number / sum(numbers) for number in numbers]
    whole = [math.floor(part) for part in exact]
    for index in sorted(range(len(exact)), key=lambda i: whole[i] - exact[i])[: 100 - sum(whole)]:
        whole[index] += 1
    if min(whole) < 6:
        return None
    return Slice(found.title, found.labels, found.series, (tuple(whole),), found.source, found.slice_id)


def _width(text: str) -> float:
    """About how wide a label is drawn at 216 px (6.8 px a Latin character, 12 a Chinese one)."""
    return 12 * len(text) if has_chinese(text) else 6.8 * len(text)


def _fits(form: str, found: Slice) -> bool:
    """Whether every text has room in its place, judged without drawing."""
    numbers = [value for row in found.values for value in row]
    label, number = max(map(_width, found.labels)), max(_width(show(value)) for value in numbers)
    if form in PAIRED and sum(map(_width, found.series)) > 150:
        return False
    if form in ("horizontal bars", "dots"):
        return True
    slot = 204 / len(found.labels)
    if form == "stacked bars":
        totals = [sum(pair) for pair in zip(*found.values)]
        return label <= slot and number <= 0.6 * slot and min(numbers) >= 0.12 * max(totals)
    if form == "grouped bars":
        return label <= slot and 1.1 * number + 3 <= 0.4 * slot  # bold, and a gap between two neighbours
    if form == "two lines":
        low, high = min(numbers), max(numbers)
        apart = min(abs(a - b) for a, b in zip(*found.values))
        return label <= slot - 2 and number <= slot and apart >= 0.25 * (high - low) and high > low
    return label <= slot and number <= slot


def _colors(form: str, found: Slice, rng: random.Random) -> tuple[str, ...]:
    names = list(COLORS)
    if form == "pie" and all(label in _METALS for label in found.labels):
        return tuple(_METALS[label] for label in found.labels)  # a brown "gold" slice would be a riddle
    if form == "pie":
        return tuple(rng.sample(names, len(found.labels)))
    if len(found.series) == 2:
        return ("blue", "black") if rng.random() < 0.3 else tuple(rng.sample(names, 2))
    return ("blue",) if rng.random() < 0.4 else (rng.choice(names),)


def show(value: float, percent: bool = False) -> str:
    """A value as it is printed in a chart."""
    return f"{value:g}" + ("%" if percent else "")


@dataclass
class _Sheet:
    """A drawing under way: the picture, what has been drawn, and pixels per 1/216 of the side."""

    image: Image.Image
    pen: ImageDraw.ImageDraw
    scale: float
    shift: int  # small change of every shade
    regions: list[Region] = field(default_factory=list)

    def px(self, *lengths: float) -> list[float]:
        return [length * self.scale for length in lengths]

    def text(self, x: float, y: float, text: str, size: int, anchor: str, weight: int = 400, ink=INK) -> None:
        """Write a text with Pillow's anchor at 216-px coordinates, kept inside the picture, and note its region."""
        face = font_for(text, max(6, round(size * self.scale)), weight)
        spot = self.px(x, y)
        box = self.pen.textbbox(spot, text, font=face, anchor=anchor)
        spot[0] += max(0, 1 - box[0]) - max(0, box[2] - self.image.width + 1)
        self.pen.text(spot, text, font=face, fill=ink, anchor=anchor)
        self.regions.append(Region(tuple(map(round, self.pen.textbbox(spot, text, font=face, anchor=anchor))), text, "text"))

    def shade(self, color: str) -> tuple[int, ...]:
        return tuple(min(255, max(0, part + self.shift)) for part in COLORS[color])

    def bar(self, x0: float, y0: float, x1: float, y1: float, color: str) -> None:
        box = [round(edge) for edge in self.px(x0, y0, x1, y1)]
        box[2], box[3] = max(box[2], box[0] + 1), max(box[3], box[1] + 1)
        self.pen.rectangle(box, fill=self.shade(color))
        self.regions.append(Region(tuple(box), f"{color} bar", "mark"))

    def point(self, x: float, y: float, radius: float, color: str) -> None:
        box = [round(edge) for edge in self.px(x - radius, y - radius, x + radius, y + radius)]
        self.pen.ellipse(box, fill=self.shade(color))
        self.regions.append(Region(tuple(box), f"{color} point", "mark"))


def draw_chart(chart: Chart, size: int = 216) -> tuple[Image.Image, list[Region]]:
    """Draw a chart.

    Args:
        chart: its truth.
        size: side of the square picture in pixels.

    Returns:
        The RGB picture, and a region for every text (kind "text") and every bar, point or slice (kind "mark").
    """
    dice = random.Random(chart.seed)
    image = Image.new("RGB", (size, size), dice.choice(((255, 255, 255), (255, 255, 255), (250, 250, 252))))
    sheet = _Sheet(image, ImageDraw.Draw(image), size / 216, dice.randint(-14, 14))
    sheet.text(108, 5, chart.title, TITLE, "mt", 700, (30, 30, 30))
    if len(chart.series) == 2:
        _legend(sheet, chart)
    _DRAW[chart.form](sheet, chart, dice)
    return image, sheet.regions


def _legend(sheet: _Sheet, chart: Chart) -> None:
    widths = [_width(name) + 16 for name in chart.series]
    x = 108 - (sum(widths) + 8) / 2
    for name, color, width in zip(chart.series, chart.colors, widths):
        box = sheet.px(x, 203, x + 8, 211)
        sheet.pen.ellipse(box, fill=sheet.shade(color))
        sheet.text(x + 12, 207, name, LABEL, "lm")
        x += width + 8


def _frame(sheet: _Sheet, chart: Chart, dice: random.Random, bottom: float) -> list[float]:
    """Alternate bands, grid lines, base line and category labels; returns the middle of every category."""
    count = len(chart.labels)
    slot, banded = 204 / count, dice.random() < 0.5
    for index in range(0, count, 2) if banded else ():
        sheet.pen.rectangle(sheet.px(6 + index * slot, 24, 6 + (index + 1) * slot, bottom), fill=BAND)
    for step in range(4):
        y = 36 + (bottom - 36) * step / 4
        sheet.pen.line(sheet.px(6, y, 210, y), fill=FAINT)
    sheet.pen.line(sheet.px(6, bottom, 210, bottom), fill=INK, width=max(1, round(sheet.scale)))
    middles = [6 + (index + 0.5) * slot for index in range(count)]
    for middle, label in zip(middles, chart.labels):
        sheet.text(middle, bottom + 10, label, LABEL, "mm")
    return middles


def _bars(sheet: _Sheet, chart: Chart, dice: random.Random) -> None:
    bottom = 180 if len(chart.series) == 2 else 194
    middles = _frame(sheet, chart, dice, bottom)
    slot, count = 204 / len(middles), len(chart.series)
    wide = slot * (0.8 if count == 2 else dice.uniform(0.5, 0.75)) / count
    top = max(max(row) for row in chart.values)
    for number, (row, color) in enumerate(zip(chart.values, chart.colors)):
        for middle, value in zip(middles, row):
            x, y = middle + (number - (count - 1) / 2) * wide, bottom - (bottom - 40) * value / top
            sheet.bar(x - wide / 2, y, x + wide / 2 - count + 1, bottom, color)
            sheet.text(x, y - 2, show(value), VALUE, "mb", 700)


def _stacked(sheet: _Sheet, chart: Chart, dice: random.Random) -> None:
    middles = _frame(sheet, chart, dice, 180)
    wide = 204 / len(middles) * dice.uniform(0.62, 0.75)
    top = max(sum(pair) for pair in zip(*chart.values))
    for index, middle in enumerate(middles):
        base = 180.0
        for row, color in zip(chart.values, chart.colors):
            high = 150 * row[index] / top
            sheet.bar(middle - wide / 2, base - high, middle + wide / 2, base, color)
            dark = sum(COLORS[color]) < 440
            sheet.text(middle, base - high / 2, show(row[index]), VALUE, "mm", 700, (255, 255, 255) if dark else INK)
            base -= high


def _sideways(sheet: _Sheet, chart: Chart, dice: random.Random) -> None:
    """Horizontal bars or dots: labels to the left, values to the right of the mark."""
    left = 14 + max(map(_width, chart.labels))
    slot, row, color = 186 / len(chart.labels), chart.values[0], chart.colors[0]
    thick, room = min(26, slot * dice.uniform(0.5, 0.75)), 210 - left - max(_width(show(v)) for v in row) - 8
    sheet.pen.line(sheet.px(left, 22, left, 210), fill=FAINT)
    for index, (label, value) in enumerate(zip(chart.labels, row)):
        y, end = 24 + (index + 0.5) * slot, left + room * value / max(row)
        sheet.text(left - 5, y, label, LABEL, "rm")
        if chart.form == "dots":
            sheet.pen.line(sheet.px(left, y, end, y), fill=FAINT, width=max(1, round(2 * sheet.scale)))
            sheet.point(end, y, 5, color)
        else:
            sheet.bar(left, y - thick / 2, end, y + thick / 2, color)
        sheet.text(end + (9 if chart.form == "dots" else 4), y, show(value), VALUE, "lm", 700)


def _lines(sheet: _Sheet, chart: Chart, dice: random.Random) -> None:
    bottom = 180 if len(chart.series) == 2 else 194
    middles = _frame(sheet, chart, dice, bottom)
    numbers = [value for row in chart.values for value in row]
    low, high = min(numbers), max(numbers)
    low -= 0.25 * (high - low) or 1
    width = max(2, round(2 * sheet.scale))
    for row, color in zip(chart.values, chart.colors):
        heights = [bottom - 8 - (bottom - 56) * (value - low) / (high - low) for value in row]
        flat = [edge for x, y in zip(middles, heights) for edge in sheet.px(x, y)]
        sheet.pen.line(flat, fill=sheet.shade(color), width=width, joint="curve")
        for index, (x, y, value) in enumerate(zip(middles, heights, row)):
            sheet.point(x, y, 3, color)
            below = len(chart.values) == 2 and value < chart.values[1 - chart.values.index(row)][index]
            sheet.text(x, y + (6 if below else -5), show(value), VALUE, "mt" if below else "mb", 700)


def _pie(sheet: _Sheet, chart: Chart, dice: random.Random) -> None:
    fine, radius, x, y = 3, 58, 108, 116  # drawn three times as large and reduced: Pillow's slices are not smooth
    side = round(2 * radius * sheet.scale)
    canvas = Image.new("RGB", (side * fine, side * fine), sheet.image.getpixel((0, sheet.image.height - 1)))
    pen, angle = ImageDraw.Draw(canvas), -90.0
    left, top = round(x * sheet.scale) - side // 2, round(y * sheet.scale) - side // 2
    writing = []
    for label, value, color in zip(chart.labels, chart.values[0], chart.colors):
        turn = 3.6 * value
        pen.pieslice((0, 0, side * fine - 1, side * fine - 1), angle, angle + turn, sheet.shade(color), (255, 255, 255), 4)
        middle = math.radians(angle + turn / 2)
        cos, sin = math.cos(middle), math.sin(middle)
        writing.append((label, value, color, cos, sin))
        angle += turn
    sheet.image.paste(canvas.reduce(fine), (left, top))
    for label, value, color, cos, sin in writing:
        cx, cy = x + 0.62 * radius * cos, y + 0.62 * radius * sin
        box = tuple(round(edge) for edge in sheet.px(cx - 16, cy - 16, cx + 16, cy + 16))
        sheet.regions.append(Region(box, f"{color} slice", "mark"))
        dark = sum(COLORS[color]) < 440
        sheet.text(cx, cy, show(value, True), VALUE, "mm", 700, (255, 255, 255) if dark else INK)
        anchor = ("l" if cos > 0.25 else "r" if cos < -0.25 else "m") + "m"
        sheet.text(x + (radius + 5) * cos, y + (radius + 10) * sin, label, LABEL, anchor)


_DRAW = {
    "bars": _bars, "grouped bars": _bars, "stacked bars": _stacked, "horizontal bars": _sideways, "dots": _sideways,
    "line": _lines, "two lines": _lines, "pie": _pie,
}
