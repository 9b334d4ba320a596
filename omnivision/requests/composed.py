"""Requests with several calls: side by side, made of rows that are there, and calls whose argument another call gives."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterator, Sequence

from omnivision.functions import Function, FunctionSet
from omnivision.functions.function_set import IRRELEVANT
from omnivision.functions.options import TYPES, options
from omnivision.requests.drawing import Drawing, Undrawable
from omnivision.requests.sentences import fill, frames, given_in_words
from omnivision.requests.wording import deeds, infinitive, labels
from omnivision.requests.words import words_of

TRIES = 12  # for each row
THIRD = 0.25  # of the parallel requests have three calls
ANY_VALUE = frozenset(("type", "examples", "default", "description"))  # what a schema may say that takes any value of its types
TEXT = {"type": "string"}  # what a function gives back that looks something up and does not say what
# Verbs of functions that give something back, for those that do not say so.
GIVES = frozenset("calculate check compute convert determine estimate fetch find generate get identify list look lookup query read retrieve return "
                  "search show translate 获取 查找 查询 搜索 计算 翻译".split())


def parallel_rows(rows: Sequence[dict], count: int, seed: int, split: str) -> Iterator[dict]:
    """Requests that join two or three of one language, which may be for the same function; endless duplicates are the caller's affair."""
    rng = random.Random(f"{seed}/{split}/parallel")
    by_language: dict[str, list[dict]] = defaultdict(list)
    for row in rows:
        by_language[row["language"]].append(row)
    pools = [pool for pool in by_language.values() if len(pool) >= 3]
    made = 0
    for attempt in range(TRIES * count if pools else 0):
        if made == count:
            return
        pool = pools[attempt % len(pools)]
        language = pool[0]["language"]
        chosen = rng.sample(pool, 3 if rng.random() < THIRD else 2)
        calls = [call for row in chosen for call in row["calls"]]
        if any(call in calls[:at] for at, call in enumerate(calls)):  # nobody asks twice for the same
            continue
        request, said = _part(chosen[0]["request"]), frames(language, split)
        joints = said["parallel"] + (said.get("two", []) if len(chosen) == 2 else [])
        for row in chosen[1:]:
            request = fill(rng.choice(joints), {"first": request, "second": _part(row["request"])})
        yield {"id": f"{split}/parallel/{made}", "request": request + ("。" if language == "zh" else "."), "language": language, "calls": calls}
        made += 1


def _part(request: str) -> str:
    """A sentence as a part of another one."""
    first, _, rest = request.strip(" .?!。？！").partition(" ")
    return f"{first.lower() if first.istitle() and first != 'I' else first} {rest}".strip()


def nested_rows(function_set: FunctionSet, count: int, seed: int, split: str, languages: Sequence[str]) -> Iterator[dict]:
    """Requests whose call has an argument that another function gives. Args as of template_rows."""
    rng = random.Random(f"{seed}/{split}/nested")
    fitting = nestable(function_set)
    made = 0
    for attempt in range(TRIES * count if fitting else 0):
        if made == count:
            return
        outer, argument, inner = rng.choice(fitting)
        language = languages[attempt % len(languages)]
        try:
            request, call = _nested(outer, argument, inner, rng, language, split)
        except Undrawable:
            continue
        yield {"id": f"{split}/nested/{made}", "request": request, "language": language, "calls": [call]}
        made += 1


def nestable(function_set: FunctionSet) -> list[tuple[Function, str, Function]]:
    """(outer, argument, inner): the argument's types hold what the inner function gives."""
    inner = [(one, given) for one in function_set.functions if (given := _types_given(one))]
    return [(outer, name, one) for outer in function_set.functions if outer.name != IRRELEVANT for name in outer.argument_names
            for wanted in [_types_wanted(outer, name)] for one, given in inner if one is not outer and given <= wanted]


def _types_given(function: Function) -> set[str]:
    said = function.returns
    if said is None:
        verbs = {infinitive(word) for word in (*words_of(function.name), *words_of(function.description)[:1])}
        said = TEXT if verbs & GIVES else None
    return set() if said is None or function.name == IRRELEVANT else _types(said, _giving(function.name, said)) - {"null"}


def _types_wanted(function: Function, name: str) -> set[str]:
    """The types of which an argument takes any value."""
    found = options(function.parameters["properties"][name], function, set())
    return {kind for option in found if set(option) <= ANY_VALUE for kind in option.get("type", TYPES)}


def _types(schema: dict, function: Function) -> set[str]:
    return {kind for option in options(schema, function, set()) for kind in option.get("type", TYPES)}


def _nested(outer: Function, argument: str, inner: Function, rng: random.Random, language: str, split: str) -> tuple[str, dict]:
    drawing = Drawing(outer, rng, split, language)
    optional = [name for name in outer.argument_names if name not in outer.parameters.get("required", [])]
    wanted = {name for name in outer.argument_names if name not in optional or rng.random() < 0.5}
    arguments = drawing.part(wanted - {argument}, {argument})
    inner_arguments = Drawing(inner, rng, split, language).arguments()
    (outer_words, given), (inner_words, inner_given) = (_said(one, values, rng, language, split) for one, values in ((outer, arguments), (inner, inner_arguments)))
    request = fill(rng.choice(frames(language, split)["nested"]), {"outer": outer_words, "given": given, "inner": inner_words + inner_given,
                                                                     "label": rng.choice(labels(outer, argument, language))})
    return request, {"name": outer.name, "arguments": arguments, "nested": {argument: {"name": inner.name, "arguments": inner_arguments}}}


def _said(function: Function, arguments: dict, rng: random.Random, language: str, split: str) -> tuple[str, str]:
    found = deeds(function, language)
    is_deed, words = rng.choice([one for one in found if one[0]] or found)
    plain, given = given_in_words(function, arguments, rng, language, split)
    return words + plain if is_deed else f"{'get' if language == 'en' else '获取'} {words}{plain}", given


def _giving(name: str, returned: dict) -> Function:
    """A function whose schema holds what is returned, and its definitions where references look for them."""
    definitions = {key: returned[key] for key in ("$defs", "definitions") if key in returned}
    return Function(name, "", {"type": "object", "properties": {"result": returned}, **definitions})
