"""What one evaluation asks under each name: a task's questions, or the same under a condition, with their prompts and where their results go."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from omnivision import __version__
from omnivision.endpoint.settings import LIMITS

from .answer import Answer, Missing, without_thoughts
from .counterfactuals import CONDITIONS, TASK, changed
from .models import Answers, Model, Source
from .pictures import few_faults, look_at
from .prompts import Prompt
from .task_data import TaskData, chosen, prompt_of


@dataclass(frozen=True)
class Settings:
    """How benchmarks are run.

    Args:
        limit: only the first so many questions of each task.
        batch_size: questions at a time.
        split: of the embedded world: "eval" (seen styles, where None) or "eval_held_out".
        pictures: "first" or "all" of a question's several pictures (MMMU).
        processes: that open the model and share the work; in-memory models have one.
        counterfactuals: ask the actions again about a grey picture, and about another request's.
    """

    limit: int | None = None
    batch_size: int = 32
    split: str | None = None
    pictures: str = "first"
    processes: int = 1
    counterfactuals: bool = False


class Case(NamedTuple):
    """What is asked under one name.

    Attributes:
        name: the task's, with the condition where there is one. task, condition: the two.
        data: its questions. about: what else stands in its results.
        folder: of its results; None writes none.
        prompts: one a question, None where its picture cannot be shown. faults: why, for each.
    """

    name: str
    task: str
    condition: str | None
    data: TaskData
    about: dict[str, Any]
    folder: Path | None
    prompts: Sequence[Prompt | None] = ()
    faults: Sequence[str] = ()

    def given(self, answers: Answers) -> list[Answer | Missing]:
        """The answer to each of its questions, without thoughts."""
        return [without_thoughts(answers[prompt]) if prompt else Missing(fault) for prompt, fault in zip(self.prompts, self.faults, strict=True)]


def cases_of(model: Model | Source, model_hash: str | None, data: dict[str, TaskData], settings: Settings, out: Path | None) -> list[Case]:
    """The tasks, then their conditions, without prompts yet.

    Args:
        model_hash: of a source. data: task -> its questions. out: the folder of all results.
    """
    suffix = ("_held_out" if settings.split == "eval_held_out" else "") + ("_blind" if model.blank else "")
    named = [(task, None) for task in data] + [(TASK, condition) for condition in CONDITIONS if settings.counterfactuals]
    cases = []
    for task, condition in named:
        ending = f"_{condition}" if condition else ""
        about = _about(model, model_hash, data[task], settings, CONDITIONS[condition] if condition else {})
        cases.append(Case(task + ending, task, condition, data[task], about, out and out / (task + suffix + ending)))
    return cases


def with_prompts(cases: list[Case], pictures: str) -> list[Case]:
    """The cases with what is asked; every picture is looked at once.

    Args:
        pictures: "first" or "all" of a question's.

    Raises:
        DataError: too many pictures of a task cannot be shown, or they cannot be swapped.
    """
    plain = {case.task: case.data for case in cases if not case.condition}
    for one in plain.values():
        for row in one.rows:
            row["shown"] = chosen(row["pictures"], pictures)
    seen = look_at([picture for one in plain.values() for row in one.rows for picture in row["shown"]])
    prompts, faults = {}, {}
    for task, one in plain.items():
        errors = few_faults(task, one.rows, seen, one.remedy)
        prompts[task] = [None if error else prompt_of(one, row, seen) for row, error in zip(one.rows, errors, strict=True)]
        faults[task] = [str(error or "") for error in errors]
    made = []
    for case in cases:
        rows, asked = case.data.rows, prompts[case.task]
        if case.condition:
            rows, asked = changed(case.condition, rows, asked)
        made.append(case._replace(data=case.data._replace(rows=rows), prompts=asked, faults=faults[case.task]))
    return made


def _about(model: Model | Source, model_hash: str | None, data: TaskData, settings: Settings, changes: dict[str, Any]) -> dict[str, Any]:
    longest = next((model.request_fields[name] for name in LIMITS if model.request_fields.get(name)), data.max_new_tokens)
    said = {"split": settings.split, "blank": model.blank, "limit": settings.limit, "batch_size": settings.batch_size,
            "max_new_tokens": longest, "pictures": settings.pictures, "dtype": model.dtype}
    said |= ({"constrain": True} if model.constrain else {}) | ({"prepared": model.prepared} if model.prepared else {})
    said |= {"request_fields": model.request_fields} if model.request_fields else {}
    return {"model": model.name, "model_hash": model_hash, "data_hash": data.data_hash, "settings": said | changes, "version": __version__}
