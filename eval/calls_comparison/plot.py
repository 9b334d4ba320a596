"""Accuracy, prompt and time by the number of functions, as one SVG file: lines over a logarithmic axis, no plotting library."""

from __future__ import annotations

import math
from typing import Any

from omnivision.report.charts import nice_ticks
from omnivision.report.escape import text

from ..bars import COLORS

WIDTH, HEIGHT, LEFT, TOP, BOTTOM = 300, 240, 58, 34, 40  # of one panel, and its margins
LEGEND = 28
PANELS = (  # title, where the value stands, logarithmic
    ("strict accuracy, %", ("strict", "rate"), False),
    ("prompt, tokens", ("prompt_tokens",), True),
    ("time to the call, ms", ("call_ms",), True),
)


def draw(result: dict[str, Any]) -> str:
    """The picture's text.

    Args:
        result: of the comparison, with `sizes` -> `arms`.
    """
    sizes = [int(size) for size in result["sizes"]]
    names = list(next(iter(result["sizes"].values()))["arms"])
    colors = dict(zip(names, COLORS, strict=False))
    parts = []
    for number, (title, path, logarithmic) in enumerate(PANELS):
        curves = {name: [_value(one["arms"][name], path) for one in result["sizes"].values()] for name in names}
        parts.append(f'<g transform="translate({number * WIDTH} {LEGEND})">{_panel(title, sizes, curves, colors, logarithmic)}</g>')
    for number, name in enumerate(names):
        x = LEFT + 140 * number
        parts.append(f'<rect x="{x}" y="10" width="12" height="12" fill="{colors[name]}"/><text x="{x + 17}" y="20">{text(name)}</text>')
    width, height = WIDTH * len(PANELS), HEIGHT + LEGEND
    return (f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif" font-size="11">'
            f'<rect width="{width}" height="{height}" fill="white"/>{"".join(parts)}</svg>\n')


def _value(arm: dict[str, Any], path: tuple[str, ...]) -> float:
    for key in path:
        arm = arm[key]
    return float(arm)


def _panel(title: str, sizes: list[int], curves: dict[str, list[float]], colors: dict[str, str], logarithmic: bool) -> str:
    every = [value for curve in curves.values() for value in curve]
    ticks = _powers(min(every), max(every)) if logarithmic else nice_ticks(0, 100)
    low, high = (math.log10(ticks[0]), math.log10(ticks[-1])) if logarithmic else (0, 100)
    first, last = math.log10(min(sizes)), math.log10(max(sizes))

    def across(size: int) -> float:
        return LEFT + (math.log10(size) - first) / ((last - first) or 1) * (WIDTH - LEFT - 16)

    def up(value: float) -> float:
        share = ((math.log10(value) if logarithmic else value) - low) / (high - low)
        return HEIGHT - BOTTOM - share * (HEIGHT - TOP - BOTTOM)

    parts = [f'<text x="{LEFT}" y="{TOP - 12}" font-weight="bold">{text(title)}</text>']
    for tick in ticks:
        parts.append(f'<line x1="{LEFT}" x2="{WIDTH - 10}" y1="{up(tick):.1f}" y2="{up(tick):.1f}" stroke="#dddddd"/>'
                     f'<text x="{LEFT - 6}" y="{up(tick) + 4:.1f}" text-anchor="end">{tick:,.0f}</text>')
    for size in sizes:
        parts.append(f'<text x="{across(size):.1f}" y="{HEIGHT - BOTTOM + 16}" text-anchor="middle">{size:,}</text>')
    parts.append(f'<text x="{(LEFT + WIDTH) / 2}" y="{HEIGHT - 8}" text-anchor="middle">functions</text>')
    for name, values in curves.items():
        points = [(across(size), up(value)) for size, value in zip(sizes, values, strict=True)]
        parts.append(f'<polyline fill="none" stroke="{colors[name]}" stroke-width="2" points="{" ".join(f"{x:.1f},{y:.1f}" for x, y in points)}"/>')
        parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colors[name]}"/>' for x, y in points]
    return "".join(parts)


def _powers(low: float, high: float) -> list[float]:
    """Powers of ten around both, at least two."""
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    return [10.0**at for at in range(first, max(last, first + 1) + 1)]
