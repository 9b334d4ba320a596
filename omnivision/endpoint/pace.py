"""When the next request may start: an even pace, pauses that the server asks for, and growing rests after failures."""

from __future__ import annotations

import math
import random
import threading
import time
from collections.abc import Callable
from datetime import UTC
from email.utils import parsedate_to_datetime

LONGEST = 60.0  # seconds; a server that asks for an hour is asked again after a minute, up to `attempts` times


class Pace:
    """Keeps the starts of requests apart, over all threads.

    Args:
        per_minute: starts a minute; None for no limit.
        clock: seconds that never run backwards. rest: rest(seconds, stop) returns after so long, or when `stop` is set.
    """

    def __init__(self, per_minute: float | None, clock: Callable[[], float], rest: Callable[[float, threading.Event], object]) -> None:
        self._apart = 60.0 / per_minute if per_minute else 0.0
        self._clock, self._rest = clock, rest
        self._lock = threading.Lock()
        self._next = self._held = -math.inf

    def wait(self, stop: threading.Event) -> None:
        """Returns when a request may start, or `stop` is set."""
        while not stop.is_set():
            with self._lock:
                now = self._clock()
                missing = max(self._next, self._held) - now
                if missing <= 0:
                    self._next = now + self._apart
                    return
            self._rest(missing, stop)

    def hold(self, seconds: float) -> None:
        """Nobody starts for so long: the server's Retry-After is meant for all threads."""
        with self._lock:
            self._held = max(self._held, self._clock() + seconds)


def delay(base: float, number: int, retry_after: float | None, seed: str) -> float:
    """Seconds to rest after the `number`-th failure in a row.

    Args:
        base: the first rest, before jitter. number: from 1. retry_after: what the server asked for, already capped.
        seed: makes the jitter; the same question rests as long in each run, whichever thread it is in.
    """
    jitter = random.Random(seed).random()
    if retry_after is not None:
        return retry_after + jitter * base
    return min(LONGEST, base * 2.0 ** min(number - 1, 30)) * (0.5 + 0.5 * jitter)


def read_retry_after(value: str | None, date: str | None) -> float | None:
    """Seconds that a Retry-After header asks for, capped at `LONGEST`; None if there is none that can be read.

    Args:
        value: the header: seconds or an HTTP date. date: the server's own Date header, so that its clock may be wrong.
    """
    try:
        seconds = float(value or "nan")
    except ValueError:
        until = _moment(value)
        seconds = math.nan if until is None else max(0.0, until - (_moment(date) or time.time()))
    return min(seconds, LONGEST) if seconds >= 0 else None


def _moment(text: str | None) -> float | None:
    try:
        moment = parsedate_to_datetime(text or "")
    except (TypeError, ValueError, OverflowError):
        return None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
