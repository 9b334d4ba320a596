"""The other way to call functions: their descriptions in the prompt, one line each, and a call as JSON."""

from __future__ import annotations

import json

from omnivision.functions import Function, FunctionSet

from ..answer import Answer

INSTRUCTION = "Answer with one call, as JSON. Functions:"


def line(function: Function) -> str:
    """A function in one line: move_flight(name: string, day: Monday|Friday): Move a flight to a day."""
    required = function.parameters.get("required", ())
    given = [f"{name}{'' if name in required else '?'}: {_kind(schema)}" for name, schema in function.parameters.get("properties", {}).items()]
    return f"{function.name}({', '.join(given)}): {function.description}"


def _kind(schema: object) -> str:
    if not isinstance(schema, dict):
        return "any"
    if "enum" in schema:
        return "|".join(map(str, schema["enum"]))
    kind = schema.get("type", "any")
    return "|".join(kind) if isinstance(kind, list) else kind


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
        said = json.loads(text)
    except (ValueError, RecursionError):
        said = None
    call = isinstance(said, dict) and set(said) == {"name", "arguments"}
    if not call or not isinstance(said["name"], str) or not isinstance(said["arguments"], dict):
        return Answer(text, ids, calls=[], fault="syntax")
    function = next((one for one in functions.functions if one.name == said["name"]), None)
    if function is None:
        return Answer(text, ids, calls=[], fault="unknown function")
    faults = function.faults(said["arguments"])
    return Answer(text, ids, calls=[] if faults else [said], fault=faults[0][0] if faults else None)
