"""MMMU: college questions of 30 subjects with pictures in them; options, or an open answer.

`official` gives an unreadable choice a random option, as the official code does (seed 42, subjects in its order);
`normalised` counts it as wrong.

Source: main_parse_and_eval.py, main_eval_only.py and utils/data_utils.py of MMMU-Benchmark/MMMU@bb0b95a, read there.
"""

from __future__ import annotations

import ast
import random
import re
from pathlib import Path

import numpy as np

from omnivision.errors import ConfigError, DataError

from .mmmu_reading import choice_is_right, open_is_right, read_choice, read_open
from .mmmu_subjects import DISCIPLINES, SUBJECTS, subject_of
from .predictions import Predictions, Said, read_predictions
from .questions import Questions, first_file, read_mapping, read_rows, tables
from .rates import headline  # noqa: F401 - part of a benchmark

VARIANTS = ("official", "normalised")
MAX_NEW_TOKENS = 128
METRICS = ("accuracy", "parse_failure_rate", "without_fallback", "valid_rate")
SEED = 42
ANSWERS = "answer_dict_val.json"
CHOICE = "multiple-choice"
PICTURES = tuple(f"image_{number}" for number in range(1, 8))  # columns of the hub's table
SUFFIXES = {CHOICE: "\nAnswer with the option's letter from the given choices directly.",
            "open": "\nAnswer the question using a single word or phrase."}


def load(folder: Path, task: str = "mmmu") -> Questions:
    """The 900 questions of the validation split.

    Args:
        folder: holds answer_dict_val.json ({id: question_type, ground_truth}), or the hub's <Subject>/validation-*.parquet (or
            lmms-lab's data/validation-*.parquet, or is a data set of all subjects) with `id, question, options` (a list written as text), `answer, question_type, image_1` ... `image_7`; with
            both, the true answers are those of answer_dict_val.json.
        task: unused; every loader has it.

    Returns:
        Rows with `question_type`, `subject`, `discipline`; from a table also `text`, `options` (letter -> text) and
        `pictures`.

    Raises:
        DataError: neither is there, a subject is missing, or a file is broken.
    """
    files = tables(folder, *(f"{subject}/validation-*.parquet" for subject in SUBJECTS)) or tables(folder, "data/validation-*.parquet")
    needed = ("id", "question", "answer", "question_type")
    asked = {row["question_id"]: row for file in files for row in map(_from_hub, read_rows(file, needed))}
    if files and not (folder / ANSWERS).is_file():
        return _complete(Questions(list(asked.values()), files))
    path = first_file(folder, [ANSWERS], "MMMU's answers", "MMMU-Benchmark/MMMU, folder mmmu (or the hub's <Subject>/validation-*.parquet)")
    rows = [_with_truth(key, one, asked.get(key, {}), path) for key, one in read_mapping(path, "answers").items()]
    return _complete(Questions(rows, [path, *files]))


def _with_truth(key: str, one: dict, asked: dict, path: Path) -> dict:
    truth = one.get("ground_truth") if isinstance(one, dict) else None
    if not truth or "question_type" not in one or not all(isinstance(text, str) for text in ([truth] if isinstance(truth, str) else truth)):
        raise DataError(f"The answer {key!r} lacks question_type or ground_truth", str(path), "Copy it again.")
    return _row(key, one["question_type"], one["ground_truth"]) | {name: asked[name] for name in ("text", "options", "pictures") if name in asked}


def _complete(questions: Questions) -> Questions:
    if lacking := set(SUBJECTS) - {row["subject"] for row in questions.rows}:
        what = f"{len(lacking)} of {len(SUBJECTS)} subjects are missing, {min(lacking)} for example"
        raise DataError(what, str(Path(questions.files[0]).parent), "Copy all of them.")
    return questions


def _from_hub(one: dict) -> dict:
    options, truth = _written_list(one.get("options", "[]")), one["answer"]
    letters = {chr(ord("A") + at): text for at, text in enumerate(options)}
    truth = (_written_list(truth) or truth) if one["question_type"] != CHOICE and truth.startswith("[") else truth
    listed = "".join(f"({letter}) {text}\n" for letter, text in letters.items())
    text = f"{one['question']}\n{listed}" if letters else one["question"]
    return _row(one["id"], one["question_type"], truth) | {"text": text, "options": letters, "pictures": [one[name] for name in PICTURES if one.get(name)]}


def _written_list(text: str) -> list[str]:
    try:
        found = ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return []
    return [str(one) for one in found] if isinstance(found, list) else []


def _row(key: str, kind: str, truth: str | list[str]) -> dict:
    subject = subject_of(key)
    return {"question_id": key, "unit": key, "image": key, "text": "", "label": truth, "question_type": CHOICE if kind == CHOICE else "open",
            "subject": subject, "discipline": next(name for name, subjects in DISCIPLINES.items() if subject in subjects)}


def prompt(row: dict) -> str:
    """Question and options, then LLaVA's line for the kind of question (configs/llava1.5.yaml)."""
    return row["text"] + SUFFIXES[row["question_type"]]


def read_saved(path: Path) -> Predictions:
    """Saved answers: a folder of <Subject>/output.json, one such file, {id: answer parsed already}, or JSON lines.

    Raises:
        DataError: no output.json in the folder, or as `read_predictions`.
    """
    files = [path / subject / "output.json" for subject in SUBJECTS if (path / subject / "output.json").is_file()] if path.is_dir() else None
    if files == []:
        raise DataError("The predictions folder has no <Subject>/output.json", str(path), "Name the model's folder.")
    return read_predictions(path, files)


def attach_answers(rows: list[dict], answers: list[Said | None], predictions: Predictions) -> dict[str, str]:
    """Gives every answered choice what its reading needs: `options`, and the random `fallback` drawn for an unreadable one.

    The official code draws from one generator, subject after subject in the order of their answers; a file of parsed
    answers is taken as it is.

    Returns:
        What must be said beside the score: that answers were parsed by other code, and which records hold another true
        answer than the questions.

    Raises:
        ConfigError: raw answers without options.
    """
    generator, by_id = random.Random(SEED), {row["question_id"]: (row, one) for row, one in zip(rows, answers, strict=True)}
    for key in sorted((key for key in predictions.said if key in by_id), key=lambda key: SUBJECTS.index(subject_of(key))):  # stable
        row, one = by_id[key]
        row["parsed"] = predictions.mapping
        if one is None or row["question_type"] != CHOICE or row["parsed"]:  # None: only thoughts
            continue
        row["options"] = one.raw.get("index2ans") or row.get("options")
        if not isinstance(row["options"], dict) or not row["options"] or not all(isinstance(text, str) for text in row["options"].values()):
            raise ConfigError(f"The options of {key} are not known", one.source,
                              "Keep index2ans in the predictions, or put the hub's Parquet files into --data.")
        if read_choice(one.text, row["options"]) is None:
            row["fallback"] = generator.choice(list(row["options"]))
    differing = [row["question_id"] for row, one in by_id.values() if one and one.raw.get("answer", row["label"]) != row["label"]]
    notes = {"answers": "parsed by other code; random options may be among them"} if predictions.mapping else {}
    if differing:
        notes["other truth"] = f"{len(differing)} records hold another true answer than the questions: {', '.join(differing)}"
    return notes


def grade(row: dict, answer: str) -> dict[str, dict]:
    """Grade one answer by both variants.

    Args:
        row: a question; a choice with `options` and, where unreadable, the `fallback` drawn for it; `parsed` where the
            answer is a letter that other code has read already.
        answer: the model's text.

    Returns:
        Per variant: `said`, `score`, `valid` (a letter could be read; an open answer is not empty).
    """
    if row["question_type"] != CHOICE:
        said = read_open(answer)
        both = {"said": sorted(map(str, said)), "score": float(open_is_right(said, row["label"])), "valid": bool(answer.strip())}
        return {name: both for name in VARIANTS}
    letter = answer if row.get("parsed") else read_choice(answer, row["options"])
    valid = bool(re.fullmatch("[A-Z]", letter or ""))
    said = {"official": letter if letter is not None else row.get("fallback"), "normalised": letter if valid else None}
    return {name: {"said": one, "score": float(choice_is_right(one, row["label"])), "valid": valid} for name, one in said.items()}


def columns(row: dict, graded: dict) -> tuple[float, ...]:
    """Counts of one question: right, asked, valid, right without a random option, raw choices, unreadable raw choices."""
    raw = row["question_type"] == CHOICE and not row.get("parsed")
    return (graded["score"], 1.0, float(graded["valid"]), graded["score"] * graded["valid"], float(raw), float(raw and not graded["valid"]))


def metrics(totals_K: np.ndarray) -> dict[str, float | None]:
    """Accuracy; the share of choices that could not be read, and the accuracy without their random options."""
    right, asked, valid, kept, raw, failed = (float(value) for value in totals_K)
    asked = max(asked, 1)
    return {"accuracy": 100 * right / asked, "right": right, "parse_failure_rate": 100 * failed / raw if raw else None,
            "without_fallback": 100 * kept / asked if raw else None, "valid_rate": 100 * valid / asked}
