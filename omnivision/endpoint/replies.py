"""From a reply to an outcome: which of the endings it is. Pure: no network, no clock but for a server without one."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace

from omnivision.data.raw import writable
from omnivision.endpoint.outcomes import Billed, Kind, Outcome, Usage
from omnivision.endpoint.pace import read_retry_after
from omnivision.endpoint.wire import Reply

LONGEST_DETAIL = 500  # characters
NOBODY_THERE = (404, 405, 410)  # whatever is asked: no such model, a wrong address
THOUGHTS = ("reasoning_content", "reasoning")  # where servers put them, apart from the text
NEAR_THE_END = 6  # characters: a broken escape (\u12) is noticed where it begins


def read(reply: Reply, hide: Callable[[str], str]) -> Outcome:
    """Names what came back.

    Args:
        reply: of one exchange. hide: takes the key out of a text; JSON escapes may have kept it from being seen before.
    """
    if reply.problem:
        found = Outcome(reply.problem, detail=reply.detail)
    elif reply.status == 200:
        found = _completion(reply.text)
    else:
        found = _status(reply)
    texts = {name: writable(hide(getattr(found, name))) for name in ("text", "detail", "model")}
    return replace(found, status=reply.status, **{**texts, "detail": _short(texts["detail"])})


def checked(outcome: Outcome, schema: Callable[[str], object] | None, hide: Callable[[str], str]) -> Outcome:
    """An answer that the caller's schema refuses with ValueError is of the wrong schema, and paid all the same."""
    if schema is None or outcome.kind is not Kind.ANSWERED:
        return outcome
    try:
        schema(outcome.text)
    except ValueError as error:
        return replace(outcome, kind=Kind.WRONG_SCHEMA, billed=Billed.YES, detail=_short(writable(hide(f"the schema says: {error}"))))
    return outcome


def _status(reply: Reply) -> Outcome:
    status, detail = reply.status, _message(reply.text)
    if status == 402 or (status == 429 and "insufficient_quota" in reply.text):
        return Outcome(Kind.NO_CREDIT, detail=detail)
    if status in (401, 403):
        return Outcome(Kind.UNAUTHORISED, detail=detail)
    if status == 429 or status == 408 or status >= 500:
        wait = read_retry_after(reply.headers.get("retry-after"), reply.headers.get("date"))
        kind = Kind.RATE_LIMITED if status == 429 else Kind.SERVER_ERROR
        return Outcome(kind, detail=detail, retry_after=wait, billed=Billed.OPEN if status in (502, 504) else None)
    if 300 <= status < 400:
        return Outcome(Kind.MISDIRECTED, detail=f"to {reply.headers.get('location', 'nowhere')}", billed=Billed.NO)
    if status >= 400:
        return Outcome(Kind.MISDIRECTED if status in NOBODY_THERE else Kind.REJECTED, detail=detail, billed=Billed.NO)
    return Outcome(Kind.MISDIRECTED, detail=f"status {status} where only 200 is expected")


def _completion(text: str) -> Outcome:
    data, broken = _parse(text)
    if broken:
        return broken
    if not isinstance(data, dict):
        return Outcome(Kind.MISDIRECTED, detail=f"no chat completion but a JSON {type(data).__name__}")
    usage, model = _usage(data.get("usage")), data["model"] if isinstance(data.get("model"), str) else ""
    found = _choice(data)
    if usage and found.kind is Kind.MISDIRECTED:
        found = replace(found, kind=Kind.WRONG_SCHEMA)
    if usage and found.kind in (Kind.ERROR_INSIDE, Kind.WRONG_SCHEMA):
        found = replace(found, billed=Billed.YES)  # it counted tokens, so it did the work
    return replace(found, usage=usage, model=model)


def _choice(data: dict) -> Outcome:
    if data.get("error"):
        return Outcome(Kind.ERROR_INSIDE, detail=_said(data["error"]))
    choices = data.get("choices")
    choice = choices[0] if isinstance(choices, list) and choices else None
    if isinstance(choice, dict) and choice.get("error"):
        return Outcome(Kind.ERROR_INSIDE, detail=_said(choice["error"]))
    message = choice.get("message") if isinstance(choice, dict) else None
    if not isinstance(message, dict) or not isinstance(message.get("content"), (str, type(None))):
        return Outcome(Kind.MISDIRECTED, detail="no chat completion: choices[0].message.content is missing or no text")
    thoughts = any(message.get(name) for name in THOUGHTS)
    return _ending(message.get("content") or "", message.get("refusal"), choice.get("finish_reason"), thoughts)


def _ending(text: str, refusal: object, finish: object, thoughts: bool) -> Outcome:
    if refusal or finish == "content_filter":
        return Outcome(Kind.REFUSED, text=text, detail=_said(refusal or "finish_reason is content_filter"))
    if not text.strip() and (thoughts or finish == "length"):
        return Outcome(Kind.THOUGHTS, text=text, detail=f"no text{' but thoughts' if thoughts else ''}; finish_reason is {_said(finish)}: raise max_tokens")
    if finish == "length":
        return Outcome(Kind.CUT_OFF, text=text, detail="finish_reason is length: raise max_tokens")
    if not text.strip():
        return Outcome(Kind.EMPTY, text=text, detail=f"no text; finish_reason is {_said(finish)}")
    return Outcome(Kind.ANSWERED, text=text)


def _parse(text: str) -> tuple[object, Outcome | None]:
    """What the JSON says, or why it is none. The error itself is dropped here: it carries the whole body."""
    try:
        return json.loads(text), None
    except RecursionError:
        return None, Outcome(Kind.MISDIRECTED, detail="the JSON is nested too deeply")
    except ValueError as error:
        place, what = getattr(error, "pos", 0), getattr(error, "msg", "a number is too long")
    if not text.strip() or what.startswith("Unterminated") or (place and len(text.rstrip()) - place <= NEAR_THE_END):
        return None, Outcome(Kind.TRUNCATED, detail=f"the JSON ends too early, after {len(text):,} characters")  # no quote: half a key is not hidden
    return None, Outcome(Kind.MISDIRECTED, detail=f"no JSON: {what} at character {place}")


def _usage(found: object) -> Usage | None:
    """The counted tokens, if both are there and can be."""
    counts = [found.get(name) if isinstance(found, dict) else None for name in ("prompt_tokens", "completion_tokens")]
    return Usage(*counts) if all(type(count) is int and count >= 0 for count in counts) else None


def _message(text: str) -> str:
    """What an error's body says: `error.message` where it has one, else all of it."""
    try:
        return _said(json.loads(text)["error"])
    except (ValueError, TypeError, KeyError, RecursionError):
        return text


def _said(error: object) -> str:
    try:
        return str(error.get("message") or error) if isinstance(error, dict) else str(error)
    except RecursionError:  # what could just be parsed may still be too deep to be shown
        return "(nested too deeply)"


def _short(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= LONGEST_DETAIL else text[:LONGEST_DETAIL] + "..."
