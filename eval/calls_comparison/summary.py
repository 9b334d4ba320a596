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
    times = np.array([[own[one]["seconds"], tokens[one]["seconds"]] for one in shared])
    return {
        "n": len(own), **rates, "valid": 100 * statistics.mean(one["valid"] for one in own.values()),
        "against_tokens": {key: {part: pair[part] for part in ("difference", "low", "high")} for key, pair in against.items()},
        "prompt_tokens": statistics.mean(one["prompt"] for one in own.values()), "new_tokens": statistics.mean(one["new"] for one in own.values()),
        "prompt_ratio": statistics.mean(own[one]["prompt"] for one in shared) / statistics.mean(tokens[one]["prompt"] for one in shared),
        "first_ms": 1000 * statistics.median(one["first"] for one in own.values()),
        "call_ms": 1000 * statistics.median(one["seconds"] for one in own.values()),
        "times_tokens": ratio(times[:, 0] / times[:, 1]),
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


HEAD = ("functions", "arm", "n", "function %", "strict %", "recall@k %", "prompt tokens", "new tokens", "first token (ms)", "call (ms)", "times tokens", "peak GiB")


def table(result: dict[str, Any]) -> str:
    """Markdown: a line an arm and size."""
    lines = [f"| {' | '.join(HEAD)} |", "|---" * len(HEAD) + "|"]
    for size, one in result["sizes"].items():
        for name, arm in one["arms"].items():
            cells = (size, name, str(arm["n"]), _interval(arm["function"], "rate"), _interval(arm["strict"], "rate"),
                     f"{arm['recall']:.1f}" if "recall" in arm else "", f"{arm['prompt_tokens']:,.0f}", f"{arm['new_tokens']:.1f}",
                     f"{arm['first_ms']:,.1f}", f"{arm['call_ms']:,.1f}", "1" if name == TOKENS else _interval(arm["times_tokens"], "median"),
                     f"{arm['peak_gib']:.2f}")
            lines.append(f"| {' | '.join(cells)} |")
    lines += ["", *(_kept(size, one["arms"][KEPT]) for size, one in result["sizes"].items())]
    return "\n".join(lines)


def _interval(one: dict[str, float], key: str) -> str:
    return f"{one[key]:.1f} ({one['low']:.1f} to {one['high']:.1f})"


def _kept(size: str, arm: dict[str, Any]) -> str:
    return (f"- {size} functions: the descriptions are {arm['kept_tokens']:,} tokens, run once in {arm['kept_seconds']:.2f} s where their cache is kept; "
            f"{arm['same_as_all']:.0f} % of the answers are those of the whole prompt.")
