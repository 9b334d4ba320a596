"""The error table of actions: rates by language with counts and standard errors, and what kinds of errors there are."""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import Any

from . import actions, results
from .bootstrap import standard_error

ALL = "all"
RATES = {  # name -> what is counted and among what, as places in the benchmark's columns; and the words for it
    "function": (2, 1, "function right"), "strict": (3, 1, "arguments right, strict"), "lenient": (4, 1, "arguments right, lenient"),
    "format_valid": (5, 1, "format valid"), "over_call": (6, 7, "over-call"), "missed_call": (8, 9, "missed call"),
}


def details(samples: list[dict]) -> dict[str, dict]:
    """What results.json holds of it: the table, as `table`."""
    return {"table": error_table(samples)}


def error_table(samples: list[dict]) -> dict[str, dict[str, Any]]:
    """Rates and errors of all requests and of each language.

    Args:
        samples: graded ones of `actions`.

    Returns:
        "all" and each language -> `n`, `pictures`, `rates` (name -> `count`, `of`, `rate` in 0-100, `stderr` by resampling pictures) and
        `errors` (kind -> how many requests have it). A rate of nothing is None.
    """
    groups: dict[str, list[dict]] = defaultdict(list)
    for sample in samples:
        if sample["answer"] is not None:
            for name in (ALL, sample.get("language")):
                groups[name].append(sample)
    return {name: _part(groups[name]) for name in sorted(filter(None, groups), key=lambda one: (one != ALL, one))}


def errors_of(true: list[dict], said: list[dict], fault: str | None) -> list[str]:
    """What is wrong with an answer, each kind once; empty where it is strictly right.

    Args:
        true, said: calls without "irrelevant". fault: the parser's "kind: message", None for a sound answer. A malformed answer
            has no other error: what is left of it says nothing.
    """
    if fault is not None:
        return [f"malformed: {fault.partition(':')[0]}"]
    if len(said) != len(true):
        return ["missing call" if len(said) < len(true) else "extra call"]
    kinds: dict[str, None] = {}
    for mine, theirs in zip(said, true, strict=True):
        kinds |= dict.fromkeys(_differences(mine, theirs))
    return list(kinds)


def show(console, task: str, found: dict) -> None:
    """The table of one task's results, with its counterfactuals where there are some."""
    from rich.table import Table

    groups, title = found["table"], f"{task}: % ± standard error over pictures (count of so many)"
    shown = Table(title=title)
    for name in ("", *groups):
        shown.add_column(name, justify="right" if name else "left", no_wrap=True)
    for name, (_, _, words) in RATES.items():
        shown.add_row(words, *[_cell(group["rates"][name]) for group in groups.values()])
    for condition, parts in found.get("counterfactuals", {}).items():
        shown.add_section()
        shown.add_row(f"strict, {condition}", *[_measured(parts[name]["score"], parts[name]["stderr"]) for name in groups])
        shown.add_row("  falls by", *[_measured(parts[name]["fall"], parts[name]["fall_stderr"]) for name in groups])
    shown.add_section()
    for kind in groups[ALL]["errors"]:
        shown.add_row(kind, *[str(group["errors"].get(kind, 0)) for group in groups.values()])
    console.print(shown)


def runs_table(task: str, runs: dict[str, dict]):
    """A table of the rates of several runs' results side by side, for all requests and each language."""
    from rich.table import Table

    shown = Table(title=f"{task}: % ± standard error over pictures (count of so many)")
    for name in ("", "requests", *runs):
        shown.add_column(name, justify="right" if name in runs else "left", no_wrap=True)
    languages = dict.fromkeys(language for one in runs.values() for language in one["table"])
    for name, (_, _, words) in RATES.items():
        for language in languages:
            cells = [_cell(one["table"][language]["rates"][name]) if language in one["table"] else "–" for one in runs.values()]
            shown.add_row(words if language == ALL else "", language, *cells)
    return shown


def _part(samples: list[dict]) -> dict[str, Any]:
    variant = actions.VARIANTS[0]
    images, counts_IK = results.counts_of(actions, samples, variant)
    kinds = Counter(kind for one in samples for kind in errors_of(actions.real_calls(one["calls"]), one[variant]["said"], one["fault"]))
    rates = {name: _rate(counts_IK, hit, among) for name, (hit, among, _) in RATES.items()}
    return {"n": len(samples), "pictures": len(images), "rates": rates, "errors": dict(kinds.most_common())}


def _rate(counts_IK, hit: int, among: int) -> dict[str, float | int | None]:
    total_K = counts_IK.sum(0)
    found = {"count": int(total_K[hit]), "of": int(total_K[among])}
    if not found["of"]:
        return {**found, "rate": None, "stderr": None}
    error = standard_error(counts_IK, lambda totals_BK: 100 * totals_BK[:, hit] / totals_BK[:, among].clip(1))
    return {**found, "rate": 100 * found["count"] / found["of"], "stderr": error}


def _differences(said: dict, true: dict) -> list[str]:
    """How one call differs from the true one: its function, or arguments by name; those that another call gives count too."""
    if said["name"] != true["name"]:
        return ["wrong function"]
    mine, theirs = actions.strict_form(said["arguments"]), actions.strict_form(true["arguments"])
    plain = [f"wrong argument: {name}" for name in _names(mine, theirs) if mine.get(name, ...) != theirs.get(name, ...)]
    for name in _names(said.get("nested", {}), true.get("nested", {})):
        inner = [one.get("nested", {}).get(name) for one in (said, true)]
        if None in inner or _differences(*inner):
            plain.append(f"wrong argument: {name}")
    return list(dict.fromkeys(plain))


def _names(said: dict, true: dict) -> list[str]:
    return list(dict.fromkeys([*true, *said]))


def _cell(rate: dict) -> str:
    return "–" if rate["rate"] is None else f"{_measured(rate['rate'], rate['stderr'])} ({rate['count']}/{rate['of']})"


def _measured(value: float | None, error: float | None) -> str:
    return "–" if value is None else f"{value:.1f}" + ("" if error is None else f" ± {error:.1f}")
