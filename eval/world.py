"""Reads the embedded world's questions: rows with absolute picture files and, where needed, the truth."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from omnivision.data.image import contained
from omnivision.errors import ConfigError, DataError
from omnivision.functions import FunctionSet

SPLITS = ("eval", "eval_held_out")


def is_world(data_dir: str | Path) -> bool:
    """Whether a folder holds the embedded world's questions; results in a folder that is called `eval` have none at its top."""
    return any(next((Path(data_dir) / split).glob("*.jsonl"), None) for split in SPLITS)


def question_file(data_dir: str | Path, task: str, split: str = "eval") -> Path:
    """Where a task's questions lie.

    Raises:
        ConfigError: an unknown split.
        DataError: the file is missing.
    """
    if split not in SPLITS:
        raise ConfigError(f"There is no split `{split}`", "--split", f"Known: {', '.join(SPLITS)}.")
    path = Path(data_dir) / split / f"{task}.jsonl"
    if not path.is_file():
        raise DataError("The question file does not exist", str(path),
                        "Build the embedded world with `omnivision data world --out DIR`, or fix --data.")
    return path


def read_rows(data_dir: str | Path, task: str, split: str = "eval", limit: int | None = None) -> list[dict]:
    """The questions of one task, checked.

    Args:
        data_dir: the world's folder.
        task: pope_random, pope_popular, pope_adversarial, chartqa, open or actions.
        split: "eval" (seen styles) or "eval_held_out".
        limit: only the first so many.

    Returns:
        Rows as in the file, with `pictures` (its absolute path), and `truth` (open) or `functions` (actions).

    Raises:
        DataError: a missing or broken file, a row without what it needs, or an image outside of the folder.
    """
    path = question_file(data_dir, task, split)
    rows = _parse_lines(path, limit)
    if not rows:
        raise DataError("The question file is empty", str(path), "Build the embedded world again.")
    root = Path(data_dir).resolve()
    needed = {"question_id", "image", "text", "calls" if task == "actions" else "label"}
    seen: set[str] = set()
    for number, row in enumerate(rows, 1):
        if missing := needed - row.keys():
            raise DataError(f"A question lacks {', '.join(sorted(missing))}", f"{path}:{number}", "Build the world again.")
        if str(row["question_id"]) in seen:
            raise DataError(f"The question_id {row['question_id']!r} stands twice", f"{path}:{number}", "Make them unique.")
        seen.add(str(row["question_id"]))
        if not isinstance(row["image"], str):
            raise DataError(f"The image is {row['image']!r}, not a path", f"{path}:{number}", "Build the world again.")
        row["pictures"] = [str(contained(root, row["image"]))]
    if task == "open":
        _attach_truth(rows, root, path)
    return with_functions(rows, root) if task == "actions" else rows


def with_functions(rows: list[dict], folder: Path) -> list[dict]:
    """Requests with the `functions` of the folder's table, of which grading takes the synonyms; none where there is no table."""
    known = FunctionSet.beside(folder)
    functions = [one.to_tool() for one in known.functions] if known else []
    return [{**row, "functions": functions} for row in rows]


def data_hash(data_dir: str | Path, task: str, split: str = "eval") -> str:
    """SHA-256 of the question file."""
    return hashlib.sha256(question_file(data_dir, task, split).read_bytes()).hexdigest()


def _parse_lines(path: Path, limit: int | None) -> list[dict]:
    rows = []
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            if limit is not None and len(rows) >= limit:
                break
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except json.JSONDecodeError as error:
                raise DataError(f"This line is not JSON ({error.msg})", f"{path}:{number}", "Build the world again.") from error
            if not isinstance(row, dict):
                raise DataError(f"This line holds a {type(row).__name__}, not an object", f"{path}:{number}", "")
            rows.append(row)
    return rows


def _attach_truth(rows: list[dict], root: Path, path: Path) -> None:
    truth_file = root / "truth" / f"{path.parent.name}.jsonl"
    if not truth_file.is_file():
        raise DataError("The truth file of the open questions does not exist", str(truth_file), "Build the world again.")
    wanted = {row["image"] for row in rows}
    truth = {entry["image"]: entry for entry in _parse_lines(truth_file, None) if entry["image"] in wanted}
    for row in rows:
        if row["image"] not in truth:
            raise DataError(f"The truth of {row['image']} is missing", str(truth_file), "Build the world again.")
        row["truth"] = truth[row["image"]]
