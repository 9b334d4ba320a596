"""Many things in a few threads, in their order, and never all of them in memory at once."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import Any

AHEAD = 32  # things under way or waiting for each thread


def in_order(threads: ThreadPoolExecutor, workers: int, function: Callable[[Any], Any], things: Iterable[Any]) -> Iterator[Any]:
    """function(thing) of each. `ThreadPoolExecutor.map` would take all of the things, and make a future of each, before the first result.

    Args:
        workers: threads that there are.
    """
    things = iter(things)
    waiting = deque(threads.submit(function, thing) for thing in islice(things, AHEAD * workers))
    while waiting:
        result = waiting.popleft().result()
        waiting.extend(threads.submit(function, thing) for thing in islice(things, 1))
        yield result
