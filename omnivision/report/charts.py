"""Loss curves and histograms as inline SVG, drawn here: no script, no library; colours come from the page's variables."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from omnivision.report.escape import text

WIDTH, HEIGHT = 460, 230
LEFT, RIGHT, TOP, BOTTOM = 46, 12, 12, 30  # margins that hold the ticks
Point = tuple[float, float]


def loss_chart(title: str, rows: Sequence[dict[str, Any]]) -> str:
    """One stage: loss as logged (faint), smoothed (bold), evaluation loss (dots); "" without numbers."""
    train, held = _points(rows, "loss"), _points(rows, "eval_loss")
    if not train and not held:
        return ""
    smooth = _smoothed(train)
    xs = [x for x, _ in train + held]
    ys = sorted(y for _, y in train + held)
    # The first steps are often far above the rest; 2 % of the points may leave the frame at the top.
    top = max(
        [ys[min(len(ys) - 1, int(0.98 * len(ys)))], *(y for _, y in held), *(y for _, y in smooth[len(smooth) // 10 :])]
    )
    x_ticks, y_ticks = nice_ticks(min(0, *xs), max(xs)), nice_ticks(min(ys), top, 6)
    x0, x1 = min(0.0, *xs), max(max(xs), 1e-9)
    y0, y1 = min(min(ys), y_ticks[0]), max(top, y_ticks[-1])
    y1 = y1 if y1 > y0 else y0 + 1

    def place(point: Point) -> Point:
        across = (point[0] - x0) / ((x1 - x0) or 1)
        up = (min(point[1], y1) - y0) / (y1 - y0)
        return LEFT + across * (WIDTH - LEFT - RIGHT), HEIGHT - BOTTOM - up * (HEIGHT - TOP - BOTTOM)

    parts = []
    for tick in y_ticks:
        y = place((x0, tick))[1]
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text x="{LEFT - 7}" y="{y + 3.5:.1f}" text-anchor="end">{_number(tick)}</text>')
    for tick in x_ticks:
        x = place((tick, y0))[0]
        parts.append(f'<text x="{x:.1f}" y="{HEIGHT - BOTTOM + 16}" text-anchor="middle">{_number(tick)}</text>')
    parts.append(f'<text class="axis" x="{WIDTH - RIGHT}" y="{HEIGHT - 2}" text-anchor="end">step</text>')
    parts += [_line("raw", train, place), _line("smooth", smooth, place), _line("held", held, place)]
    for x, y in map(place, held):
        parts.append(f'<circle class="held" cx="{x:.1f}" cy="{y:.1f}" r="2.6"/>')
    label = text(f"Loss of stage {title}, {len(train)} points")
    return f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{label}">{"".join(parts)}</svg>'


def histogram(title: str, values: Sequence[float], bars: int = 24) -> str:
    """How often values fall between round numbers; "" without values."""
    if not values:
        return ""
    low, high = min(values), max(values)
    step = max(1.0, nice_ticks(0, max(high - low, 1), bars)[1]) if high > low else 1.0
    first = math.floor(low / step)
    counts = [0] * (math.floor(high / step) - first + 1)
    for value in values:
        counts[math.floor(value / step) - first] += 1
    across, top = (WIDTH - LEFT - RIGHT) / len(counts), max(counts)
    parts = [f'<text x="{LEFT - 7}" y="{TOP + 4}" text-anchor="end">{_number(top)}</text>',
             f'<text class="axis" x="{LEFT}" y="{HEIGHT - 2}">{text(title)}</text>']
    for index, count in enumerate(counts):
        tall = (HEIGHT - TOP - BOTTOM) * count / top
        label = f"{_number((first + index) * step)} to {_number((first + index + 1) * step)}: {count:,}"
        parts.append(f'<rect class="bin" x="{LEFT + index * across:.1f}" y="{HEIGHT - BOTTOM - tall:.1f}" width="{max(1.0, across - 1):.1f}" '
                     f'height="{tall:.1f}"><title>{text(label)}</title></rect>')
    for index in sorted({0, len(counts) // 2, len(counts)}):
        anchor = "end" if index == len(counts) and index else "start"
        parts.append(f'<text x="{LEFT + index * across:.1f}" y="{HEIGHT - BOTTOM + 14}" text-anchor="{anchor}">{_number((first + index) * step)}</text>')
    return f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{text(title)}">{"".join(parts)}</svg>'


def last_value(rows: Sequence[dict[str, Any]], key: str) -> float | None:
    """The end of a curve: the last of the smoothed points for the loss, else the last point."""
    points = _points(rows, key)
    if not points:
        return None
    return (_smoothed(points) if key == "loss" else points)[-1][1]


def nice_ticks(low: float, high: float, wanted: int = 4) -> list[float]:
    """Round numbers (1, 2, 2.5, 5 times a power of ten) that cover low to high."""
    if not high > low:
        return [low]
    rough = (high - low) / wanted
    power = 10 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= rough * 0.999)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(index * step, 12) for index in range(first, last + 1)]


def _points(rows: Sequence[dict[str, Any]], key: str) -> list[Point]:
    """Finite points in the order of steps; a repeated step (after a resume) keeps its last value."""
    found: dict[float, float] = {}
    for row in rows:
        pair = row.get("step"), row.get(key)
        if all(isinstance(one, (int, float)) and not isinstance(one, bool) and math.isfinite(one) for one in pair):
            found[float(pair[0])] = float(pair[1])
    return sorted(found.items())


def _smoothed(points: list[Point]) -> list[Point]:
    """Mean over a centred window of about a fifteenth of the points."""
    half = len(points) // 30
    if half == 0:
        return points
    smooth = []
    for index, (x, _) in enumerate(points):
        near = points[max(0, index - half) : index + half + 1]
        smooth.append((x, sum(y for _, y in near) / len(near)))
    return smooth


def _line(name: str, points: list[Point], place) -> str:
    if len(points) < 2:
        return ""
    return f'<polyline class="{name}" points="{" ".join(f"{x:.1f},{y:.1f}" for x, y in map(place, points))}"/>'


def _number(value: float) -> str:
    if abs(value) >= 1000 and value == int(value):
        return f"{value / 1000:g}k"
    return f"{value:g}"
