"""The ledger's lines: from bytes to requests and outcomes and back, each checked."""

from __future__ import annotations

import json
from dataclasses import dataclass

from omnivision.endpoint.outcomes import Billed, Kind, Outcome, Usage


@dataclass(frozen=True)
class Request:
    """One request as the ledger knows it.

    Args:
        key: the question's. attempt: its number, from 1. time: seconds since 1970, before it was sent.
        body_hash: SHA-256 of the body. url: where to. bound: tokens of prompt and of answer that it can cost at most.
        kind: what it ended with; None where the run was killed before that was known.
    """

    key: str
    attempt: int
    time: float
    body_hash: str
    url: str
    bound: tuple[int, int]
    kind: Kind | None = None


def split(content: bytes) -> tuple[list[bytes], bytes]:
    """The lines of a file, and what follows its last line break: the half line of a killed run, or nothing."""
    *lines, rest = content.split(b"\n")
    return lines, rest


def parse(line: bytes) -> Request | Outcome:
    """What one line says.

    Raises:
        ValueError: it is no line of a ledger.
    """
    try:
        record = json.loads(line)
        event = record["event"]
        if event == "request":
            return Request(_key(record), _count(record["attempt"]), float(record["time"]), str(record["body_hash"]), str(record["url"]),
                           (_count(record["bound"][0]), _count(record["bound"][1])))
        if event in ("response", "failure"):
            return _outcome(record)
    except (TypeError, KeyError, IndexError, RecursionError) as error:
        raise ValueError(f"{type(error).__name__}: {error}") from error
    raise ValueError(f"unknown event {event!r}")


def request_record(request: Request) -> dict:
    """A request as its line has it."""
    return {"event": "request", "key": request.key, "attempt": request.attempt, "time": request.time, "body_hash": request.body_hash,
            "url": request.url, "bound": list(request.bound)}


def outcome_record(outcome: Outcome, time: float) -> dict:
    """An outcome as its line has it."""
    usage = outcome.usage and [outcome.usage.prompt_tokens, outcome.usage.completion_tokens]
    return {"event": "response" if outcome.kind is Kind.ANSWERED else "failure", "key": outcome.key, "attempt": outcome.attempt,
            "outcome": outcome.kind.value, "final": outcome.final, "billed": outcome.billed.value, "status": outcome.status,
            "text": outcome.text, "detail": outcome.detail, "usage": usage, "model": outcome.model,
            "seconds": outcome.seconds, "time": round(time, 3)}


def _outcome(record: dict) -> Outcome:
    if record["outcome"] == "redirected":  # of a ledger from before 404 and the like were asked again
        record = {**record, "outcome": Kind.MISDIRECTED.value, "final": False}
    usage, status = record["usage"], record["status"]
    if not isinstance(record["final"], bool):
        raise ValueError("final is neither true nor false")
    return Outcome(Kind(record["outcome"]), _key(record), str(record["text"]), str(record["detail"]), None if status is None else _count(status),
                   None if usage is None else Usage(_count(usage[0]), _count(usage[1])), str(record["model"]), float(record["seconds"]),
                   _count(record["attempt"]), record["final"], Billed(record["billed"]), recorded=True)


def _key(record: dict) -> str:
    if not isinstance(record["key"], str):
        raise ValueError("the key is no text")
    return record["key"]


def _count(value: object) -> int:
    if type(value) is not int or value < 0:
        raise ValueError(f"{value!r} is no count")
    return value
