"""Runs benchmarks on a model and writes their results."""

from __future__ import annotations

import contextlib
import json
from argparse import Namespace
from collections.abc import Callable
from functools import partial
from pathlib import Path

from omnivision.errors import ConfigError, DataError
from omnivision.functions import FunctionSet
from omnivision.functions.calls import write_arguments
from omnivision.runs import write_text

from . import results
from .answer import Answer, Missing
from .asking import ask
from .benchmarks import CALLS, MODULES, POPE_SPLITS, expand
from .cases import Case, Settings, cases_of, with_prompts
from .counterfactuals import CONDITIONS, TASK, falls
from .grading import grade_answers
from .models import Answers, Model, Source
from .pope_splits import mean_of_pope
from .task_data import TaskData, load_task


def evaluate(model: Model | Source, data_dir: str | Path, tasks: list[str] | tuple[str, ...], out_dir: str | Path | None = None,
             settings: Settings = Settings(), judge: Namespace | None = None, on_batch: Callable[[int, int], None] | None = None) -> dict[str, dict]:
    """Answers and scores benchmarks.

    Args:
        model: open, or a source that is opened when it is needed.
        data_dir: the embedded world's folder, or a benchmark's as published.
        tasks: pope (its three splits), pope_random, ..., chartqa, mmvet, mmmu, scienceqa, scienceqa_img, open, actions.
        out_dir: gets <task>/{samples.jsonl,predictions.jsonl,results.json} and answers/, from which a killed run goes on;
            `_held_out`, `_blind` and `_swapped` are added to the task's folder, so that runs never overwrite each other. None writes nothing.
        judge: options of `add_judge_arguments`, for MM-Vet.
        on_batch: called after each batch: how many different prompts are answered, of how many.

    Returns:
        Task -> its results.json; with all three POPE splits also "pope", whose score is the mean F1; with counterfactuals also
        "actions_blind" and "actions_swapped", and how far they fall under `counterfactuals` of "actions".

    Raises:
        ConfigError: unknown task or split, no checkpoint, settings that do not go with the tasks, or `out_dir` is in use or another run's.
        DataError: missing or broken question files, or more than 1 % of a task's pictures; pictures that cannot be swapped; or true calls
            that the model's functions cannot write.
    """
    tasks = expand(tasks, MODULES, "that a model can answer")
    _check(tasks, model, settings)
    data = {task: load_task(task, data_dir, settings.split, settings.limit) for task in tasks}
    _check_true_calls(model, data)
    out = Path(out_dir) if out_dir else None
    model_hash = model.fingerprint() if isinstance(model, Source) and out else None  # reads all weights
    cases = cases_of(model, model_hash, data, settings, out)
    with results.claimed(out, {case.folder.name: case.about for case in cases}) if out else contextlib.nullcontext():
        cases = with_prompts(cases, settings.pictures)
        answers = _answers(partial(ask, model, model_hash=model_hash), cases, settings, out and out / "answers", on_batch)
        found, samples = _scored(cases, answers, settings, judge)
        if out:
            _write(cases, answers, found, samples, model)
    return found


def _check(tasks: list[str], model: Model | Source, settings: Settings) -> None:
    """Refuses settings that do not go with the tasks.

    Raises:
        ConfigError: calls of a model without functional tokens; other tasks than calls under the grammar of calls; counterfactuals without
            actions, or of a blind model.
    """
    others = [task for task in tasks if MODULES[task] not in CALLS]
    if len(others) < len(tasks) and not model.makes_calls:
        raise ConfigError(f"{next(task for task in tasks if task not in others)} is scored from generated ids of functional tokens, and the model has none",
                          model.name, "Take a checkpoint of the stage functions, or leave the task out.")
    if model.constrain and others:
        raise ConfigError(f"{others[0]} is not answered in calls", "--constrain", "Ask it apart from the tasks that are.")
    if settings.counterfactuals and (TASK not in tasks or model.blank):
        what = "A blind model sees no picture that could be changed" if model.blank else f"Counterfactuals are of the task {TASK}"
        raise ConfigError(what, "--counterfactuals", f"Add the task {TASK}, without --blank, or leave it out.")


def _check_true_calls(model: Model | Source, data: dict[str, TaskData]) -> None:
    """Every true call is one that the model's functions can write: else no answer could be right.

    Raises:
        DataError: some are not.
    """
    functions = FunctionSet.beside(model.name) if isinstance(model, Source) else getattr(model, "functions", None)
    for task, one in data.items() if functions else ():
        faults = {row["question_id"]: fault for row in one.rows for call in row.get("calls", ()) if (fault := _fault(call, functions))}
        if faults:
            first, fault = next(iter(faults.items()))
            raise DataError(f"{len(faults)} of {len(one.rows)} requests of {task} have true calls that the model's functions cannot write: {fault}",
                            f"question {first}", "Correct these rows, or take the model that was trained on their functions.")


def _fault(call: dict, functions: FunctionSet) -> str | None:
    nested = call.get("nested") or {}
    try:
        write_arguments(functions[call["name"]], call.get("arguments", {}), nested)
    except DataError as error:
        return f"{error.what} ({error.where})"
    return next((fault for inner in nested.values() if (fault := _fault(inner, functions))), None)


def _answers(asked: Callable[..., Answers], cases: list[Case], settings: Settings, folder: Path | None, on_batch: Callable[[int, int], None] | None) -> Answers:
    """The tasks first and by themselves, so that their batches are the same with and without conditions."""
    tasks, conditions = ([one for case in cases if bool(case.condition) is with_condition for one in case.prompts if one] for with_condition in (False, True))
    answers = asked(tasks, settings.batch_size, folder, settings.processes, on_batch)
    left = [one for one in conditions if one not in answers]
    return answers | asked(left, settings.batch_size, folder, settings.processes, on_batch) if left else answers


def _scored(cases: list[Case], answers: Answers, settings: Settings, judge: Namespace | None) -> tuple[dict[str, dict], dict[str, list[dict]]]:
    """Results, with means and falls, and samples, by the cases' names."""
    found, samples = {}, {}
    for case in cases:
        found[case.name], samples[case.name] = _graded(case, case.given(answers), settings, judge)
    if settings.counterfactuals:
        benchmark = next(case.data.benchmark for case in cases if case.task == TASK)
        found[TASK]["counterfactuals"] = {name: falls(benchmark, samples[TASK], samples[f"{TASK}_{name}"]) for name in CONDITIONS}
    if set(POPE_SPLITS) <= found.keys():
        found["pope"] = mean_of_pope(found, samples)
    return found, samples


def _graded(case: Case, given: list[Answer | Missing], settings: Settings, judge: Namespace | None) -> tuple[dict, list[dict]]:
    """A case's results and samples."""
    data = case.data
    samples, notes = grade_answers(data.benchmark, data.rows, given, judge, case.folder)
    said = {} if data.notes is None else {"notes": data.notes | notes | _odd_answers(data, settings, given, case.about["settings"]["max_new_tokens"])}
    more = CALLS[data.benchmark](samples) if data.benchmark in CALLS else {}
    return results.results_of(case.task, data.benchmark, samples, more | case.about | said), samples


def _odd_answers(data: TaskData, settings: Settings, answers: list[Answer | Missing], longest: int) -> dict[str, str]:
    """What must be said of the answers beside the score."""
    several = sum(len(row["pictures"]) > 1 for row in data.rows)
    reasons = [str(one) for one in answers if isinstance(one, Missing)]
    given = [one for one in answers if isinstance(one, Answer)]
    cut, empty = sum(one.cut for one in given), sum(not one for one in given)
    notes = {"pictures": f"{settings.pictures} of several ({several} questions have several)"} if several else {}
    notes |= {"cut off": f"{cut} answers were still going on after {longest} tokens"} if cut else {}
    notes |= {"empty": f"{empty} answers say nothing"} if empty else {}
    return notes | ({"without an answer": f"{len(reasons)}; {'; '.join(dict.fromkeys(reasons[:3]))}"} if reasons else {})


def _write(cases: list[Case], answers: Answers, found: dict[str, dict], samples: dict[str, list[dict]], model: Model | Source) -> None:
    for case in cases:
        _write_predictions(case, case.given(answers), model.name)
        results.write(case.folder, samples[case.name], found[case.name])
    if "pope" in found:
        split = next(case for case in cases if case.task == POPE_SPLITS[0])
        results.write(split.folder.with_name(split.folder.name.replace(split.task, "pope", 1)), [], found["pope"])


def _write_predictions(case: Case, answers: list[Answer | Missing], model: str) -> None:
    """The answers as LLaVA's files have them, for `--predictions` and for other people's scripts."""
    case.folder.mkdir(parents=True, exist_ok=True)
    lines = [{"question_id": row["question_id"], "prompt": prompt.text, "text": str(answer), "model_id": model}
             for row, prompt, answer in zip(case.data.rows, case.prompts, answers, strict=True) if prompt and not isinstance(answer, Missing)]
    write_text(case.folder / "predictions.jsonl", "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))
