"""The Berkeley function-calling files: their functions as one set, their reference answers as calls."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

from omnivision.functions import Function, FunctionSet

FILES = ("simple_python", "multiple", "parallel")


def lines(file: Path) -> list[dict]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def read(folder: Path) -> tuple[FunctionSet, dict[str, list[list[dict]]]]:
    """The set of every function (one that comes again with another schema gets a number), and per file the answers.

    An answer is a list of groups, one group a reference call: the calls that the reference allows.
    """
    tools: dict[str, dict] = {}
    answers: dict[str, list[list[dict]]] = {}
    for name in FILES:
        references = {line["id"]: line["ground_truth"] for line in lines(folder / "possible_answer" / f"BFCL_v4_{name}.json")}
        answers[name] = []
        for question in lines(folder / f"BFCL_v4_{name}.json"):
            called = {tool["name"]: _known(tool, tools) for tool in question["function"]}
            answers[name] += [(question["id"], called[function], allowed(arguments))
                              for reference in references[question["id"]] for function, arguments in reference.items()]
    return FunctionSet.from_json([{**tool, "name": name} for name, tool in tools.items()]), answers


def _known(tool: dict, tools: dict[str, dict]) -> str:
    for number in itertools.count(1):
        name = tool["name"] if number == 1 else f"{tool['name']} #{number}"
        if tools.setdefault(name, tool)["parameters"] == tool["parameters"]:
            return name


def allowed(arguments: dict) -> list[dict]:
    """The argument sets of a reference: its first values, and one after the other each further one in its place.

    "" among the values says that the argument may be left out.
    """
    values = {name: [one for given in several for one in plain(given)] for name, several in arguments.items()}
    first = {name: several[0] for name, several in values.items()}
    sets = [first, *({**first, name: value} for name, several in values.items() for value in several[1:])]
    return [{name: value for name, value in one.items() if value != ""} for one in sets]


def plain(value: object) -> list:
    """A value of a reference; inside an object every key holds a list of allowed values."""
    if isinstance(value, list):
        return [list(one) for one in itertools.product(*(plain(item) for item in value))]
    if isinstance(value, dict):
        return [{key: one for key, one in zip(value, chosen) if one != ""}
                for chosen in itertools.product(*([one for item in several for one in plain(item)] for several in value.values()))]
    return [value]
