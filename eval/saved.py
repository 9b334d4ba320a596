"""Scores saved answers of the real benchmarks, without a model: the official files in, results.json out."""

from __future__ import annotations

import contextlib
import hashlib
from argparse import Namespace
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

from omnivision import __version__
from omnivision.errors import ConfigError, DataError

from . import mmmu, mmvet, pope, results
from .answer import Answer, Missing, has_thoughts, without_thoughts
from .benchmarks import POPE_SPLITS, REAL, expand
from .grading import ask_judge
from .pope_splits import mean_of_pope
from .predictions import Predictions, Said, match, read_predictions
from .questions import Questions, hashes
from .task_data import part_of


class Read(NamedTuple):
    """A task's saved answers, read and not graded yet.

    Attributes:
        answers: one a question, None where it is missing. by_alias: whether their ids are LLaVA's.
        about: what else stands in the results.
    """

    questions: Questions
    predictions: Predictions
    answers: list[Said | None]
    by_alias: bool
    about: dict[str, Any]


def score_saved(tasks: list[str] | tuple[str, ...], predictions: Path, data: Path, grades: Path | None = None,
                out: Path | None = None, judge: Namespace | None = None) -> dict[str, dict]:
    """Scores saved answers.

    Args:
        tasks: pope (its three splits), pope_random, ..., chartqa, mmvet, mmmu, scienceqa, scienceqa_img.
        predictions: the answers; a folder with a file a split (POPE) or a subject (MMMU) works too.
        data: the benchmark's folder, as published.
        grades: MM-Vet's official grades file.
        out: gets <task>/{samples.jsonl,results.json}, of one model; None writes nothing.
        judge: options of `add_judge_arguments`: MM-Vet's judge, in place of `grades`.

    Returns:
        Task -> its results.json, also "pope" where all three splits are asked for. A score is None where more than
        1 % of the answers are missing.

    Raises:
        ConfigError: an unknown task, grades missing or given for another benchmark, or `out` is in use or holds other results.
        DataError: a missing or broken file, answers that do not fit the questions, or of several models.
    """
    tasks = expand(tasks, REAL, "whose saved answers can be scored")
    if grades is not None and "mmvet" not in tasks:
        raise ConfigError("Grades are MM-Vet's", f"--grades {grades}", "Leave it out.")
    found, samples = {}, {}
    read = {task: _read(task, predictions, data) for task in tasks}
    _check_one_model(read)
    _check_splits(read)
    with results.claimed(out, {task: one.about for task, one in read.items()}) if out else contextlib.nullcontext():
        for task, one in read.items():
            found[task], samples[task] = _score(task, one, grades, judge, out and out / task)
            if out:
                results.write(out / task, samples[task], found[task])
        if set(POPE_SPLITS) <= set(tasks):
            found["pope"] = mean_of_pope(found, samples)
            if out:
                results.write(out / "pope", [], found["pope"])
    return found


def _read(task: str, path: Path, data: Path) -> Read:
    benchmark = REAL[task]
    questions = benchmark.load(data, task)
    if benchmark is mmmu and not _of_our_run(path, task).is_file():
        predictions = mmmu.read_saved(path)
    else:
        split = task.removeprefix("pope_") if task in POPE_SPLITS else None
        predictions = read_predictions(_file_of(path, task), split=split, splits=pope.SPLITS if split else ())
    answers, settings, by_alias = match(questions, predictions)
    answers = [one and _spoken(one) for one in answers]
    settings |= {results.SAVED: hashlib.sha256(b"".join(file.read_bytes() for file in predictions.files)).hexdigest()}
    about = {"model": predictions.model or (path.name if path.is_dir() else path.stem), "data_hash": hashes(questions.files),
             "settings": {"predictions": path.name, **settings}, "version": __version__}
    return Read(questions, predictions, answers, by_alias, about)


def _spoken(said: Said) -> Said | None:
    """An answer without its thoughts; None where these have not ended."""
    answer = without_thoughts(Answer(said.text))
    return None if isinstance(answer, Missing) else said._replace(text=str(answer))


def _check_one_model(read: dict[str, Read]) -> None:
    models = {one.predictions.model: one.predictions.path for one in read.values() if one.predictions.model}
    if len(models) > 1:
        raise DataError(f"The answers are of {len(models)} models: {', '.join(models)}", ", ".join(map(str, models.values())),
                        "Score each model's answers by themselves.")


def _check_splits(read: dict[str, Read]) -> None:
    """In the official numbering every split of POPE counts from 1: one file would answer all of them.

    Raises:
        DataError: several splits read one file that is not in LLaVA's numbering, and whose records name no split.
    """
    splits = {task: one for task, one in read.items() if task in POPE_SPLITS}
    readers = Counter(one.predictions.path for one in splits.values())
    for one in splits.values():
        if readers[one.predictions.path] > 1 and not one.by_alias and not one.predictions.beside:
            raise DataError(f"The ids count from 1 in each split, so that the file holds one split, and {readers[one.predictions.path]} are to be scored",
                            str(one.predictions.path), f"Name its split ({', '.join(POPE_SPLITS)}), or give a folder with a file a split.")


def _score(task: str, read: Read, grades: Path | None, judge: Namespace | None, folder: Path | None) -> tuple[dict, list[dict]]:
    benchmark, questions = REAL[task], read.questions
    thoughts = sum(has_thoughts(one.text) for one in read.predictions.said.values())
    notes = questions.notes | ({"thoughts": f"in {thoughts:,} answers, left out"} if thoughts else {})
    notes |= part_of(task, len(questions.rows)) | _attach(benchmark, questions, read.answers, read.predictions, grades, judge, folder)
    samples = results.samples_of(benchmark, questions.rows, [one and one.text for one in read.answers])
    return results.results_of(task, benchmark, samples, read.about | {"notes": notes}), samples


def _attach(benchmark, questions: Questions, answers: list[Said | None], predictions: Predictions, grades: Path | None,
            judge: Namespace | None, folder: Path | None) -> dict[str, str]:
    """What grading needs beside the answer, put into the rows; what of it must be said beside the score."""
    if benchmark is mmmu:
        return mmmu.attach_answers(questions.rows, answers, predictions)
    if benchmark is not mmvet:
        return {}
    judged = judge is not None and judge.judge
    if bool(judged) == (grades is not None):
        raise ConfigError("MM-Vet is scored from a judge's grades", "--grades, --judge", "Give the official script's grades file, or a judge, not both.")
    if judged:
        return ask_judge(questions.rows, [one and one.text for one in answers], judge, folder)
    return mmvet.attach_grades(questions.rows, grades)


def _file_of(path: Path, task: str) -> Path:
    """The predictions file of a task: the file itself, or the one in the folder whose name says the split."""
    if not path.is_dir():
        return path
    if _of_our_run(path, task).is_file():
        return _of_our_run(path, task)
    word = task.removeprefix("pope_")
    fitting = [one for one in sorted(path.iterdir()) if one.is_file() and word in one.stem and one.suffix in (".json", ".jsonl", ".csv", ".tsv")]
    if len(fitting) != 1:
        raise DataError(f"The predictions folder has {len(fitting)} files of `{word}`", str(path),
                        f"Keep one with `{word}` in its name, or name the file.")
    return fitting[0]


def _of_our_run(folder: Path, task: str) -> Path:
    return folder / task / "predictions.jsonl"
