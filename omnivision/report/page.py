"""The page: one function a section, every text escaped."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from omnivision.export.folder import device_bytes
from omnivision.pairs.words import word_edits
from omnivision.report.charts import last_value, loss_chart
from omnivision.report.escape import text
from omnivision.report.images import data_uri
from omnivision.report.style import STYLE

# Nothing may be fetched and no script may run, whatever a text contains.
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
COLUMNS = {  # column of the score table: (heading, what it is, whether less is better)
    "pope_f1": ("POPE F1", "is there a …? mean of random, popular, adversarial", False),
    "pope_false_yes": ("False yes", "adversarial: absent things affirmed", True),
    "chartqa": ("ChartQA", "relaxed accuracy", False),
    "open": ("Open", "judged by the oracle", False),
    "actions": ("Actions", "function and arguments right", False),
}


def render_page(data: Mapping[str, Any]) -> str:
    """HTML of a ReportData."""
    sections = (
        _scores(
            data,
            "seen",
            "Scores after each stage",
            "Held-out questions on unseen pictures in the drawing styles of training. 0 to 100, with standard error and number of questions.",
        ),
        _scores(
            data,
            "held_out",
            "The held-out style",
            "The same questions on pictures in a drawing style that no stage has seen.",
        ),
        _curves(data.get("curves") or []),
        _samples(data.get("samples") or []),
        pairs_section(data.get("pairs") or [], "The oracle changes only the words that are wrong; the corrected answer is preferred in training, the original rejected."),
        _export(data.get("export") or [], data.get("export_check") or {}),
        _seconds(data.get("seconds") or {}),
        _notes(data.get("notes") or []),
    )
    return document(data.get("title") or "Report", data.get("lead") or "", data.get("facts") or [], sections)


def document(title: str, lead: str, facts: Sequence[tuple[str, Any]], sections: Iterable[str]) -> str:
    """A page of sections that are HTML already; empty ones are left out.

    Args:
        title, lead, facts: texts, escaped here.
    """
    title = text(title)
    lead = f'<p class="lead">{text(lead)}</p>' if lead else ""
    listed = "".join(f"<div><dt>{text(name)}</dt><dd>{text(value)}</dd></div>" for name, value in facts)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f"<title>{title}</title>\n<style>\n{STYLE}</style></head>\n<body><main>\n"
        f"<header><h1>{title}</h1>{lead}{f'<dl>{listed}</dl>' if listed else ''}</header>\n"
        + "\n".join(section for section in sections if section)
        + "\n</main></body></html>\n"
    )


def section(title: str, note: str, body: str) -> str:
    """A heading with what is below it; note and body are HTML."""
    note = f'<p class="note">{note}</p>' if note else ""
    return f"<section><h2>{title}</h2>{note}{body}</section>"


def table(head: str, rows: Sequence[str], kind: str = "") -> str:
    """A table of head cells and rows that are HTML."""
    return f'<div class="scroll"><table class="{kind}"><thead><tr>{head}</tr></thead><tbody>{"".join(rows)}</tbody></table></div>'


# ---- scores ----


def _scores(data: Mapping[str, Any], part: str, title: str, note: str) -> str:
    rows = [row for row in data.get("scores") or [] if row.get(part)]
    columns = [name for name in COLUMNS if any(name in row[part] for row in rows)]
    if not columns:
        return ""
    targets = data.get("targets") or {} if part == "seen" else {}
    best = {name: max(row[part][name]["score"] for row in rows if name in row[part]) for name in columns}
    head = "<th>stage</th>" + "".join(_score_head(name, targets) for name in columns)
    lines = []
    for row in rows:
        about = f"<small>{text(row['note'])}</small>" if row.get("note") else ""
        cells = "".join(_score_cell(name, row[part].get(name), best[name]) for name in columns)
        lines.append(f'<tr><th scope="row">{text(row["stage"])}{about}</th>{cells}</tr>')
    return section(title, note, table(head, lines, "scores"))


def _score_head(name: str, targets: Mapping[str, float]) -> str:
    heading, about, less = COLUMNS[name]
    sign = "≤" if less else "≥"
    target = f'<small class="target">target {sign} {targets[name]:g}</small>' if name in targets else ""
    return f'<th scope="col">{heading}{" ↓" if less else ""}<small>{about}</small>{target}</th>'


def _score_cell(name: str, score: Mapping[str, Any] | None, best: float) -> str:
    if not score:
        return '<td class="none">–</td>'
    value = float(score["score"])
    # A model that affirms nothing has the fewest false "yes" too: that column gets no winner.
    mark = ' class="best"' if value == best and not COLUMNS[name][2] else ""
    small = []
    if score.get("stderr") is not None:
        small.append(f"± {score['stderr']:.1f}")
    if score.get("n") is not None:
        small.append(f"n {score['n']:,}")
    bar = f'<i style="width:{min(100.0, max(0.0, value)):.1f}%"></i>'
    tone = " less" if COLUMNS[name][2] else ""
    return f'<td{mark}><b>{value:.1f}</b><small>{" · ".join(small)}</small><span class="bar{tone}">{bar}</span></td>'


# ---- curves ----


def _curves(curves: Sequence[Mapping[str, Any]]) -> str:
    figures = []
    for curve in curves:
        chart = loss_chart(str(curve["stage"]), curve["rows"])
        if chart:
            ends = [
                f"{label} {value:.3f}"
                for label, key in (("ends at", "loss"), ("held-out", "eval_loss"))
                if (value := last_value(curve["rows"], key)) is not None
            ]
            figures.append(
                f"<figure><figcaption><b>{text(curve['stage'])}</b><small>{', '.join(ends)}</small></figcaption>{chart}</figure>"
            )
    legend = '<span class="key raw">each step</span> <span class="key smooth">smoothed</span> <span class="key held">held-out</span>'
    return section("Loss", legend, f'<div class="grid2">{"".join(figures)}</div>') if figures else ""


# ---- pictures ----


def _picture(file: object) -> str:
    uri = data_uri(str(file)) if file else None
    if uri is None:
        return f'<div class="missing">picture not readable<small>{text(Path(str(file)).name if file else "")}</small></div>'
    return f'<img src="{uri}" alt="">'


def _samples(samples: Sequence[Mapping[str, Any]]) -> str:
    cards = []
    for sample in samples:
        answers = "".join(_answer(answer) for answer in sample.get("answers") or [])
        note = f'<p class="tag">{text(sample["note"])}</p>' if sample.get("note") else ""
        cards.append(
            f'<article class="card">{_picture(sample.get("image"))}<div>{note}<p class="question">{text(sample.get("question", ""))}</p>'
            f'<p class="truth"><small>truth</small> <span>{text(sample.get("truth", ""))}</span></p><table class="answers">{answers}</table></div></article>'
        )
    return (
        section(
            "Pictures and answers",
            "What the model says after each stage.",
            f'<div class="grid2">{"".join(cards)}</div>',
        )
        if cards
        else ""
    )


def _answer(answer: Mapping[str, Any]) -> str:
    kind, mark, word = {True: ("right", "✓", "right"), False: ("wrong", "✗", "wrong")}.get(
        answer.get("right"), ("open", "·", "not judged")
    )
    said = text(answer.get("text", "")) or '<em class="none">nothing</em>'
    return f'<tr class="{kind}"><th scope="row">{text(answer.get("stage", ""))}</th><td><span class="mark" title="{word}">{mark}</span></td><td><span>{said}</span></td></tr>'


def pairs_section(pairs: Sequence[Mapping[str, Any]], note: str) -> str:
    """Pairs with their edits in colour."""
    cards = []
    for pair in pairs:
        rejected, chosen = str(pair.get("rejected", "")), str(pair.get("chosen", ""))
        spans = pair.get("edit_spans") or word_edits(rejected, chosen)
        images = pair.get("images") or [None]
        cards.append(
            f'<article class="card">{_picture(images[0])}<div><p class="question">{text(pair.get("prompt", ""))}</p>'
            f'<p class="edit"><small>the model said</small><span>{marked(rejected, spans.get("rejected", []), "del")}</span></p>'
            f'<p class="edit"><small>corrected to</small><span>{marked(chosen, spans.get("chosen", []), "ins")}</span></p></div></article>'
        )
    return section("Minimal edits", note, f'<div class="grid2">{"".join(cards)}</div>') if cards else ""


def marked(words: str, spans: Sequence[Sequence[int]], tag: str) -> str:
    """Escaped text with character spans [start, past last) inside <del> or <ins>; odd spans are cut to fit."""
    parts, at = [], 0
    for start, stop in sorted((int(span[0]), int(span[1])) for span in spans):
        start, stop = max(at, start), min(len(words), stop)
        if start < stop:
            parts.append(f"{text(words[at:start])}<{tag}>{text(words[start:stop])}</{tag}>")
            at = stop
    return "".join(parts) + text(words[at:])


# ---- files, time, notes ----


def _export(files: Sequence[Mapping[str, Any]], check: Mapping[str, Any]) -> str:
    if not files:
        return ""
    total = device_bytes({file["file"]: int(file["bytes"]) for file in files})
    rows = [
        f'<tr><td>{text(file["file"])}</td><td class="n">{int(file["bytes"]):,}</td><td class="n">{_size(int(file["bytes"]))}</td></tr>'
        for file in files
    ]
    rows.append(f'<tr class="sum"><td>total, without the reference questions and pictures</td><td class="n">{total:,}</td>'
                f'<td class="n">{_size(total)}</td></tr>')
    said = []
    if "top1_agreement" in check:
        said.append(
            f"next token agrees with fp32 on {float(check['top1_agreement']):.2f} % of {text(check.get('questions', '?'))} questions"
        )
    if check.get("max_abs_logprob_diff") is not None:
        said.append(f"largest log-probability difference {float(check['max_abs_logprob_diff']):.2g}")
    if check.get("compute"):
        said.append(f"computed in {text(check['compute'])}")
    note = f"Reloaded in a new process: {'; '.join(said)}." if said else ""
    return section("Exported files", note, table('<th>file</th><th class="n">bytes</th><th></th>', rows, "plain"))


def _size(count: int) -> str:
    for unit, step in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= step:
            return f"{count / step:.2f} {unit}"
    return f"{count} B"


def _seconds(seconds: Mapping[str, float]) -> str:
    if not seconds:
        return ""
    total = sum(seconds.values())
    rows = []
    for step, value in seconds.items():
        bar = f'<span class="bar"><i style="width:{100 * value / (max(seconds.values()) or 1):.1f}%"></i></span>'
        rows.append(f'<tr><td>{text(step)}</td><td class="n">{_duration(value)}</td><td class="wide">{bar}</td></tr>')
    rows.append(f'<tr class="sum"><td>total</td><td class="n">{_duration(total)}</td><td></td></tr>')
    return section(
        "Time", "Wall time of each step.", table('<th>step</th><th class="n">time</th><th></th>', rows, "plain time")
    )


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def _notes(notes: Sequence[str]) -> str:
    return section("Notes", "", f"<ul>{''.join(f'<li>{text(note)}</li>' for note in notes)}</ul>") if notes else ""
