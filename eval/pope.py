"""POPE: is the object in the image? Yes or no, three splits that differ only in their negatives.

Source: the rules of the official script (`evaluate.py` of the POPE repository), read there; its division by
zero where nothing is answered "yes" is F1 0 here.
"""

from __future__ import annotations

import string

import numpy as np

VARIANTS = ("official", "normalised")
MAX_NEW_TOKENS = 8
METRICS = ("f1", "accuracy", "precision", "recall", "yes_ratio", "false_yes", "false_yes_rate", "valid_rate")

# "是"/"有" open an affirmative answer in Chinese; the negatives are tried first because "不是" contains "是".
_NO_ZH, _YES_ZH = ("不", "没", "否", "无"), ("是", "有", "对")


def prompt(row: dict) -> str:
    """The question as it is asked; POPE's own wording is in the row."""
    return row["text"]


def parse_official(answer: str) -> str:
    """The official reading: "no" only where the first sentence has the token No, no or not; all else is "yes"."""
    tokens = answer.split(".")[0].replace(",", "").split(" ")
    return "no" if {"No", "not", "no"} & set(tokens) else "yes"


def parse_normalised(answer: str) -> str | None:
    """The first yes or no word, case and punctuation aside; None where there is neither."""
    for token in answer.casefold().split():
        word = token.strip(string.punctuation + "。，！？、；：“”‘’")
        if word in ("yes", "no"):
            return word
        if word.startswith(_NO_ZH):
            return "no"
        if word.startswith(_YES_ZH):
            return "yes"
    return None


def grade(row: dict, answer: str) -> dict[str, dict]:
    """Grade one answer by both variants.

    Args:
        row: a question with its `label`, "yes" or "no" in any case.
        answer: the model's text.

    Returns:
        Per variant: `said`, `score` (1 right, 0 wrong) and `valid` (a yes or no could be read).
    """
    label = row["label"].strip().lower()
    said = {"official": parse_official(answer), "normalised": parse_normalised(answer)}
    return {
        variant: {"said": word, "score": float(word == label), "valid": word is not None}
        for variant, word in said.items()
    }


def columns(row: dict, graded: dict) -> tuple[float, ...]:
    """Counts of one question: true and false positives, false and true negatives, said yes, false yes, valid.

    An unreadable answer counts as wrong: a false negative where "yes" is true, a false positive where "no" is.
    """
    positive, right = row["label"].strip().lower() == "yes", graded["score"] == 1.0
    said_yes = graded["said"] == "yes"
    return (
        float(positive and right), float(not positive and not right),
        float(positive and not right), float(not positive and right),
        float(said_yes), float(said_yes and not positive), float(graded["valid"]),
    )


def headline(totals_BK: np.ndarray) -> np.ndarray:
    """F1 of "yes" in 0-100, score_B; 0 where nothing is answered or labelled "yes"."""
    tp, fp, fn = totals_BK[:, 0], totals_BK[:, 1], totals_BK[:, 2]
    return 100 * _ratio(2 * tp, 2 * tp + fp + fn)


def metrics(totals_K: np.ndarray) -> dict[str, float]:
    """Every figure of the official script, in 0-100 (`false_yes` is a count), from the totals of the columns."""
    tp, fp, fn, tn, said_yes, false_yes, valid = (float(v) for v in totals_K)
    n = tp + fp + fn + tn
    return {
        "f1": float(headline(np.asarray(totals_K, dtype=float)[None])[0]),
        "accuracy": 100 * float(_ratio(tp + tn, n)),
        "precision": 100 * float(_ratio(tp, tp + fp)),
        "recall": 100 * float(_ratio(tp, tp + fn)),
        "yes_ratio": 100 * float(_ratio(said_yes, n)),
        "false_yes": false_yes,
        "false_yes_rate": 100 * float(_ratio(false_yes, fp + tn)),
        "valid_rate": 100 * float(_ratio(valid, n)),
    }


def _ratio(top, bottom):
    bottom = np.asarray(bottom, dtype=float)
    return np.divide(top, bottom, out=np.zeros_like(bottom), where=bottom != 0)
