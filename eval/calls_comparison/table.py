"""The comparison's figures as Markdown: a line an arm and size, and what was trained and kept."""

from __future__ import annotations

from typing import Any

from .arms import KEPT, TOKENS

HEAD = ("functions", "arm", "n", "function %", "strict %", "recall %", "prompt tokens", "new tokens", "first token (ms)", "call (ms)", "times tokens",
        "by CPU", "peak GiB")


def table(result: dict[str, Any]) -> str:
    """Markdown.

    Args:
        result: of `compare`.
    """
    rows = [_cells(size, name, arm) for size, one in result["sizes"].items() for name, arm in one["arms"].items()]
    lines = [f"| {' | '.join(cells)} |" for cells in (HEAD, ["---"] * len(HEAD), *rows)]
    return "\n".join([*lines, "", *(_notes(size, one) for size, one in result["sizes"].items())])


def _cells(size: str, name: str, arm: dict[str, Any]) -> list[str]:
    slower = ["1", "1"] if name == TOKENS else [_interval(arm["times_tokens"], "median"), f"{arm['times_tokens_cpu']['median']:.1f}"]
    return [size, name, str(arm["n"]), _interval(arm["function"], "rate"), _interval(arm["strict"], "rate"),
            f"{arm['recall']:.1f}" if "recall" in arm else "", f"{arm['prompt_tokens']:,.0f}", f"{arm['new_tokens']:.1f}", f"{arm['first_ms']:,.1f}",
            f"{arm['call_ms']:,.1f}", *slower, f"{arm['peak_gib']:.2f}"]


def _interval(one: dict[str, float], key: str) -> str:
    return f"{one[key]:.1f} ({one['low']:.1f} to {one['high']:.1f})"


def _notes(size: str, one: dict[str, Any]) -> str:
    kept = one["arms"][KEPT]
    trained = [f"{kind} {facts['step']} steps in {facts['seconds']:,.0f} s ({facts['functions']} functions)" for kind, facts in one["trained"].items()]
    return (f"- {size} functions: the descriptions are {kept['kept_tokens']:,} tokens, run once in {kept['kept_seconds']:.2f} s where their "
            f"cache is kept; {kept['same_as_all']:.0f} % of those answers are the whole prompt's. Training: {', '.join(trained)}.")
