"""Questions about a chart with their exact answers, in the form of ChartQA."""

from __future__ import annotations

import random
from collections.abc import Callable
from itertools import combinations

from .chart import FORM_NAMES, show
from .truth import QA, Chart
from .vocabulary import COLORS_ZH, article

SUFFIX = {"en": "\nAnswer the question with a single word.", "zh": "\n用一个词回答问题。"}
CHART_COLORS_ZH = {**COLORS_ZH, "gray": "灰色", "black": "黑色", "brown": "棕色", "pink": "粉色"}
# How often each kind is asked: reading comes first, arithmetic is rare.
WEIGHTS = {"value": 40, "highest": 10, "lowest": 10, "compare": 14, "sum": 6, "difference": 6, "color": 8, "count": 6}
TEXTS = {
    "value": ("What is the value of {a}?", "{a}的数值是多少？"),
    "value of": ("What is the value of {a} for {s}?", "{a}的{s}数值是多少？"),
    "highest": ("Which category has the highest value?", "哪一项的数值最高？"),
    "highest of": ("Which category has the highest value for {s}?", "{s}中哪一项的数值最高？"),
    "lowest": ("Which category has the lowest value?", "哪一项的数值最低？"),
    "lowest of": ("Which category has the lowest value for {s}?", "{s}中哪一项的数值最低？"),
    "compare": ("Is the value of {a} greater than the value of {b}?", "{a}的数值比{b}大吗？"),
    "compare of": ("Is the value of {a} greater than the value of {b} for {s}?", "{s}中{a}的数值比{b}大吗？"),
    "sum": ("What is the sum of {a} and {b}?", "{a}和{b}的总和是多少？"),
    "sum of": ("What is the sum of {a} and {b} for {s}?", "{s}中{a}和{b}的总和是多少？"),
    "difference": ("What is the difference between {a} and {b}?", "{a}和{b}相差多少？"),
    "difference of": ("What is the difference between {a} and {b} for {s}?", "{s}中{a}和{b}相差多少？"),
    "color": ("What is the color of the {mark}?", "{mark}是什么颜色？"),
    "color of": ("What color is used for {a}?", "{a}用的是什么颜色？"),
    "count": ("How many categories are there?", "一共有几个类别？"),
    "count bars": ("How many bars are there?", "一共有几根柱子？"),
}
MARKS = {"line": ("line", "折线"), "dots": ("dots", "圆点")}
Found = tuple[str, str, str]  # kind, question, answer


def chart_questions(chart: Chart, rng: random.Random, count: int = 8) -> list[QA]:
    """Different questions about a chart, in the chart's language, with ChartQA's instruction behind each.

    Args:
        count: how many; a small chart may have fewer.
    """
    pools = {kind: make(chart) for kind, make in _MAKERS.items()}
    for pool in pools.values():
        rng.shuffle(pool)
    asked: list[QA] = []
    while len(asked) < count and any(pools.values()):
        kinds = [kind for kind in pools if pools[kind]]
        kind = rng.choices(kinds, [WEIGHTS[name] for name in kinds])[0]
        question, answer = pools[kind].pop()
        asked.append(QA(question + SUFFIX[chart.language], answer, f"chart_{kind}", chart.language))
    return asked


def chart_caption(chart: Chart) -> str:
    """One short sentence or two: the form, the title and every label with its value."""
    zh = chart.language == "zh"
    form = FORM_NAMES[chart.form][zh]
    percent = chart.form == "pie"
    parts = []
    for name, row in zip(chart.series, chart.values):
        pairs = [f"{label} {show(value, percent)}" for label, value in zip(chart.labels, row)]
        head = (f"{name}：" if zh else f"{name}: ") if len(chart.series) == 2 else ""
        parts.append(head + ("，" if zh else ", ").join(pairs))
    if zh:
        return f"一张{form}，标题是“{chart.title}”。{'；'.join(parts)}。"
    return f"{article(form).capitalize()} {form} titled {chart.title}. {'; '.join(parts)}."


def _say(chart: Chart, key: str, **words: str) -> str:
    return TEXTS[key][chart.language == "zh"].format(**words)


def _per_series(chart: Chart, kind: str, make: Callable) -> list[tuple[str, str]]:
    """Questions made for every series; the series is named only where there are two."""
    found = []
    for name, row in zip(chart.series, chart.values):
        key = kind if len(chart.series) == 1 else f"{kind} of"
        found += [(_say(chart, key, s=name, **words), answer) for words, answer in make(dict(zip(chart.labels, row)))]
    return found


def _value(chart: Chart) -> list:
    return _per_series(chart, "value", lambda row: [({"a": label}, show(value)) for label, value in row.items()])


def _extreme(pick: Callable, kind: str) -> Callable:
    def make(row: dict[str, float]) -> list:
        best = [label for label, value in row.items() if value == pick(row.values())]
        return [({}, best[0])] if len(best) == 1 else []  # a tie has no single answer

    return lambda chart: _per_series(chart, kind, make)


def _compare(chart: Chart) -> list:
    yes, no = ("是", "否") if chart.language == "zh" else ("Yes", "No")

    def make(row: dict[str, float]) -> list:
        return [
            ({"a": a, "b": b}, yes if row[a] > row[b] else no)
            for pair in combinations(row, 2)
            for a, b in (pair, pair[::-1])
            if row[a] != row[b]
        ]

    return _per_series(chart, "compare", make)


def _arithmetic(kind: str, work: Callable) -> Callable:
    def make(row: dict[str, float]) -> list:
        return [({"a": a, "b": b}, show(round(work(row[a], row[b]), 6))) for a, b in combinations(row, 2)]

    return lambda chart: _per_series(chart, kind, make)


def _color(chart: Chart) -> list:
    def name(color: str) -> str:
        return CHART_COLORS_ZH[color] if chart.language == "zh" else color

    if len(chart.colors) == 1:
        mark = MARKS.get(chart.form, ("bars", "柱子"))[chart.language == "zh"]
        return [(_say(chart, "color", mark=mark), name(chart.colors[0]))]
    owners = chart.labels if chart.form == "pie" else chart.series
    return [(_say(chart, "color of", a=owner), name(color)) for owner, color in zip(owners, chart.colors)]


def _count(chart: Chart) -> list:
    found = [(_say(chart, "count"), str(len(chart.labels)))]
    if chart.form in ("bars", "horizontal bars", "grouped bars"):
        found.append((_say(chart, "count bars"), str(len(chart.labels) * len(chart.series))))
    return found


_MAKERS: dict[str, Callable[[Chart], list]] = {
    "value": _value,
    "highest": _extreme(max, "highest"),
    "lowest": _extreme(min, "lowest"),
    "compare": _compare,
    "sum": _arithmetic("sum", lambda a, b: a + b),
    "difference": _arithmetic("difference", lambda a, b: abs(a - b)),
    "color": _color,
    "count": _count,
}
