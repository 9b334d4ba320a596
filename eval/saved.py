"""Scores saved answers of the real benchmarks, without a model: the official files in, results.json out."""

from __future__ import annotations

import hashlib
from argparse import Namespace
from pathlib import Path

from omnivision import __version__
from omnivision.errors import ConfigError, DataError

from . import mmmu, mmvet, results
from .benchmarks import POPE_SPLITS, REAL, expand
from .grading import ask_judge
from .pope_splits import mean_of_pope
from .predictions import Predictions, Said, match, read_predictions
from .questions import Questions, hashes


def score_saved(tasks: list[str] | tuple[str, ...], predictions: Path, data: Path, grades: Path | None = None,
                out: Path | None = None, judge: Namespace | None = None) -> dict[str, dict]:
    """Scores saved answers.

    Args:
        tasks: pope (its three splits), pope_random, ..., chartqa, mmvet, mmmu, scienceqa, scienceqa_img.
        predictions: the answers; a folder with a file a split (POPE) or a subject (MMMU) works too.
        data: the benchmark's folder, as published.
        grades: MM-Vet's official grades file.
        out: gets <task>/{samples.jsonl,results.json}; None writes nothing.
        judge: options of `add_judge_arguments`: MM-Vet's judge, in place of `grades`.

    Returns:
        Task -> its results.json, also "pope" where all three splits are asked for. A score is None where more than
        1 % of the answers are missing.

    Raises:
        ConfigError: an unknown task, or grades missing or given for another benchmark.
        DataError: a missing or broken file, or answers that do not fit the questions.
    """
    tasks = expand(tasks, REAL, "whose saved answers can be scored")
    if grades is not None and "mmvet" not in tasks:
        raise ConfigError("Grades are MM-Vet's", f"--grades {grades}", "Leave it out.")
    found, samples = {}, {}
    for task in tasks:
        found[task], samples[task] = _score(task, predictions, data, grades, judge, out and out / task)
        if out:
            results.write(out / task, samples[task], found[task])
    if set(POPE_SPLITS) <= set(tasks):
        found["pope"] = mean_of_pope(found, samples)
        if out:
            results.write(out / "pope", [], found["pope"])
    return found


def _score(task: str, path: Path, data: Path, grades: Path | None, judge: Namespace | None, folder: Path | None) -> tuple[dict, list[dict]]:
    benchmark = REAL[task]
    questions = benchmark.load(data, task)
    predictions = mmmu.read_saved(path) if benchmark is mmmu else read_predictions(_file_of(path, task))
    answers, settings = match(questions, predictions)
    notes = questions.notes | _attach(benchmark, questions, answers, predictions, grades, judge, folder)
    samples = results.samples_of(benchmark, questions.rows, [one and one.text for one in answers])
    about = {"model": predictions.model, "data_hash": hashes(questions.files), "settings": {"predictions": path.name, **settings},
             "notes": notes, "version": __version__}
    if predictions.path.is_file():
        about["settings"]["predictions_sha256"] = hashlib.sha256(predictions.path.read_bytes()).hexdigest()
    return results.results_of(task, benchmark, samples, about), samples


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
    if (path / task / "predictions.jsonl").is_file():  # of our own run
        return path / task / "predictions.jsonl"
    word = task.removeprefix("pope_")
    fitting = [one for one in sorted(path.iterdir()) if one.is_file() and word in one.stem and one.suffix in (".json", ".jsonl")]
    if len(fitting) != 1:
        raise DataError(f"The predictions folder has {len(fitting)} files of `{word}`", str(path),
                        f"Keep one .jsonl with `{word}` in its name, or name the file.")
    return fitting[0]
