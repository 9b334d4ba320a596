"""Runs benchmarks on a model and writes their results."""

from __future__ import annotations

import json
from argparse import Namespace
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omnivision import __version__
from omnivision.errors import ConfigError
from omnivision.runs import read_json, write_text

from . import results
from .answer import Answer, Missing
from .asking import ask
from .benchmarks import MODULES, POPE_SPLITS, expand
from .grading import grade_answers
from .models import Model, Source
from .pictures import few_faults, look_at
from .pope_splits import mean_of_pope
from .prompts import Prompt
from .task_data import TaskData, chosen, load_task, prompt_of


@dataclass(frozen=True)
class Settings:
    """How benchmarks are run.

    Args:
        limit: only the first so many questions of each task.
        batch_size: questions at a time.
        split: of the embedded world: "eval" (seen styles, where None) or "eval_held_out".
        pictures: "first" or "all" of a question's several pictures (MMMU).
        processes: that open the model and share the work; in-memory models have one.
    """

    limit: int | None = None
    batch_size: int = 32
    split: str | None = None
    pictures: str = "first"
    processes: int = 1


def evaluate(model: Model | Source, data_dir: str | Path, tasks: list[str] | tuple[str, ...], out_dir: str | Path | None = None,
             settings: Settings = Settings(), judge: Namespace | None = None, on_batch: Callable[[int, int], None] | None = None) -> dict[str, dict]:
    """Answers and scores benchmarks.

    Args:
        model: open, or a source that is opened when it is needed.
        data_dir: the embedded world's folder, or a benchmark's as published.
        tasks: pope (its three splits), pope_random, ..., chartqa, mmvet, mmmu, scienceqa, scienceqa_img, open, actions.
        out_dir: gets <task>/{samples.jsonl,predictions.jsonl,results.json} and answers/, from which a killed run goes on;
            `_held_out` and `_blind` are added to the task's folder, so that runs never overwrite each other. None writes nothing.
        judge: options of `add_judge_arguments`, for MM-Vet.
        on_batch: called after each batch: how many different prompts are answered, of how many.

    Returns:
        Task -> its results.json; with all three POPE splits also "pope", whose score is the mean F1.

    Raises:
        ConfigError: unknown task or split, or no checkpoint.
        DataError: missing or broken question files, or more than 1 % of a task's pictures.
    """
    tasks = expand(tasks, MODULES, "that a model can answer")
    data = {task: load_task(task, data_dir, settings.split, settings.limit) for task in tasks}
    about = {task: _about(model, one, settings) for task, one in data.items()}
    suffix = ("_held_out" if settings.split == "eval_held_out" else "") + ("_blind" if model.blank else "")
    out = Path(out_dir) if out_dir else None
    if out:
        _claim(out, {task + suffix: one for task, one in about.items()})
    prompts, faults = _prompts(data, settings.pictures)
    answers = ask(model, [one for some in prompts.values() for one in some if one], settings.batch_size, out and out / "answers",
                  settings.processes, on_batch)
    found, samples = {}, {}
    for task, one in data.items():
        folder = out and out / (task + suffix)
        given = [answers[prompt] if prompt else Missing(fault) for prompt, fault in zip(prompts[task], faults[task], strict=True)]
        samples[task], notes = grade_answers(one.benchmark, one.rows, given, judge, folder)
        said = {} if one.notes is None else {"notes": one.notes | notes | _odd_answers(one, settings, given)}
        found[task] = results.results_of(task, one.benchmark, samples[task], about[task] | said)
        if folder:
            _write_predictions(folder, one.rows, prompts[task], given, model.name)
            results.write(folder, samples[task], found[task])
    if set(POPE_SPLITS) <= set(tasks):
        found["pope"] = mean_of_pope(found, samples)
        if out:
            results.write(out / ("pope" + suffix), [], found["pope"])
    return found


def _claim(out: Path, about: dict[str, dict[str, Any]]) -> None:
    """Makes the folder of the results, or checks that what lies there is of the same model and settings.

    Raises:
        ConfigError: it cannot be made, or holds results of another model, of other questions or of other settings.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"The folder cannot be made: {error.strerror}", str(out), "Give another --out.") from error
    model = next(iter(about.values()))["model"]
    for file in sorted(out.glob("*/results.json")):
        there, mine = read_json(file), about.get(file.parent.name)
        differ = [] if there["model"] == model else ["model"]
        if mine:
            same_batch = {**there["settings"], "batch_size": mine["settings"]["batch_size"]}  # which changes no answer
            differ += [key for key, given in (("data_hash", there["data_hash"]), ("settings", same_batch)) if given != mine[key]]
        if differ:
            raise ConfigError(f"The folder holds results of another run, with another {' and '.join(differ)}", str(file), "Give another --out, or remove it.")


def _prompts(data: dict[str, TaskData], pictures: str) -> tuple[dict[str, list[Prompt | None]], dict[str, list[str]]]:
    """What is asked for every question of every task, None where its picture cannot be shown; and why."""
    for one in data.values():
        for row in one.rows:
            row["shown"] = chosen(row["pictures"], pictures)
    seen = look_at([picture for one in data.values() for row in one.rows for picture in row["shown"]])
    prompts, faults = {}, {}
    for task, one in data.items():
        errors = few_faults(task, one.rows, seen, one.remedy)
        prompts[task] = [None if error else prompt_of(one, row, seen) for row, error in zip(one.rows, errors, strict=True)]
        faults[task] = [str(error or "") for error in errors]
    return prompts, faults


def _about(model: Model | Source, data: TaskData, settings: Settings) -> dict[str, Any]:
    said = {"split": settings.split, "blank": model.blank, "limit": settings.limit, "batch_size": settings.batch_size,
            "max_new_tokens": data.benchmark.MAX_NEW_TOKENS, "pictures": settings.pictures, "dtype": model.dtype}
    return {"model": model.name, "data_hash": data.data_hash, "settings": said, "version": __version__}


def _odd_answers(data: TaskData, settings: Settings, answers: list[Answer | Missing]) -> dict[str, str]:
    """What must be said of the answers beside the score."""
    several = sum(len(row["pictures"]) > 1 for row in data.rows)
    reasons = [str(one) for one in answers if isinstance(one, Missing)]
    given = [one for one in answers if isinstance(one, Answer)]
    cut, empty = sum(one.cut for one in given), sum(not one for one in given)
    notes = {"pictures": f"{settings.pictures} of several ({several} questions have several)"} if several else {}
    notes |= {"cut off": f"{cut} answers were still going on after {data.benchmark.MAX_NEW_TOKENS} tokens"} if cut else {}
    notes |= {"empty": f"{empty} answers say nothing"} if empty else {}
    return notes | ({"without an answer": f"{len(reasons)}; {'; '.join(dict.fromkeys(reasons[:3]))}"} if reasons else {})


def _write_predictions(folder: Path, rows: list[dict], prompts: list[Prompt | None], answers: list[Answer | Missing], model: str) -> None:
    """The answers as LLaVA's files have them, for `--predictions` and for other people's scripts."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = [{"question_id": row["question_id"], "prompt": prompt.text, "text": str(answer), "model_id": model}
             for row, prompt, answer in zip(rows, prompts, answers, strict=True) if prompt and not isinstance(answer, Missing)]
    write_text(folder / "predictions.jsonl", "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))
