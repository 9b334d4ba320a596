"""What was made, and what was not: counts by function, language and kind, reasons of refusals."""

from __future__ import annotations

from collections import Counter
from typing import Any

from omnivision.functions import FunctionSet
from omnivision.functions.function_set import IRRELEVANT
from omnivision.requests.sieve import Sieve

ON_SCREEN = 20  # functions that the table names


def report_of(function_set: FunctionSet, sieve: Sieve, wanted: dict[str, int], kinds: dict[str, dict[str, int]], languages: list[str]) -> dict[str, Any]:
    """The report.

    Args:
        wanted: rows of each function by split. kinds: rows of each other kind by split. languages: that were asked for.
    """
    splits = {split: _counts(sieve.kept[split]) for split in wanted}
    short = {split: {name: {"got": wanted[split] - missing, "wanted": wanted[split]}
                     for name, missing in short_of(function_set, sieve, split, wanted[split]).items()} for split in wanted}
    short_kinds = {split: {kind: {"got": got, "wanted": number} for kind, number in kinds[split].items() if (got := splits[split]["kinds"].get(kind, 0)) < number}
                   for split in wanted}
    without = {split: {language: names for language in languages if (names := _without(function_set, sieve.kept[split], language))} for split in wanted}
    return {"rows": {split: len(sieve.kept[split]) for split in wanted}, "splits": splits, "short": short, "short_kinds": short_kinds, "without": without, "refused": dict(sieve.refused),
            "examples_of_refused": dict(sieve.examples)}


def _without(function_set: FunctionSet, rows: list[dict], language: str) -> list[str]:
    """Functions that have rows, and none in a language: the model would learn to refuse them there."""
    single = [(row["calls"][0]["name"], row["language"]) for row in rows if row["kind"] == "single"]
    lacking = {name for name, _ in single} - {name for name, said in single if said == language}
    return [function.name for function in function_set.functions if function.name in lacking]


def short_of(function_set: FunctionSet, sieve: Sieve, split: str, wanted: int) -> dict[str, int]:
    """How many requests with one call are missing, by function; those that have them all are not named."""
    got = _counts(sieve.kept[split])["functions"]
    return {function.name: wanted - got.get(function.name, 0) for function in function_set.functions
            if function.name != IRRELEVANT and got.get(function.name, 0) < wanted}


def _counts(rows: list[dict]) -> dict[str, Any]:
    """Rows by language and kind; by function those that ask for it alone, and all calls of it."""
    return {"languages": dict(Counter(row["language"] for row in rows)), "kinds": dict(Counter(row["kind"] for row in rows)),
            "functions": dict(Counter(row["calls"][0]["name"] for row in rows if row["kind"] == "single")),
            "calls": dict(Counter(call["name"] for row in rows for call in row["calls"]))}


def table(report: dict[str, Any]) -> str:
    """The report for a terminal."""
    lines = []
    for split, counts in report["splits"].items():
        lines.append(f"{split}: {report['rows'][split]} rows; {_list(counts['kinds'])}; {_list(counts['languages'])}")
        short = report["short"][split]
        shown = [f"{name} {one['got']} of {one['wanted']}" for name, one in list(short.items())[:ON_SCREEN]]
        for kind, one in report["short_kinds"][split].items():
            lines.append(f"  fewer {kind} ones than wanted: {one['got']} of {one['wanted']}")
        for language, names in report["without"][split].items():
            more = f" and {len(names) - ON_SCREEN} more" if len(names) > ON_SCREEN else ""
            lines.append(f"  no row in {language}, where the model will refuse them: {', '.join(names[:ON_SCREEN])}{more} (give sentences with --templates)")
        if short:
            more = f" and {len(short) - ON_SCREEN} more" if len(short) > ON_SCREEN else ""
            lines.append(f"  fewer than wanted: {', '.join(shown)}{more}")
    lines.append(f"refused: {_list(report['refused']) or 'none'}")
    if report.get("questions_failed"):
        lines.append(f"questions without an answer: {_list(report['questions_failed'])}")
    return "\n".join(lines)


def _list(counts: dict[str, int]) -> str:
    return ", ".join(f"{name} {number}" for name, number in sorted(counts.items()))
