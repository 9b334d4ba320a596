"""ScienceQA: school questions with lettered options, some with a picture. `scienceqa` is all of them, `scienceqa_img` those with one.

Source: llava/eval/eval_science_qa.py of haotian-liu/LLaVA@c121f04, read there.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from omnivision.errors import DataError

from .questions import Questions, first_file, image_file, no_id_twice, read_mapping, test_tables
from .questions import read_rows as read_questions
from .rates import columns, headline  # noqa: F401 - part of a benchmark

VARIANTS = ("official", "normalised")
MAX_NEW_TOKENS = 16
METRICS = ("accuracy", "valid_rate")
LETTERS = "ABCDE"
SUFFIX = "\nAnswer with the option's letter from the given choices directly."
PUBLISHED = "lupantech/ScienceQA, data/scienceqa"

_ANSWER_IS = re.compile(r"The answer is ([A-Z]).")  # the script's own dot: any character but a newline must follow
_ALONE = re.compile(r"[(\[]?([A-Ea-e])[)\]]?[.:,;!。]?")
_LEADING = re.compile(r"(?:\(([A-E])\)|([A-E])[).:])(?:\s|$)")
_MENTION = re.compile(r"(?i:answer(?:\s+is)?\s*:?\s*(?:option\s+)?)[(\[\"']?([A-E])(?![\w'])")


def load(folder: Path, task: str) -> Questions:
    """The test split.

    Args:
        folder: holds problems.json and pid_splits.json, pictures in images/test/<id>/ (as published), or LLaVA's
            llava_test_CQM-A.json; where both are there the published files are read. Or holds the hub's table (test-*.parquet,
            also in data/), or is a data set, with the same columns; ids then count its rows from 0.
        task: scienceqa, or scienceqa_img for the questions with a picture.

    Returns:
        Rows with `choices` (how many), `label` (a letter), `modality` ("image", "text" for a context, "none"), and with
        problems.json also `subject` and `grade`; `beside` are the other questions, and those of other splits.

    Raises:
        DataError: a missing or broken file.
    """
    if files := test_tables(folder):
        found = [one for file in files for one in read_questions(file, ("question", "choices", "answer"))]
        return _with_pictures(task, [_from_table(folder, str(at), one, f"{files[0]}[{at}]") for at, one in enumerate(found)], files, {})
    names = ["problems.json", "llava_test_CQM-A.json"]
    path = first_file(folder, names, "ScienceQA's questions", f"{PUBLISHED} (the second from LLaVA's convert_sqa_to_llava.py)")
    splits = read_mapping(folder / "pid_splits.json", "splits") if (folder / "pid_splits.json").is_file() else {}
    if path.name == "problems.json":
        if not isinstance(splits.get("test"), list):
            raise DataError("ScienceQA's list of test questions is missing", str(folder / "pid_splits.json"), f"Put it there, from {PUBLISHED}.")
        rows = _published(folder, path, splits["test"])
    else:
        rows = [_from_llava(folder, one, f"{path}[{at}]") for at, one in enumerate(read_questions(path, ("id", "conversations")))]
    no_id_twice(rows, folder / "pid_splits.json" if path.name == names[0] else path)
    return _with_pictures(task, rows, [path], {str(key): split for split in ("train", "val") for key in splits.get(split, ())})


def _with_pictures(task: str, rows: list[dict], files: list, beside: dict[str, str]) -> Questions:
    """All rows, or for scienceqa_img those with a picture."""
    if task == "scienceqa_img":
        beside |= {row["question_id"]: "test, without a picture" for row in rows if "image" not in row["modality"]}
        rows = [row for row in rows if "image" in row["modality"]]
    return Questions(rows, files, beside)


def _from_table(folder: Path, key: str, one: dict, where: str) -> dict:
    """A null picture or hint is no column of its record."""
    shown = [one["image"]] if one.get("image") else []
    row = _from_problem(folder, key, {"hint": "", "image": None} | one | ({"image": "table"} if shown else {}), where)
    return row | {"image": str(shown[0]) if shown else "", "image_file": None, "pictures": shown}


def _published(folder: Path, path: Path, ids: list) -> list[dict]:
    problems = read_mapping(path, "problems")
    if lacking := [key for key in ids if str(key) not in problems]:
        raise DataError(f"{len(lacking)} of {len(ids)} test problems are missing, the first {lacking[0]!r}", str(path), "Copy the whole file.")
    return [_from_problem(folder, str(key), problems[str(key)], f"{path}[{key}]") for key in ids]


def _from_problem(folder: Path, key: str, one: dict, where: str) -> dict:
    try:
        question, choices, hint, picture = one["question"], one["choices"], one["hint"], one["image"]
        label = LETTERS[:len(choices)][one["answer"]]
    except (KeyError, TypeError, IndexError) as error:
        raise DataError("A problem lacks its question, choices, answer, hint or image", where, "Copy the file again.") from error
    text = "\n".join([*([f"Context: {hint}"] if hint else []), question, *[f"{a}. {b}" for a, b in zip(LETTERS, choices, strict=False)]])
    text = text.replace("  ", " ")  # as LLaVA's conversion does
    return _row(folder, key, text, len(choices), label, f"{key}/{picture}" if picture else None, bool(hint)) | {
        "question": question, "subject": one.get("subject", ""), "grade": one.get("grade", "")}


def _from_llava(folder: Path, one: dict, where: str) -> dict:
    try:
        asked, label = (turn["value"] for turn in one["conversations"])
    except (KeyError, TypeError, ValueError) as error:
        raise DataError("A question is not two turns with a `value`", where, "Copy the file again.") from error
    text = asked.replace("<image>", "").strip()
    if label not in LETTERS:
        raise DataError(f"The answer {label!r} is no letter of {LETTERS}", where, "Use the CQM-A file.")
    return _row(folder, str(one["id"]), text, count_options(text), label, one.get("image"), text.startswith("Context: "))


def _row(folder: Path, key: str, text: str, choices: int, label: str, image: str | None, context: bool) -> dict:
    modality = [name for name, there in (("image", image is not None), ("text", context)) if there] or ["none"]
    return {"question_id": key, "unit": key, "image": image or "", "text": text, "choices": choices, "label": label, "modality": modality,
            "image_file": image_file(folder, ("images/test", "test", "images"), image) if image else None}


def count_options(text: str) -> int:
    """How many lettered options end a prompt: the lines "A. …", "B. …" after the question, counted upwards from A."""
    expected, start = 0, re.search(r"(?m)^A\. (?!.*^A\. )", text, re.DOTALL)  # the last line that begins with "A. "
    for line in text[start.start():].split("\n") if start else []:
        expected += expected < len(LETTERS) and line.startswith(f"{LETTERS[expected]}. ")
    return expected


def prompt(row: dict) -> str:
    """Context, question and options, then the direct-answer line."""
    return row["text"] + SUFFIX


def read_official(answer: str, choices: int) -> str | None:
    """LLaVA's reading: the letter alone, a letter and ". ", or exactly one "The answer is X." with any character for the stop."""
    if answer and answer in LETTERS and len(answer) == 1:
        letter = answer
    elif len(answer) >= 3 and answer[0] in LETTERS and answer[1:3] == ". ":
        letter = answer[0]
    else:
        letters = _ANSWER_IS.findall(answer)
        letter = letters[0] if len(letters) == 1 else ""
    return letter if letter and letter in LETTERS[:choices] else None


def read_normalised(answer: str, choices: int) -> str | None:
    """Also "(A)", "a"; "the answer is A" where all such mentions agree; and without one "A) …", "(A) …", "A: …"."""
    official, text = read_official(answer, choices), answer.strip()
    if official:
        return official
    letters = set(_MENTION.findall(text))
    if not letters and (found := _ALONE.fullmatch(text) or _LEADING.match(text)):
        letters = {next(letter for letter in found.groups() if letter).upper()}
    letter = letters.pop() if len(letters) == 1 else ""
    return letter if letter and letter in LETTERS[:choices] else None


def grade(row: dict, answer: str) -> dict[str, dict]:
    """Grade one answer by both variants.

    Args:
        row: a question with its `label` and how many `choices` it has.
        answer: the model's text.

    Returns:
        Per variant: `said` (a letter or None), `score` and `valid` (a letter could be read); an unreadable answer is wrong.
    """
    said = {"official": read_official(answer, row["choices"]), "normalised": read_normalised(answer, row["choices"])}
    return {name: {"said": letter, "score": float(letter == row["label"]), "valid": letter is not None} for name, letter in said.items()}


def metrics(totals_K: np.ndarray) -> dict[str, float]:
    """Accuracy, how many are right, and the rate of readable answers."""
    right, asked, valid = (float(value) for value in totals_K)
    return {"accuracy": 100 * right / max(asked, 1), "right": right, "valid_rate": 100 * valid / max(asked, 1)}
