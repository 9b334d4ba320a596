"""Grades of MM-Vet's answers: the tries of the official script, except that what it could not read is missing and not 0.

A reply is asked for again, with a nudge and from the third try on at a higher temperature, where the judge said something that is no grade.
Where it said nothing (429, 500, a time limit, half a JSON) the client has tried often enough: the grade is missing until the next start.

Source: mm-vet_evaluator.py of yuweihao/MM-Vet@acde843, read there.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from omnivision.endpoint import Billed, Kind, Outcome
from omnivision.runs import write_json

from . import mmvet
from .judge_key import Key, row_hash
from .judge_prompt import Prompt, table_row

TEMPERATURES = (0.0, 0.0, 0.5, 1.0, 1.5)  # of the tries; the script sends a sixth, at 2.0, and does not read it
WHOLE = re.compile(r"[^ ]+ |\s*\d*\.\d")  # a first word that no token limit can have cut: "0." may have been going to be 0.5
LONGEST_TOLD = 100  # characters of the first failure
GRADES_FILE = "grades.json"


class Judge(Protocol):
    """Who grades. `absent` says why a question has no outcome at all."""

    name: str
    model: str
    max_tokens: int
    absent: str

    def ask(self, questions: Iterable[tuple[str, list]], temperature: float) -> Iterator[Outcome]:
        """Outcomes of (key, messages) pairs, in any order; perhaps not of all."""

    def possibly_billed(self) -> int:
        """Requests of which nobody knows whether they were billed."""


@dataclass
class Grade:
    """One grade that is wanted, and the outcomes of its tries so far."""

    question: str
    run: int
    row: str
    tries: list[Outcome] = field(default_factory=list)

    @property
    def score(self) -> float | None:
        """The grade; None where there is none (yet)."""
        return read_grade(self.tries[-1]) if self.tries else None

    @property
    def reply(self) -> Outcome | None:
        """The last reply that will not change: also what a recorded judge knows."""
        return next((one for one in reversed(self.tries) if one.final), None)

    @property
    def is_open(self) -> bool:
        """Whether another try is due."""
        if not self.tries:
            return True
        last = self.tries[-1]
        said = last.final and last.billed is not Billed.NO
        return said and self.score is None and len(self.tries) < len(TEMPERATURES)


def read_grade(outcome: Outcome) -> float | None:
    """What the judge said as a grade; None where it said none, or may have been cut off within it.

    Three tokens are just enough for "0.5": an endpoint calls such a reply cut off.
    """
    if outcome.kind is Kind.ANSWERED or (outcome.kind is Kind.CUT_OFF and WHOLE.match(outcome.text)):
        return mmvet.read_reply(outcome.text)
    return None


def grade_rows(rows: list[dict], answers: list[str | None], judge: Judge, prompt: Prompt, runs: int, folder: Path) -> dict[str, Any]:
    """Grades every answer, writes the official grades file and gives every row its `grades`.

    Args:
        rows: from `mmvet.load`.
        answers: one a row; None is missing and not graded.
        judge: asked for what its record does not hold.
        prompt: what it is told.
        runs: grades of each answer.
        folder: gets grades.json, written last.

    Returns:
        What must be said beside the score.
    """
    table = {row["question_id"]: table_row(row["question"], row["label"], answer)
             for row, answer in zip(rows, answers, strict=True) if answer is not None}
    grades = [Grade(key, run, row) for run in range(1, runs + 1) for key, row in table.items()]
    _ask(grades, judge, prompt)
    path = folder / GRADES_FILE
    write_json(path, _entries(grades))
    if grades:
        told = mmvet.attach_grades(rows, path)
    else:
        told = {"judge": "not asked: there is no answer"}
        for row in rows:
            row["grades"] = [None] * runs
    return {**told, **_notes(grades, judge, prompt)}


def _ask(grades: list[Grade], judge: Judge, prompt: Prompt) -> None:
    for trial, temperature in enumerate(TEMPERATURES, 1):
        due = {str(Key(judge.model, judge.max_tokens, prompt.hash, one.question, row_hash(one.row), one.run, trial)): one
               for one in grades if one.is_open and len(one.tries) == trial - 1}
        if due:
            questions = ((key, prompt.messages(one.row, again=trial > 1)) for key, one in due.items())
            for outcome in judge.ask(questions, temperature):
                due[outcome.key].tries.append(outcome)


def _entries(grades: list[Grade]) -> dict[str, dict[str, list]]:
    """The official form, an entry a run; None where there is nothing."""
    found: dict[str, dict[str, list]] = {}
    for one in grades:
        entry, reply = found.setdefault(one.question, {"model": [], "content": [], "score": []}), one.reply
        entry["model"].append(reply.model or None if reply else None)
        entry["content"].append(reply.text or None if reply else None)
        entry["score"].append(one.score)
    return found


def _notes(grades: list[Grade], judge: Judge, prompt: Prompt) -> dict[str, Any]:
    failures, first = Counter(), ""
    for one in grades:
        for outcome in one.tries:
            if read_grade(outcome) is None:
                failures[_fault(outcome)] += 1
                first = first or f"{one.question}, run {one.run}: {_fault(outcome)}: {(outcome.text or outcome.detail)[:LONGEST_TOLD]!r}"
        failures[judge.absent] += one.is_open
    return {"judge asked": f"{judge.name}, {judge.max_tokens} tokens", "judge prompt": f"{prompt.name}, hash {prompt.hash}",
            "judge failures": dict(sorted((+failures).items())), **({"judge first failure": first} if first else {}),
            "judge possibly billed": judge.possibly_billed()}


def _fault(outcome: Outcome) -> str:
    said = outcome.kind in (Kind.ANSWERED, Kind.CUT_OFF) and mmvet.read_reply(outcome.text) is None
    return "unreadable" if said else outcome.kind.value
