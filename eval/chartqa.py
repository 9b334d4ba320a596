"""ChartQA: one word or number about a chart, scored by relaxed accuracy (5 % slack on numbers).

Source: the relaxed correctness of the pix2struct evaluation (Methani et al. 2020 as ChartQA section 5.1 uses it).
"""

from __future__ import annotations

import re

import numpy as np

VARIANTS = ("official", "normalised")
MAX_NEW_TOKENS = 16
METRICS = ("relaxed_accuracy", "valid_rate")
SUFFIXES = {"en": "\nAnswer the question with a single word.", "zh": "\n用一个词回答问题。"}  # "en" is ChartQA's own
SLACK = 0.05

_CURRENCY = "$€£¥₹"
_THOUSANDS = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")
_NUMBER_AND_UNIT = re.compile(r"([-+]?\d+(?:\.\d+)?|[-+]?\.\d+)\s*[^\W\d_][^\d]*")


def prompt(row: dict) -> str:
    """The question and the direct-answer line, added where the row does not carry it already."""
    asked = row["text"].endswith(tuple(SUFFIXES.values()))
    return row["text"] if asked else row["text"] + SUFFIXES[row.get("language", "en")]


def to_number(text: str) -> float | None:
    """A float; a trailing % divides by 100; None where the text is no number."""
    try:
        return float(text.rstrip("%")) / 100 if text.endswith("%") else float(text)
    except ValueError:
        return None


def relaxed_match(answer: str, target: str) -> bool:
    """The official rule for one target: within 5 % where both are numbers and the target is not 0, else equal text.

    A target of 0 therefore needs the same string, "1,000" is no number, and years have the same slack.
    """
    said, true = to_number(answer), to_number(target)
    if said is not None and true:
        return abs(said - true) / abs(true) <= SLACK
    return answer.lower() == target.lower()


def normalise(text: str) -> str:
    """Strip a final full stop, thousands commas, currency signs and a trailing unit of a number."""
    text = text.strip().rstrip("。").strip()
    text = text[:-1].rstrip() if text.endswith(".") else text
    bare = _THOUSANDS.sub("", text)
    sign = "-" if bare.startswith("-") else ""
    bare = sign + bare.removeprefix("-").strip(_CURRENCY).strip() if any(c.isdigit() for c in bare) else bare
    with_unit = _NUMBER_AND_UNIT.fullmatch(bare)
    return with_unit.group(1) if with_unit else bare


def grade(row: dict, answer: str) -> dict[str, dict]:
    """Grade one answer by both variants, the best over the row's targets.

    Args:
        row: a question whose `label` is a target or a list of them.
        answer: the model's text.

    Returns:
        Per variant: `said` (what was compared), `score` 1 or 0, and `valid` (the answer is not empty).
    """
    targets = row["label"] if isinstance(row["label"], list) else [row["label"]]
    said = normalise(answer)
    return {
        "official": _graded(answer, any(relaxed_match(answer, t) for t in targets)),
        "normalised": _graded(said, any(relaxed_match(said, normalise(t)) for t in targets)),
    }


def columns(row: dict, graded: dict) -> tuple[float, ...]:
    """Counts of one question: right, asked, valid."""
    return graded["score"], 1.0, float(graded["valid"])


def headline(totals_BK: np.ndarray) -> np.ndarray:
    """Relaxed accuracy in 0-100, score_B."""
    return 100 * totals_BK[:, 0] / np.maximum(totals_BK[:, 1], 1)


def metrics(totals_K: np.ndarray) -> dict[str, float]:
    """Relaxed accuracy and the rate of answers that are not empty, in 0-100."""
    right, asked, valid = (float(v) for v in totals_K)
    return {"relaxed_accuracy": 100 * right / max(asked, 1), "valid_rate": 100 * valid / max(asked, 1)}


def _graded(said: str, right: bool) -> dict:
    return {"said": said, "score": float(right), "valid": bool(said.strip())}
