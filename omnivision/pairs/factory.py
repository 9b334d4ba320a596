"""From answers to preference rows: the teacher's verdicts, the gates, a second look, and what became of every answer."""

from __future__ import annotations

import json
import statistics
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict
from typing import Any, NamedTuple

from omnivision.pairs.gates import Limits, failed_gate, ratios
from omnivision.pairs.teacher import CORRECTED, RIGHT, Task, Teacher, Verdict
from omnivision.pairs.words import word_edits

PAIR = "pairs"
DISAGREES = "second_look_disagrees"


class Outcome(NamedTuple):
    """What became of one answer: `right`, `pairs`, `unmended`, the gate that it failed, or how asking failed."""

    task: Task
    kind: str
    verdict: Verdict


def correct_all(tasks: list[Task], teacher: Teacher, limits: Limits, second_look: bool) -> list[Outcome]:
    """One outcome for every task, in their order.

    Args:
        second_look: whether the teacher is asked again about what it wrote; only what it then calls right becomes a pair.
    """
    found: dict[str, Outcome] = {}
    minimal: dict[str, Outcome] = {}
    for task, verdict in teacher.correct(tasks):
        kind = verdict.kind
        if kind == CORRECTED:
            kind = failed_gate(task.answer, verdict.text, limits) or PAIR
        (minimal if kind == PAIR and second_look else found)[task.key] = Outcome(task, kind, verdict)
    again = [outcome.task._replace(answer=outcome.verdict.text, original=outcome.task.answer) for outcome in minimal.values()]
    for task, verdict in teacher.agrees(again):
        first = minimal[task.key]
        kind = PAIR if verdict.kind == RIGHT else verdict.kind if verdict.kind.startswith("failed") else DISAGREES
        found[task.key] = Outcome(first.task, kind, first.verdict)
    return [found[task.key] for task in tasks]


def pair_rows(outcomes: Iterable[Outcome], provenance: dict[str, Any]) -> list[dict]:
    """Preference rows of the outcomes that are pairs.

    Args:
        provenance: model, its hash, teacher, prompt, seed: kept with every row.
    """
    rows = []
    for outcome in outcomes:
        if outcome.kind != PAIR:
            continue
        task, chosen = outcome.task, outcome.verdict.text
        name = task.key.partition("/")[2]
        rows.append({"id": f"{task.row.id}-pair" + ("" if name == "0" else f"-{name}"), "images": list(task.row.images), "prompt": task.question,
                     "chosen": chosen, "rejected": task.answer, "edit_spans": word_edits(task.answer, chosen),
                     "ratios": asdict(ratios(task.answer, chosen)), "wrong_words": list(outcome.verdict.wrong), **provenance})
    return rows


def statistics_of(outcomes: list[Outcome], rows: list[dict]) -> dict[str, Any]:
    """Counts by kind (all of them together are the answers), and how large the edits are."""
    edited, length = [row["ratios"]["edited"] for row in rows], [row["ratios"]["length"] for row in rows]
    spread = {name: {"median": statistics.median(values), "most": max(values)} for name, values in (("edited", edited), ("length", length)) if values}
    counts = {RIGHT: 0, PAIR: 0, **Counter(outcome.kind for outcome in outcomes)}
    return {"answers": len(outcomes), "outcomes": counts, "ratios": spread}


def lines(rows: Iterable[dict]) -> str:
    """JSON lines."""
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
