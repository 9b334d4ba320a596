"""What every lm-eval task of ours needs, made from a benchmark's module: text, target, results, aggregations.

A task's utils.py binds these to its benchmark, so the scores of lm-eval's own table come from the very functions
that write results.json.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from types import ModuleType

import numpy as np

from .world import PLACEHOLDER


def doc_to_text(benchmark: ModuleType) -> Callable[[dict], str]:
    """The prompt with the place of the picture in front."""
    return lambda row: PLACEHOLDER + benchmark.prompt(row)


def doc_to_target(row: dict) -> str | list:
    """The label; calls as JSON."""
    return row["label"] if "label" in row else json.dumps(row["calls"], ensure_ascii=False)


def process_results(benchmark: ModuleType) -> Callable[[dict, list], dict]:
    """Grades once; every metric carries the same counts, and its aggregation picks its figure from their sum."""

    def process(row: dict, results: list) -> dict:
        graded = benchmark.grade(row, results[0])["official"]
        return dict.fromkeys(benchmark.METRICS, benchmark.columns(row, graded))

    return process


def aggregation(benchmark: ModuleType, metric: str) -> Callable[[list], float | None]:
    """One figure of `benchmark.metrics`, in 0-100, from the counts of all questions."""
    return lambda counts: benchmark.metrics(np.sum(np.asarray(counts, dtype=float), axis=0))[metric]
