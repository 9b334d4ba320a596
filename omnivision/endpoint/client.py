"""Asks: each question through ledger, limits and retries, so that it is paid once; many at a time."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial

from omnivision.endpoint import pace, replies
from omnivision.endpoint.accounts import Tokens
from omnivision.endpoint.gathering import Stopped, gather
from omnivision.endpoint.ledger import Ledger
from omnivision.endpoint.lines import Request
from omnivision.endpoint.outcomes import ATTEMPTS, Billed, Kind, Outcome
from omnivision.endpoint.secret import Secret
from omnivision.endpoint.settings import LIMITS, Endpoint
from omnivision.endpoint.wire import Wire
from omnivision.errors import ConfigError, DataError, OmniError, ResumableError

Schema = Callable[[str], object]


@dataclass(frozen=True, repr=False)  # a body may hold megabytes of pictures
class _Question:
    key: str
    body: bytes
    body_hash: str
    bound: tuple[int, int]
    schema: Schema | None
    stop: threading.Event


def _question(endpoint: Endpoint, key: str, messages: list, schema: Schema | None, stop: threading.Event) -> _Question:
    body = endpoint.body(key, messages)
    return _Question(key, body, hashlib.sha256(body).hexdigest(), endpoint.bound(messages), schema, stop)


class Client:
    """Asks one endpoint; safe for threads; to be closed, or used in a `with`.

    Args:
        endpoint: the settings. ledger: open, and nobody else's while this client lives.
        clock: seconds that never run backwards. sleep: sleep(seconds); None waits so that stopping ends it. Both for tests.
        seed: of the jitter in rests.

    Raises:
        ConfigError: the variable with the key is not set, or the address cannot be used.
    """

    def __init__(self, endpoint: Endpoint, ledger: Ledger, *, clock: Callable[[], float] = time.monotonic,
                 sleep: Callable[[float], object] | None = None, seed: int = 0) -> None:
        self.endpoint, self.ledger = endpoint, ledger
        self._sent = endpoint  # until the server says that it knows only the newer name of max_tokens
        self._secret = Secret(endpoint.key_variable)
        self._wire = Wire(endpoint, self._secret)
        ledger.guard(self._secret.hide_all)
        self._clock, self._seed = clock, seed
        self._rest = (lambda seconds, stop: sleep(seconds)) if sleep else (lambda seconds, stop: stop.wait(seconds))
        self._pace = pace.Pace(endpoint.requests_per_minute, clock, self._rest)
        self._slots = threading.BoundedSemaphore(endpoint.concurrency)
        self._mutex = threading.RLock()  # a forgotten ask_all may be collected, and so ended, while this thread has it
        self._asking: set[str] = set()
        self._stops: set[threading.Event] = set()
        self._fatal: tuple[type[OmniError], str, str, str] | None = None

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *exc) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Client({self.endpoint!r}, {self.ledger!r})"

    def close(self) -> None:
        """Starts nothing more; waits for what is under way to end and be written down. Ctrl-C breaks it off."""
        self._fail(Stopped, "The client was closed", self.endpoint.base_url, "Open another one.")
        try:
            self._drain()
        except BaseException:
            self._wire.abort()
            self._drain()
            raise
        finally:
            self._wire.close()

    def ask(self, key: str, messages: list, schema: Schema | None = None) -> Outcome:
        """Asks one question, unless the ledger has its final outcome.

        Args:
            key: names the question in the ledger: one key, one question.
            messages: of the chat format. schema: schema(text) raises ValueError if the answer is not as it should be.

        Returns:
            How it ended, after all retries. Only `Kind.ANSWERED` is an answer.

        Raises:
            ConfigError: the key is refused (401, 403), or the ledger holds an answer to another question, or of another address, under this key.
            DataError: the messages are not plain JSON, or the same question is being asked already.
            ResumableError: max_cost would be exceeded, the account has no credit, or the ledger cannot be written.
        """
        with self._stoppable() as stop:
            return self._ask(key, messages, schema, stop)

    def ask_all(self, items: Iterable[tuple[str, list]], schema: Schema | None = None) -> Iterator[Outcome]:
        """Asks many questions, `concurrency` at a time.

        On Ctrl-C, on an error and when the caller stops listening nothing more is sent; what is under way ends (within `timeout`)
        and stands in the ledger. A second Ctrl-C breaks it off.

        Args:
            items: (key, messages) pairs; taken as they are needed, so that pictures can be opened late. schema: as in `ask`.

        Yields:
            Outcomes as they come, not in the items' order. Those of an earlier run too (`recorded`).

        Raises:
            DataError: a key comes twice. Otherwise as `ask`, after the outcomes of what was under way.
        """
        with self._stoppable() as stop:
            yield from gather(partial(self._ask, schema=schema, stop=stop), items, self.endpoint.concurrency, stop, self._wire.abort)

    def _drain(self) -> None:
        for _ in range(self.endpoint.concurrency):
            self._slots.acquire()  # whoever comes later finds out that the client is closed
        for _ in range(self.endpoint.concurrency):
            self._slots.release()

    @contextmanager
    def _stoppable(self) -> Iterator[threading.Event]:
        stop = threading.Event()
        with self._mutex:
            self._stops.add(stop)
        try:
            yield stop
        finally:
            with self._mutex:
                self._stops.discard(stop)

    def _ask(self, key: str, messages: list, schema: Schema | None, stop: threading.Event) -> Outcome:
        if not isinstance(key, str) or not key:
            raise DataError(f"A question's key is {key!r}", str(self.ledger.path), "Give a text that names the question.")
        with self._claimed(key):
            asked = partial(_question, key=key, messages=messages, schema=schema, stop=stop)
            question, newer = asked(self._sent), self._sent.with_newer_limit()
            last = self.ledger.last_request(key)
            if newer and last and last.body_hash != question.body_hash and last.body_hash == (other := asked(newer)).body_hash:
                question, newer = other, None  # what an earlier run has found out
            outcome = self._known_or_asked(question)
            if newer and outcome.kind is Kind.REJECTED and LIMITS[1] in outcome.detail:
                self._sent = newer
                outcome = self._known_or_asked(asked(newer))
            return outcome

    def _known_or_asked(self, question: _Question) -> Outcome:
        known = self._recorded(question)
        if known:
            return known
        for number in range(1, self.endpoint.attempts + 1):
            outcome = self._attempt(question)
            if outcome.final or number == self.endpoint.attempts or not self._again(outcome):
                break
            self._rest(pace.delay(self.endpoint.backoff, number, outcome.retry_after, f"{self._seed}/{question.key!a}/{outcome.attempt}"), question.stop)
        return outcome

    @contextmanager
    def _claimed(self, key: str) -> Iterator[None]:
        with self._mutex:
            if key in self._asking:
                raise DataError("The same question is being asked already", key, "Give each its own key: the ledger tells them apart by it.")
            self._asking.add(key)
        try:
            yield
        finally:
            with self._mutex:
                self._asking.discard(key)

    def _recorded(self, question: _Question) -> Outcome | None:
        """The ledger's final outcome, if it belongs to this question."""
        known, request = self.ledger.answered(question.key), self.ledger.last_request(question.key)
        if known is None or (request.body_hash, request.url) == (question.body_hash, self.endpoint.url):
            return known
        if known.billed is Billed.NO:
            return None  # the server did not take what was sent then: this is something else, or the address was wrong
        where = f"{self.ledger.path}, key {question.key}"
        if request.body_hash == question.body_hash:
            raise ConfigError(f"The ledger holds answers of another address, {request.url}", where,
                              "They would count as this one's: go on at that address, give another folder or ledger, or, where the same server has only moved, write the new address into the ledger.")
        raise ConfigError("The ledger holds the outcome of another request under the same key", where,
                          "A ledger belongs to one model, prompt and settings: give another ledger, or other keys.")

    def _again(self, outcome: Outcome) -> bool:
        return outcome.kind.tries == ATTEMPTS or self.ledger.endings(outcome.key, outcome.kind) < outcome.kind.tries

    def _attempt(self, question: _Question) -> Outcome:
        with self._slots:
            self._pace.wait(question.stop)
            self._check_going(question.stop)
            bound = max(question.bound[0], self.ledger.most_prompt()), question.bound[1]
            request = self.ledger.request(question.key, question.body_hash, self.endpoint.url, bound, partial(self._check_cost, bound))
            started = self._clock()
            answer = Outcome(Kind.INTERRUPTED)
            try:
                answer = replies.read(self._wire.send(question.body), self._secret.hide)
                outcome = replies.checked(answer, question.schema, self._secret.hide)
            except BaseException as error:  # Ctrl-C, a schema that fails otherwise than by ValueError
                broken = replace(answer, kind=Kind.INTERRUPTED, detail=f"{type(error).__name__} on our side")
                self._write_down(broken, request, started)
                raise
            outcome = self._write_down(outcome, request, started)
        self._heed(outcome, question.stop)
        return outcome

    def _write_down(self, outcome: Outcome, request: Request, started: float) -> Outcome:
        if outcome.retry_after is not None:
            self._pace.hold(outcome.retry_after)  # first: nobody asks while the ledger is written
        tries = 1 + self.ledger.endings(request.key, outcome.kind)
        outcome = replace(outcome, key=request.key, attempt=request.attempt, seconds=round(self._clock() - started, 3),
                          final=outcome.kind.final and tries >= outcome.kind.tries)
        self.ledger.outcome(outcome)
        return outcome

    def _check_cost(self, bound: tuple[int, int], used: Tokens) -> None:
        limit, price = self.endpoint.max_cost, self.endpoint.price
        spent, perhaps, wanted = price(used.prompt, used.completion), price(used.open_prompt, used.open_completion), price(*bound)
        if limit is not None and spent + perhaps + wanted > limit:
            raise ResumableError(f"max_cost {limit:g} would be exceeded: {spent:.6g} was spent, up to {perhaps:.6g} more by requests "
                                 f"whose cost is not known (yet), and the next can cost {wanted:.6g}", str(self.ledger.path),
                                 "Raise max_cost, which counts the whole ledger, and start again.")

    def _check_going(self, stop: threading.Event) -> None:
        if self._fatal:
            kind, *paragraph = self._fatal
            raise kind(*paragraph)
        if stop.is_set():
            raise Stopped("The run was stopped", self.endpoint.base_url, "Start again: what was asked is in the ledger.")

    def _heed(self, outcome: Outcome, stop: threading.Event) -> None:
        """What an outcome means for all other questions."""
        if outcome.kind is Kind.UNAUTHORISED:
            name = self.endpoint.key_variable
            self._fail(ConfigError, f"The endpoint refuses the key in {name or 'no variable'} with status {outcome.status}: {outcome.detail}",
                       self.endpoint.base_url, f"Set {name} to a key that may use it." if name else "Name the variable with the key as key_variable.")
        elif outcome.kind is Kind.NO_CREDIT:
            self._fail(ResumableError, f"The account has no credit left: {outcome.detail}", self.endpoint.base_url, "Add credit and start again.")
        else:
            return
        self._check_going(stop)

    def _fail(self, kind: type[OmniError], what: str, where: str, remedy: str) -> None:
        """Nothing more is asked by anybody; the first reason is the one that is told."""
        with self._mutex:
            self._fatal = self._fatal or (kind, what, where, remedy)
            for stop in self._stops:
                stop.set()
