"""What a report shows (ReportData) and how it becomes one self-contained file.

The data comes first and knows no page; page.py and charts.py turn it into HTML and SVG.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, TypedDict

from omnivision.errors import DataError
from omnivision.report.page import render_page


class Score(TypedDict, total=False):
    """One figure of the score table, 0 to 100."""

    score: float  # required
    stderr: float  # of the mean, same unit
    n: int  # questions


class Scores(TypedDict, total=False):
    """One row of the score table; a column that was not measured is left out."""

    stage: str  # required
    note: str  # small print under the name: "image blanked"
    seen: dict[str, Score]  # column -> score: pope_f1, pope_false_yes, chartqa, open, actions
    held_out: dict[str, Score]  # the same for the drawing style that was never trained on


class Curve(TypedDict):
    """The log of one stage."""

    stage: str
    rows: list[dict[str, Any]]  # lines of metrics.jsonl: step, loss, eval_loss, ... (read_metrics)


class Answer(TypedDict, total=False):
    """What the model said after a stage."""

    stage: str
    text: str
    right: bool | None  # None: not judged


class Sample(TypedDict, total=False):
    """A picture with a question."""

    image: str | Path  # file
    question: str
    truth: str
    answers: list[Answer]
    note: str  # small print: "chart, held-out style"


class Pair(TypedDict, total=False):
    """A minimal edit: the model's answer and the teacher's correction of it."""

    images: list[str | Path]  # the first is shown
    prompt: str
    rejected: str
    chosen: str
    # Character spans [start, past last) per side: {"rejected": [[4, 7]], "chosen": [[4, 9]]};
    # left out, the changed words are found by comparing the two texts.
    edit_spans: dict[str, list[list[int]]]


class ExportFile(TypedDict):
    """One exported file."""

    file: str
    bytes: int


class ReportData(TypedDict, total=False):
    """Everything a report shows; a part that is absent or empty is left out of the page."""

    title: str
    lead: str  # a sentence or two under the title
    facts: list[tuple[str, str]]  # the model card: ("Parameters", "4,812,032"), ...
    scores: list[Scores]
    targets: dict[str, float]  # column -> what the run had to reach on seen styles
    curves: list[Curve]
    samples: list[Sample]
    pairs: list[Pair]
    export: list[ExportFile]
    export_check: dict[str, Any]  # top1_agreement, questions, max_abs_logprob_diff, compute (export verify --json)
    seconds: dict[str, float]  # step -> wall seconds, in order
    notes: list[str]


def build_report(data: ReportData, out: str | Path) -> Path:
    """Write the report.

    Args:
        data: what to show; every text in it is untrusted and gets escaped.
        out: the HTML file; its folder is made.

    Returns:
        The file, self-contained: pictures inlined, no script, nothing fetched.

    Raises:
        OSError: the file cannot be written; an older report is then still whole.
    """
    out = Path(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    part = out.with_name(f".{out.name}.part")
    try:
        # A model's broken answer may hold half a character; it must not stop the report.
        part.write_bytes(render_page(data).encode("utf-8", "replace"))
        os.replace(part, out)
    finally:
        part.unlink(missing_ok=True)
    return out


def read_metrics(file: str | Path) -> list[dict[str, Any]]:
    """Lines of a metrics.jsonl; a last line that was cut off by a kill is left out.

    Raises:
        DataError: no such file, or a broken line that is not the last.
    """
    file = Path(file)
    if not file.is_file():
        raise DataError("no metrics file", str(file), "Run the stage first.")
    lines = file.read_text(encoding="utf-8").removesuffix("\n").split("\n")  # texts may hold line separators of Unicode
    rows = []
    for number, line in enumerate(lines, 1):
        try:
            rows.append(json.loads(line))
        except ValueError as error:
            if number < len(lines):
                raise DataError("not a JSON line", f"{file}:{number}", "Fix or remove the line.") from error
    return [row for row in rows if isinstance(row, dict)]
