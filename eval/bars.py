"""A bar chart of scores by task and run: matplotlib where it is installed, else Pillow."""

from __future__ import annotations

from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

COLORS = ("#4878a8", "#d9822b", "#5a9e5a", "#b5495b", "#7a68a6", "#8c6d46", "#4aa3a3", "#888888")

Scores = dict[str, dict[str, tuple["float | None", "float | None"]]]  # run -> task -> (score, stderr)


def draw(scores: Scores, path: Path) -> None:
    """Writes the chart; scores are in 0-100, whiskers are standard errors."""
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        import matplotlib
    except ImportError:
        _draw_pillow(scores, path)
        return
    matplotlib.use("Agg")
    from matplotlib import pyplot

    tasks = _tasks(scores)
    figure, axes = pyplot.subplots(figsize=(max(6, 1.1 * len(tasks) * max(1, len(scores) / 2)), 4.2))
    width = 0.8 / len(scores)
    for i, (run, found) in enumerate(scores.items()):
        places = [j - 0.4 + (i + 0.5) * width for j in range(len(tasks))]
        values = [found.get(task, (0, 0)) for task in tasks]
        axes.bar(places, [v or 0 for v, _ in values], width, yerr=[e or 0 for _, e in values], label=run,
                 color=COLORS[i % len(COLORS)], error_kw={"elinewidth": 1})
    axes.set_xticks(range(len(tasks)), tasks, rotation=20, ha="right")
    axes.set_ylim(0, 100)
    axes.set_ylabel("score")
    axes.legend()
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def _draw_pillow(scores: Scores, path: Path) -> None:
    tasks, bar, gap, top, height = _tasks(scores), 22, 60, 30 + 18 * len(scores), 300
    group = bar * len(scores) + gap
    picture = Image.new("RGB", (max(420, 60 + group * len(tasks)), top + height + 50), "white")
    pen, font = ImageDraw.Draw(picture), ImageFont.load_default(13)
    floor = top + height
    for value in range(0, 101, 20):
        y = floor - height * value / 100
        pen.line((45, y, picture.width - 10, y), fill="#dddddd")
        pen.text((38, y), str(value), fill="black", font=font, anchor="rm")
    for i, (run, found) in enumerate(scores.items()):
        color = COLORS[i % len(COLORS)]
        pen.rectangle((50, 12 + 18 * i, 62, 24 + 18 * i), fill=color)
        pen.text((70, 18 + 18 * i), run, fill="black", font=font, anchor="lm")
        for j, task in enumerate(tasks):
            score, error = found.get(task, (None, None))
            if score is None:
                continue
            x, y = 60 + j * group + i * bar, floor - height * score / 100
            pen.rectangle((x, y, x + bar - 4, floor), fill=color)
            pen.text((x + bar / 2 - 2, y - 3), f"{score:.0f}", fill="black", font=font, anchor="mb")
            if error:
                middle, reach = x + bar / 2 - 2, height * error / 100
                pen.line((middle, y - reach, middle, y + reach), fill="black")
    for j, task in enumerate(tasks):
        pen.text((60 + j * group, floor + 6 + 16 * (j % 2)), task, fill="black", font=font)
    picture.save(path, format="PNG")


def _tasks(scores: Scores) -> list[str]:
    return list(dict.fromkeys(task for found in scores.values() for task in found))
