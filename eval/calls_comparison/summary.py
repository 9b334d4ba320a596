"""What the answers amount to: accuracies and times with 95 % intervals over the same questions, against functional tokens."""

from __future__ import annotations

import statistics
from typing import Any

import numpy as np

from ..bootstrap import draw_totals, paired_difference
from .arms import ALL, ARMS, KEPT, TOKENS

Records = dict[str, dict]  # question -> record


def summary(found: dict[str, Records]) -> dict[str, Any]:
    """Arm -> figures.

    Args:
        found: of `measure`: each arm's records, and what it cost to keep the descriptions.
    """
    figures = {name: _figures(found[name], found[TOKENS]) for name in ARMS}
    figures[KEPT] |= {"kept_tokens": found["kept"]["tokens"], "kept_seconds": found["kept"]["seconds"]}
    same = [found[KEPT][key]["text"] == one["text"] for key, one in found[ALL].items()]
    figures[KEPT]["same_as_all"] = 100 * statistics.mean(same)
    return figures


def _figures(own: Records, tokens: Records) -> dict[str, Any]:
    shared = list(own)
    rates = {key: rate([own[one][key] for one in shared]) for key in ("function", "strict")}
    against = {key: paired_difference(_columns(tokens, shared, key), _columns(own, shared, key), _share) for key in ("function", "strict")}
    times = {clock: np.array([own[one][clock] / tokens[one][clock] for one in shared]) for clock in ("seconds", "cpu")}
    return {
        "n": len(own), **rates, "valid": 100 * statistics.mean(one["valid"] for one in own.values()),
        "against_tokens": {key: {part: pair[part] for part in ("difference", "low", "high")} for key, pair in against.items()},
        "prompt_tokens": statistics.mean(one["prompt"] for one in own.values()), "new_tokens": statistics.mean(one["new"] for one in own.values()),
        "prompt_ratio": statistics.mean(own[one]["prompt"] for one in shared) / statistics.mean(tokens[one]["prompt"] for one in shared),
        "first_ms": 1000 * statistics.median(one["first"] for one in own.values()),
        "call_ms": 1000 * statistics.median(one["seconds"] for one in own.values()),
        "cpu_ms": 1000 * statistics.median(one["cpu"] for one in own.values()),
        "times_tokens": ratio(times["seconds"]), "times_tokens_cpu": ratio(times["cpu"]),
    }


def rate(right: list[float]) -> dict[str, float]:
    """Share in 0-100 with its interval over questions drawn again."""
    counts = np.array([[one, 1.0] for one in right])
    low, high = np.percentile(_share(draw_totals(counts)), [2.5, 97.5])
    return {"rate": float(_share(counts.sum(0, keepdims=True))[0]), "low": float(low), "high": float(high)}


def ratio(ratios: np.ndarray, draws: int = 1000) -> dict[str, float]:
    """Median of the ratios, question by question, with its interval."""
    drawn = np.random.default_rng(0).choice(ratios, (draws, len(ratios)))
    low, high = np.percentile(np.median(drawn, axis=1), [2.5, 97.5])
    return {"median": float(np.median(ratios)), "low": float(low), "high": float(high)}


def _columns(records: Records, keys: list[str], name: str) -> np.ndarray:
    return np.array([[records[key][name], 1.0] for key in keys])


def _share(totals: np.ndarray) -> np.ndarray:
    return 100 * totals[:, 0] / totals[:, 1]
