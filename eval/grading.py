"""Answers become samples: what grading needs beside an answer (a judge's grades, a random option) is put into the rows, then all are graded."""

from __future__ import annotations

import sys
import tempfile
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

from . import mmmu, mmvet, results
from .answer import Missing
from .predictions import Predictions, Said

BILLED = "judge possibly billed"
NO_JUDGE = "none; grade the saved answers with --predictions and --judge"


def grade_answers(benchmark: ModuleType, rows: list[dict], answers: Sequence[str | None], judge: Namespace | None,
                  folder: Path | None) -> tuple[list[dict], dict[str, str]]:
    """Grades a model's answers.

    Args:
        benchmark: its module. rows: its questions. answers: in their order; None or Missing where there is none.
        judge: options of `add_judge_arguments`, for MM-Vet; None leaves its grades missing.
        folder: keeps the judge's ledger and grades.

    Returns:
        Samples, and what must be said beside the score.
    """
    notes: dict[str, str] = {}
    if benchmark is mmmu:
        said = [None if _missing(one) else Said(str(one), row["question_id"], {}) for row, one in zip(rows, answers, strict=True)]
        by_id = {row["question_id"]: one for row, one in zip(rows, said, strict=True) if one}
        notes = mmmu.attach_answers(rows, said, Predictions(by_id, {}, False, Path("answers")))
    elif benchmark is mmvet:
        notes = ask_judge(rows, [None if _missing(one) else str(one) for one in answers], judge, folder)
    return results.samples_of(benchmark, rows, answers), notes


def ask_judge(rows: list[dict], answers: list[str | None], judge: Namespace | None, folder: Path | None) -> dict[str, str]:
    """Gives MM-Vet's rows their grades; without a judge they have none. Arguments and result as `grade_answers`."""
    if judge is None or not judge.judge:
        for row in rows:
            row["grades"] = []
        return {"judge": NO_JUDGE}
    from .judge import judge_rows

    with tempfile.TemporaryDirectory() as aside:
        folder = folder or Path(aside)
        notes = judge_rows(rows, answers, judge, folder)
    if billed := notes.pop(BILLED, None):  # depends on when a run was killed: results do not
        print(f"omnivision: the judge's server may have billed requests that gave nothing: {billed}.", file=sys.stderr)
    return notes


def _missing(answer: str | None) -> bool:
    return answer is None or isinstance(answer, Missing)
