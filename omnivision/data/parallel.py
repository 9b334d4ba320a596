"""Things in a few threads, in their order. Reading and decoding pictures leaves Python's lock, so threads share the cores."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import Any

from omnivision.hardware import usable_cores

AHEAD = 32  # things under way or waiting for each thread


def cores() -> int:
    """Cores of this process: those that it may use, shared among the processes that a launcher started here."""
    return max(1, usable_cores() // int(os.environ.get("LOCAL_WORLD_SIZE") or os.environ.get("LOCAL_SIZE") or "1"))  # torchrun's, DeepSpeed's


def at_once(workers: int, function: Callable[[Any], Any], things: Sequence[Any]) -> list[Any]:
    """function(thing) of a few: those of a batch."""
    if min(workers, len(things)) <= 1:
        return [function(thing) for thing in things]
    with ThreadPoolExecutor(min(workers, len(things))) as threads:
        return list(threads.map(function, things))


def in_order(threads: ThreadPoolExecutor, workers: int, function: Callable[[Any], Any], things: Iterable[Any]) -> Iterator[Any]:
    """function(thing) of many. `ThreadPoolExecutor.map` would take all of the things, and make a future of each, before the first result.

    Args:
        workers: threads that there are.
    """
    things = iter(things)
    waiting = deque(threads.submit(function, thing) for thing in islice(things, AHEAD * workers))
    while waiting:
        result = waiting.popleft().result()
        waiting.extend(threads.submit(function, thing) for thing in islice(things, 1))
        yield result
