"""Scores that are a share of the questions asked: what most benchmarks have in common.

Shapes: B bootstrap draws, K columns.
"""

from __future__ import annotations

import numpy as np


def columns(row: dict, graded: dict) -> tuple[float, ...]:
    """Counts of one question: right, asked, valid."""
    return graded["score"], 1.0, float(graded["valid"])


def headline(totals_BK: np.ndarray) -> np.ndarray:
    """The first column (right) over the second (asked), in 0-100, score_B."""
    return 100 * totals_BK[:, 0] / np.maximum(totals_BK[:, 1], 1)
