"""Many questions at once: threads that ask, outcomes as they come, and an orderly end however it comes."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager

from omnivision.endpoint.outcomes import Outcome
from omnivision.errors import DataError, ResumableError


class Stopped(ResumableError):
    """A question that was not asked (again), because the run was stopped meanwhile."""


def gather(ask: Callable[[str, list], Outcome], items: Iterable[tuple[str, list]], threads: int,
           stop: threading.Event, abort: Callable[[], None]) -> Iterator[Outcome]:
    """Asks in threads.

    Args:
        ask: asks one question; raises Stopped soon once `stop` is set. items: (key, messages); taken as they are needed.
        threads: how many. stop: set here when nothing more is to be asked. abort: breaks off what is under way.

    Yields:
        Outcomes as they come.

    Raises:
        DataError: a key comes twice. Otherwise the first error of `ask`, after the outcomes of what was under way.
    """
    seen: set[str] = set()
    running: set[Future] = set()
    with _pool(threads, stop, abort) as pool:
        for key, messages in items:
            if key in seen:
                raise DataError("Two questions have the same key", key, "Give each its own: the ledger tells them apart by it.")
            seen.add(key)
            running.add(pool.submit(ask, key, messages))
            if len(running) >= 2 * threads:  # a few in store, so that no thread waits for the caller
                running = yield from _collect(running, stop)
        while running:
            running = yield from _collect(running, stop)


def _collect(running: set[Future], stop: threading.Event) -> Iterator[Outcome]:
    """Yields what is done and returns what is not; after an error everything that still comes, then the error."""
    done, running = wait(running, return_when=FIRST_COMPLETED)
    if any(future.exception() for future in done):
        stop.set()
        late, running = wait(running)
        done |= late
    errors = [error for future in done if (error := future.exception())]
    yield from (future.result() for future in done if future.exception() is None)
    if errors:
        raise next((error for error in errors if not isinstance(error, Stopped)), errors[0])
    return running


@contextmanager
def _pool(threads: int, stop: threading.Event, abort: Callable[[], None]) -> Iterator[ThreadPoolExecutor]:
    pool = ThreadPoolExecutor(threads, thread_name_prefix="endpoint")
    try:
        yield pool
    finally:
        stop.set()
        try:
            pool.shutdown(cancel_futures=True)
        except BaseException:  # the second Ctrl-C
            abort()
            pool.shutdown(cancel_futures=True)
            raise
