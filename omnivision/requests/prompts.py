"""What a teacher is told, and how its replies are read."""

from __future__ import annotations

import hashlib
import json

from omnivision.endpoint.messages import object_in
from omnivision.functions import Function

NAMES = {"en": "English", "zh": "Chinese (simplified)"}
WRITE = """You write requests that people make of an assistant, together with the arguments of the function that serves them.
You are given a function with the JSON schema of its arguments, a language, a manner and a number. Write that many requests in that language and manner.
Each is what a person would really say or type, and no two begin alike. It asks for this function and for nothing else, and never names the function.
Every value of the arguments has to stand in the request in the very letters and figures of the arguments, unless the schema lists it.
Leave an optional argument out where the request does not mention it. Use values of your own; the examples show only what fits the schema.
Reply with this one JSON object and nothing else: {"requests": [{"request": "...", "arguments": {...}}, ...]}"""
WRITE_OTHERS = """You write requests that an assistant cannot serve.
You are given the functions that it has, a language, a manner and a number. Write that many requests in that language and manner which none of the functions
serves: half of them close to what the functions are about, half about other things. Each is what a person would really say or type.
Reply with this one JSON object and nothing else: {"requests": [{"request": "..."}, ...]}"""
LOOK_AGAIN = """You sort requests. You are given functions with what they do, and a request.
Reply with this one JSON object and nothing else: {"function": "..."} with the name of the one function that serves the request, or null where none does."""
# What makes batches differ from each other.
MANNERS = ("short commands", "questions", "polite requests", "whole sentences that tell the reason first", "hurried messages as typed on a phone",
           "requests that say what is wanted without saying what to do", "spoken language", "requests with the details before the wish")
HASH = hashlib.sha256(f"{WRITE}\0{WRITE_OTHERS}\0{LOOK_AGAIN}\0{MANNERS}".encode()).hexdigest()[:12]


def asked_to_write(function: Function, language: str, split: str, batch: int, number: int, examples: list[dict]) -> str:
    """The user's part of WRITE."""
    return _told(function=function.to_tool()["function"], **_batch(language, split, batch, number), examples_of_arguments=examples)


def asked_for_others(functions: list[Function], language: str, split: str, batch: int, number: int) -> str:
    """The user's part of WRITE_OTHERS."""
    return _told(functions=_descriptions(functions), **_batch(language, split, batch, number))


def asked_to_look(functions: list[Function], request: str) -> str:
    """The user's part of LOOK_AGAIN."""
    return _told(functions=_descriptions(functions), request=request)


def _told(**parts: object) -> str:
    return json.dumps(parts, ensure_ascii=False)  # texts as JSON, so that none of them can pose as the prompt


def _batch(language: str, split: str, batch: int, number: int) -> dict[str, object]:
    """What no two questions share: a server that takes a seed answers equal ones equally, and what is said twice is paid for nothing."""
    return {"language": NAMES[language], "manner": MANNERS[batch % len(MANNERS)], "batch": f"{split} {batch}", "number": number}


def _descriptions(functions: list[Function]) -> dict[str, str]:
    return {function.name: function.description for function in functions}


def read_requests(text: str) -> list[object]:
    """The entries of a reply to WRITE or WRITE_OTHERS, each still to be looked at.

    Raises:
        ValueError: it is not what was asked for.
    """
    found = object_in(text).get("requests")
    if not isinstance(found, list):
        raise ValueError("the reply has no list `requests`")
    return found


def read_choice(text: str) -> str | None:
    """The function of a reply to LOOK_AGAIN.

    Raises:
        ValueError: it is not what was asked for.
    """
    reply = object_in(text)
    if "function" not in reply or not isinstance(reply["function"], str | None):
        raise ValueError("the reply has no `function`")
    return reply["function"]
