"""Image-grounded actions: the right function, the right arguments, and no call where none fits.

`official` wants equal arguments; `normalised` forgives case, spacing and the schema's own synonyms.
"""

from __future__ import annotations

import numpy as np

from omnivision.errors import DataError

from .answer import Answer
from .rates import headline  # noqa: F401 - part of a benchmark

VARIANTS = ("official", "normalised")
MAX_NEW_TOKENS = 48
METRICS = ("function", "strict", "lenient", "format_valid", "over_call", "missed_call")
NO_CALL = "irrelevant"  # the function that stands for "none of these fits"


def prompt(row: dict) -> str:
    """The request as it is."""
    return row["text"]


def real_calls(calls: list[dict]) -> list[dict]:
    """The calls that do something: "irrelevant" stands for no call at all."""
    return [call for call in calls if call["name"] != NO_CALL]


def strict_form(value):
    """A value that equals only its like: True is not 1, which Python's == would have it be; 1.0 is."""
    if isinstance(value, dict):
        return {key: strict_form(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [strict_form(item) for item in value]
    return (bool, value) if isinstance(value, bool) else value


def lenient_form(value, synonyms: dict[str, str] | None = None):
    """A value without case and extra spacing, each synonym replaced by its canonical word.

    Args:
        value: an argument; containers are treated item by item, numbers equal their digits (2 and "2").
        synonyms: synonym -> canonical word, both lower case.
    """
    if isinstance(value, dict):
        return {key: lenient_form(item, synonyms) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [lenient_form(item, synonyms) for item in value]
    word = " ".join(str(value).split()).casefold()
    word = word.removesuffix(".0") if isinstance(value, float) else word
    return (synonyms or {}).get(word, word)


def synonyms_of(functions: list[dict]) -> dict[tuple[str, str], dict[str, str]]:
    """Synonyms a function table declares: `"synonyms": {canonical: [others]}` beside a property's type.

    Returns:
        (function, argument) -> {synonym: canonical}, lower case.

    Raises:
        DataError: synonyms that are no lists.
    """
    found = {}
    for function in functions:
        function = function.get("function", function)
        for argument, schema in function.get("parameters", {}).get("properties", {}).items():
            pairs = schema.get("synonyms", {}) if isinstance(schema, dict) else {}
            if not isinstance(pairs, dict) or not all(isinstance(others, list) for others in pairs.values()):
                raise DataError(f"The synonyms of {argument} are no lists", f"function {function['name']}", 'Write {"red": ["crimson", ...]}.')
            found[function["name"], argument] = {
                other.casefold(): canonical.casefold() for canonical, others in pairs.items() for other in others
            }
    return found


def grade(row: dict, answer: Answer) -> dict[str, dict]:
    """Grade the calls read from the generated ids.

    Args:
        row: a request with its true `calls` (empty, or one "irrelevant", where none fits) and optionally the
            `functions` it chose from.
        answer: what `OmniVisionLM` returns; a plain string carries no ids.

    Returns:
        Per variant: `said` (the calls), `score`, `valid`, and `function`, `strict`, `lenient`, `over`, `missed`.

    Raises:
        DataError: the answer has no ids (another harness's text), so calls cannot be told from typed words.
    """
    if not isinstance(answer, Answer) or answer.calls is None:
        raise DataError("Actions are scored from generated ids of functional tokens, and this answer has none", str(row.get("question_id")),
                        "Take a checkpoint of the stage functions, and in lm-eval the model type `omnivision`.")
    true, said = real_calls(row["calls"]), real_calls(answer.calls)
    synonyms = synonyms_of(row.get("functions", []))
    same_names = [c["name"] for c in said] == [c["name"] for c in true]
    valid = answer.fault is None
    strict = valid and same_names and all(_arguments(s) == _arguments(t) for s, t in zip(said, true, strict=True))
    lenient = valid and same_names and all(
        _lenient_arguments(s, synonyms) == _lenient_arguments(t, synonyms) for s, t in zip(said, true, strict=True)
    )
    lenient |= strict  # numbers that are equal may be written in other digits: 1e16
    facts = {
        "said": said, "valid": valid, "function": float(valid and same_names), "strict": float(strict),
        "lenient": float(lenient), "over": float(bool(said) and not true), "missed": float(bool(true) and not said),
    }
    return {"official": {"score": float(strict), **facts}, "normalised": {"score": float(lenient), **facts}}


def columns(row: dict, graded: dict) -> tuple[float, ...]:
    """Counts of one request: score, asked, function, strict, lenient, valid, over, none fits, missed, a call fits."""
    needs_call = bool(real_calls(row["calls"]))
    return (
        graded["score"], 1.0, graded["function"], graded["strict"], graded["lenient"], float(graded["valid"]),
        graded["over"], float(not needs_call), graded["missed"], float(needs_call),
    )


def metrics(totals_K: np.ndarray) -> dict[str, float | None]:
    """Rates in 0-100; over-calls among requests no action fits, missed calls among the others, None where there are none of them."""
    score, asked, function, strict, lenient, valid, over, none_fits, missed, fits = (float(v) for v in totals_K)
    asked = max(asked, 1)
    return {
        "right": 100 * score / asked,
        "function": 100 * function / asked, "strict": 100 * strict / asked, "lenient": 100 * lenient / asked,
        "format_valid": 100 * valid / asked, "valid_rate": 100 * valid / asked,
        "over_call": 100 * over / none_fits if none_fits else None, "missed_call": 100 * missed / fits if fits else None,
    }


def _arguments(call: dict) -> tuple[dict, dict]:
    """The arguments, and those of the calls that stand in place of some."""
    return strict_form(call["arguments"]), {name: (one["name"], _arguments(one)) for name, one in call.get("nested", {}).items()}


def _lenient_arguments(call: dict, synonyms: dict) -> tuple[dict, dict]:
    nested = {name: (one["name"], _lenient_arguments(one, synonyms)) for name, one in call.get("nested", {}).items()}
    return {name: lenient_form(value, synonyms.get((call["name"], name))) for name, value in call["arguments"].items()}, nested
