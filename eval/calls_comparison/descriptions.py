"""The other way to call functions: their descriptions in the prompt, one line each, and a call as JSON."""

from __future__ import annotations

import json

from omnivision.data.raw import parse
from omnivision.functions import Function, FunctionSet
from omnivision.functions.options import options

from ..answer import Answer

INSTRUCTION = "Answer with one call, as JSON. Functions:"
DEEPEST = 3  # objects and lists in each other that are described; a schema may hold itself


def line(function: Function) -> str:
    """A function in one line: move_flight(name: string, day: Monday|Friday): Move a flight to a day."""
    return f"{function.name}({_fields(function.parameters, function, 0)}): {function.description}"


def _fields(schema: dict, function: Function, depth: int) -> str:
    """Names and kinds of an object's properties."""
    required = schema.get("required", ())
    return ", ".join(f"{name}{'' if name in required else '?'}: {_kind(one, function, depth)}" for name, one in schema.get("properties", {}).items())


def _kind(schema: dict | bool, function: Function, depth: int) -> str:
    """What a value may be: listed values, types, list[string], {street: string, zip?: string}; deeper than DEEPEST the bare types."""
    kinds = [kind for option in options(schema, function, set()) for kind in _kinds(option, function, depth)]
    return "|".join(dict.fromkeys(kinds)) or "any"


def _kinds(option: dict, function: Function, depth: int) -> list[str]:
    if "enum" in option:
        return ["null" if one is None else one if isinstance(one, str) else json.dumps(one, ensure_ascii=False) for one in option["enum"]]
    if "type" not in option:
        return ["any"]
    named = {kind: kind for kind in option["type"] if not (kind == "integer" and "number" in option["type"])}
    if "array" in named and "items" in option and depth < DEEPEST:
        named["array"] = f"list[{_kind(option['items'], function, depth + 1)}]"
    if "object" in named and option.get("properties") and depth < DEEPEST:
        named["object"] = f"{{{_fields(option, function, depth + 1)}}}"
    return list(named.values())


def lines(functions: FunctionSet) -> dict[str, str]:
    """Name -> its line."""
    return {one.name: line(one) for one in functions.functions}


def turns(request: str, described: list[str]) -> list[dict]:
    """The lines as the system's turn, so that they are the part of a prompt that questions can share, and the request."""
    return [{"role": "system", "text": "\n".join([INSTRUCTION, *described])}, {"role": "user", "text": request}]


def spelled(call: dict) -> str:
    """The call that the model should write."""
    return json.dumps({"name": call["name"], "arguments": call["arguments"]}, ensure_ascii=False)


def read_call(ids: list[int], tokenizer, functions: FunctionSet) -> Answer:
    """A call from generated ids, held to the same schema as calls in functional tokens; never raises for what a model wrote."""
    text = tokenizer.decode(ids, skip_special_tokens=True).strip()
    try:
        said = parse(text)
    except ValueError:
        said = None
    call = isinstance(said, dict) and set(said) == {"name", "arguments"}
    if not call or not isinstance(said["name"], str) or not isinstance(said["arguments"], dict):
        return Answer(text, ids, calls=[], fault="syntax")
    if said["name"] not in functions:
        return Answer(text, ids, calls=[], fault="unknown function")
    faults = functions[said["name"]].faults(said["arguments"])
    return Answer(text, ids, calls=[] if faults else [said], fault=faults[0][0] if faults else None)
