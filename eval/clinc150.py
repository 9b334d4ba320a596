"""CLINC150: a request in text alone calls the function of its intent, or none where it is out of scope.

`score` is the accuracy of requests in scope, as published; how many out of scope are noticed stands beside it.

Source: Larson et al. 2019, "An evaluation dataset for intent classification and out-of-scope prediction" (EMNLP).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from omnivision.data.clinc150 import OUT_OF_SCOPE, SPLITS, layout_file, read_splits
from omnivision.errors import DataError

from .actions import NO_CALL
from .answer import Answer
from .questions import Questions

VARIANTS = ("official",)
MAX_NEW_TOKENS = 16
METRICS = ("in_scope_accuracy", "oos_recall", "oos_precision", "overall_accuracy", "valid_rate")
NEWEST_FIRST = tuple(reversed([split for split in SPLITS if split != "train"]))  # test is the benchmark; val where test is not there


def prompt(row: dict) -> str:
    """The request as it is."""
    return row["text"]


def load(path: Path, task: str) -> Questions:
    """The test split of a file in the published layout, or val where it has no test.

    Args:
        path: the file, or the folder that holds it. task: clinc150.

    Returns:
        Rows with `label`, the intent ("oos" out of scope); each is its own `unit`.

    Raises:
        DataError: a missing or broken file, or neither split.
    """
    splits, file = read_splits(path), layout_file(path)
    split = next((one for one in NEWEST_FIRST if one in splits), None)
    if split is None:
        raise DataError("The file has neither a test nor a val split", str(file), "Name the file that has one.")
    rows = [{"question_id": f"{split}-{at}", "unit": f"{split}-{at}", "image": None, "text": text, "label": intent, "kind": "out of scope" if
             intent == OUT_OF_SCOPE else "in scope"} for at, (text, intent) in enumerate(splits[split])]
    return Questions(rows, [file], notes={"split": split})


def grade(row: dict, answer: str) -> dict[str, dict]:
    """Compares the first call's function with the intent.

    Args:
        row: with `label`. answer: what `Ours` returns; a saved answer is an intent's name.

    Returns:
        `said` (an intent; "oos" where nothing is called; None for a malformed answer), `score` and `valid`.

    Raises:
        DataError: a model's answer that has no ids, so that calls cannot be told from typed words.
    """
    if isinstance(answer, Answer) and answer.calls is None:
        raise DataError("CLINC150 is scored from generated ids of functional tokens, and this answer has none", row["question_id"],
                        "Take a checkpoint of the stage functions.")
    said = _called(answer) if isinstance(answer, Answer) else answer.strip()
    return {"official": {"said": said, "score": float(said == row["label"]), "valid": said is not None}}


def columns(row: dict, graded: dict) -> tuple[float, ...]:
    """Counts of one request: right and asked in scope; right and asked out of scope; said to be out of scope, valid."""
    outside = float(row["label"] == OUT_OF_SCOPE)
    return ((1 - outside) * graded["score"], 1 - outside, outside * graded["score"], outside, float(graded["said"] == OUT_OF_SCOPE), float(graded["valid"]))


def headline(totals_BK: np.ndarray) -> np.ndarray:
    """Accuracy in scope, 0-100, score_B; of requests out of scope alone their recall."""
    right, asked = (np.where(totals_BK[:, 1] > 0, totals_BK[:, at], totals_BK[:, at + 2]) for at in (0, 1))
    return 100 * right / np.maximum(asked, 1)


def metrics(totals_K: np.ndarray) -> dict[str, float | None]:
    """Accuracy in scope; recall and precision of "out of scope", None where none is or none is said to be; accuracy over all."""
    right, inside, noticed, outside, said, valid = (float(v) for v in totals_K)
    asked = max(inside + outside, 1)
    return {
        "in_scope_accuracy": 100 * right / max(inside, 1), "oos_recall": 100 * noticed / outside if outside else None,
        "oos_precision": 100 * noticed / said if outside and said else None,
        "overall_accuracy": 100 * (right + noticed) / asked, "valid_rate": 100 * valid / asked,
    }


def details(samples: list[dict]) -> dict[str, float]:
    """What no threshold decides: `oos_auroc`, from the answers' margins; empty where they have none."""
    margins = {outside: [one["margin"] for one in samples if "margin" in one and (one["label"] == OUT_OF_SCOPE) is outside] for outside in (True, False)}
    return {"oos_auroc": auroc(margins[True], margins[False])} if all(margins.values()) else {}


def auroc(positive: list[float], negative: list[float]) -> float:
    """How often a positive lies above a negative, in 0-100; ties count half."""
    from sklearn.metrics import roc_auc_score

    return float(100 * roc_auc_score([1] * len(positive) + [0] * len(negative), positive + negative))


def _called(answer: Answer) -> str | None:
    if answer.fault is not None:
        return None
    first = answer.calls[0]["name"] if answer.calls else NO_CALL
    return OUT_OF_SCOPE if first == NO_CALL else first
