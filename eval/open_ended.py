"""Open questions about a scene, judged 0 to 1 as MM-Vet's are, with the world's oracle as the judge.

A judgement that cannot be given is missing: it counts neither as 0 nor as anything else, and the headline is
refused where more than 1 % is missing.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from .rates import headline  # noqa: F401 - part of a benchmark
from .results import refused

VARIANTS = ("official",)
MAX_NEW_TOKENS = 48
METRICS = ("judged", "valid_rate", "missing")

Judge = Callable[[dict, str, str, str], float | None]


def prompt(row: dict) -> str:
    """The bare question."""
    return row["text"]


def oracle(truth: dict, question: str, answer: str, reference: str) -> float | None:
    """The embedded world's judge: it knows what is in the picture, from its line of truth/<split>.jsonl."""
    from omnivision.world.oracle import judge
    from omnivision.world.recipes import truth_from_row

    return judge(truth_from_row(truth), question, answer, reference)


def grade(row: dict, answer: str, judge: Judge = oracle) -> dict[str, dict]:
    """Grade one answer.

    Args:
        row: a question with the `truth` of its image and the reference answer as `label`.
        answer: the model's text.
        judge: (truth, question, answer, reference) -> 0..1, or None where it cannot tell.

    Returns:
        `said`, `score` (None = missing) and `valid` (the answer is not empty).
    """
    judged = judge(row["truth"], row["text"], str(answer), row["label"])
    return {"official": {
        "said": str(answer),
        "score": None if judged is None else float(min(max(judged, 0.0), 1.0)),
        "valid": bool(answer.strip()),
    }}


def columns(row: dict, graded: dict) -> tuple[float, ...]:
    """Counts of one question: judgement, judged, valid, asked."""
    missing = graded["score"] is None
    return 0.0 if missing else graded["score"], float(not missing), float(graded["valid"]), 1.0


def metrics(totals_K: np.ndarray) -> dict[str, float | None]:
    """The mean judgement (None above the limit of missing ones), the rate of non-empty answers, and the missing."""
    judgement, judged, valid, asked = (float(v) for v in totals_K)
    return {
        "judged": None if refused(judged, asked) else 100 * judgement / judged,
        "valid_rate": 100 * valid / max(asked, 1),
        "missing": asked - judged,
    }
