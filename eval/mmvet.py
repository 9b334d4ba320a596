"""MM-Vet: open questions that need several capabilities at once, graded 0 to 1 by a language model.

Only grades are read here, from the official grades file, which `judge` writes as well. A question whose grade is missing in any run is
missing, never 0. The official script gives 0 where the judge's reply could not be read five times: such a grade is missing too.

Source: mm-vet_evaluator.py of yuweihao/MM-Vet@acde843, read there.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np

from omnivision.errors import DataError

from .questions import Questions, first_file, image_file, no_id_twice, read_mapping, read_rows, test_tables
from .rates import headline
from .results import refused

VARIANTS = ("official",)  # the judge reads the answer; there is no second reading
MAX_NEW_TOKENS = 512
METRICS = ("judged", "valid_rate", "missing", "std")
CAPABILITIES = ("rec", "ocr", "know", "gen", "spat", "math")
LEADING = 4  # columns before those of the runs


def load(folder: Path, task: str = "mmvet") -> Questions:
    """The 218 questions of mm-vet.json; pictures in images/.

    Args:
        folder: as unpacked from mm-vet.zip; or holds the hub's table (test-*.parquet, also in data/), or is a data set, with
            `question_id, image, question, answer, capability` (names with commas between).
        task: unused; every loader has it.

    Returns:
        Rows with ids v1_0 ... (LLaVA's files number them 0 ...: the alias), `capability` (a list) and
        `capability_set` (their names joined, in the paper's order).

    Raises:
        DataError: the file is missing or broken, or names an unknown capability.
    """
    if files := test_tables(folder):
        needed = ("question_id", "image", "question", "answer", "capability")
        rows = [_row(str(one["question_id"]), one | {"imagename": str(one["image"]), "capability": one["capability"].split(",")}, file)
                | {"pictures": [one["image"]]} for file in files for one in read_rows(file, needed)]
        no_id_twice(rows, files[0])
        return Questions(rows, files)
    path = first_file(folder, ["mm-vet.json"], "MM-Vet's questions", "mm-vet.zip of yuweihao/MM-Vet")
    rows = [_row(key, one, path) for key, one in read_mapping(path, "questions").items()]
    return Questions([row | {"image_file": image_file(folder, ("images",), row["image"])} for row in rows], [path])


def _row(key: str, one: dict, path: Path | str) -> dict:
    if not isinstance(one, dict) or not {"imagename", "question", "answer", "capability"} <= one.keys() or not set(one["capability"]) <= set(CAPABILITIES):
        raise DataError(f"The question {key!r} lacks a field or names an unknown capability", str(path), "Copy it again.")
    needs = [name for name in CAPABILITIES if name in one["capability"]]
    return {"question_id": key, "alias": key.removeprefix("v1_"), "unit": key, "image": one["imagename"], "text": one["question"],
            "question": one["question"], "label": one["answer"], "capability": needs, "capability_set": "_".join(needs)}


def prompt(row: dict) -> str:
    """The bare question."""
    return row["text"]


def attach_grades(rows: list[dict], path: Path) -> dict:
    """Gives every row its `grades`, one a run, None where a run has none.

    Args:
        rows: from `load`.
        path: the official grades file, {id: {"model": [...], "content": [...], "score": [...]}} with an entry a run.

    Returns:
        What must be said beside the score: `judge` (the models that graded, and how often) and `grades` (file and runs).

    Raises:
        DataError: grades of unknown questions, a grade outside 0 to 1, or one that is not what the judge replied.
    """
    graded, known = read_mapping(path, "grades"), {row["question_id"] for row in rows}
    if unknown := [key for key in graded if key not in known]:
        raise DataError(f"{len(unknown)} grades are of unknown questions, the first {unknown[0]!r}", str(path), "Give the grades of this benchmark.")
    found = {key: _grades(one, f"{path}[{key}]") for key, one in graded.items()}
    runs = max(map(len, found.values()))
    for row in rows:
        grades = found.get(row["question_id"], [])
        row["grades"] = grades + [None] * (runs - len(grades))
    judges = Counter(str(name) for one in graded.values() for name in one.get("model", ()) if name is not None)
    return {"judge": ", ".join(f"{name} ({count})" for name, count in sorted(judges.items())) or "not named",
            "grades": f"{path.name}, {runs} runs"}


def _grades(one, where: str) -> list[float | None]:
    scores = one.get("score") if isinstance(one, dict) else None
    if not isinstance(scores, list):
        raise DataError("A grade has no list `score`", where, "Give the official script's grades file.")
    replies = one.get("content") or [None] * len(scores)
    if len(replies) != len(scores):
        raise DataError(f"There are {len(scores)} grades and {len(replies)} replies", where, "Grade the question again.")
    return [_grade_of(score, reply, where) for score, reply in zip(scores, replies, strict=True)]


def _grade_of(score, reply, where: str) -> float | None:
    """The grade, None where there is none or the reply does not say one (the official script writes 0 then)."""
    if score is None:
        return None
    if isinstance(score, bool) or not isinstance(score, int | float) or not 0 <= score <= 1:
        raise DataError(f"The grade {score!r} does not lie between 0 and 1", where, "Grade the question again.")
    if reply is None:
        return float(score)
    said = read_reply(reply)
    if said is not None and said != score:
        raise DataError(f"The grade {score} is not the {said} that the judge replied", where, "Grade the question again.")
    return said


def read_reply(reply: str) -> float | None:
    """The judge's reply: its first word as a number between 0 and 1; None for anything else."""
    try:
        grade = float(str(reply).split(" ")[0].strip())
    except ValueError:
        return None
    return grade if 0 <= grade <= 1 else None


def grade(row: dict, answer: str) -> dict[str, dict]:
    """The mean of the question's grades over the runs.

    Args:
        row: a question with its `grades`.
        answer: the model's text.

    Returns:
        `said`, `score` (None where a run has no grade), `valid` (the answer is not empty) and `runs`.
    """
    missing = not row["grades"] or None in row["grades"]
    score = None if missing else sum(row["grades"]) / len(row["grades"])
    return {"official": {"said": answer, "score": score, "valid": bool(answer.strip()), "runs": row["grades"]}}


def columns(row: dict, graded: dict) -> tuple[float, ...]:
    """Counts of one question: mean grade, graded, valid, asked; then the grade of each run."""
    if graded["score"] is None:
        return 0.0, 0.0, float(graded["valid"]), 1.0, *[0.0] * len(graded["runs"])
    return graded["score"], 1.0, float(graded["valid"]), 1.0, *graded["runs"]


def metrics(totals_K: np.ndarray) -> dict[str, float | None]:
    """The mean over runs, its standard deviation over runs (of the population, as the script's), and each run."""
    graded, valid, asked = (float(value) for value in totals_K[1:LEADING])
    runs = 100 * np.asarray(totals_K[LEADING:], dtype=float) / max(graded, 1)
    return {
        "judged": None if refused(graded, asked) else float(headline(np.asarray(totals_K, dtype=float)[None])[0]),
        "valid_rate": 100 * valid / max(asked, 1), "missing": asked - graded, "std": float(np.std(runs)) if runs.size else None,
        **{f"run {number}": float(one) for number, one in enumerate(runs, 1)},
    }
