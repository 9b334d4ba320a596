"""One HTTP exchange: within its time by the clock on the wall, within its size, and without a library's error getting out.

A library's exception carries the request, and its traceback the headers: what comes out of here is a `Reply`, never that.
Each request has a connection of its own. A kept one may have been closed by the server meanwhile, which looks like a request
that broke off and may be billed; against the seconds that an answer takes, connecting anew costs little.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from dataclasses import dataclass, field

import httpx2

from omnivision.endpoint.outcomes import Kind
from omnivision.endpoint.secret import LogFilter, Secret
from omnivision.endpoint.settings import Endpoint
from omnivision.errors import ConfigError

CONNECT = 10.0  # seconds for each address of a host: no guard can end a connection that is not there yet
ERROR_BYTES = 64_000  # of the body of an error: enough for a message
# The first that fits: the library's classes are nested.
NETWORK = (
    (httpx2.ConnectTimeout, Kind.UNREACHABLE, "no connection in time"),
    ((httpx2.ConnectError, httpx2.ProxyError), Kind.UNREACHABLE, "no connection"),
    ((httpx2.ReadTimeout, httpx2.WriteTimeout), Kind.TIMED_OUT, "nothing came"),
    ((httpx2.NetworkError, httpx2.RemoteProtocolError), Kind.RESET, "the connection broke"),
)


@dataclass(frozen=True)
class Reply:
    """What came back.

    Args:
        status: of HTTP; None if no response began. headers: the few that matter, by small name.
        text: the body, the key hidden; not shown by `repr`, since it may be a megabyte.
        problem: why the exchange failed, None if it did not. detail: in words.
    """

    status: int | None = None
    headers: dict = field(default_factory=dict)
    text: str = field(default="", repr=False)
    problem: Kind | None = None
    detail: str = ""


class Guard:
    """Ends one exchange when its time is over, whatever the server does: it shuts the socket down from outside.

    The library's own limits start anew with each byte, so that a server that drips keeps them waiting for ever.
    """

    def __init__(self, seconds: float) -> None:
        self.expired = self.aborted = self.answering = False
        self._lock = threading.Lock()
        self._sockets: list[socket.socket] = []
        self._timer = threading.Timer(seconds, self._expire)
        self._timer.daemon = True

    def __enter__(self) -> Guard:
        self._timer.start()
        return self

    def __exit__(self, *exc) -> None:
        self._timer.cancel()
        with self._lock:
            while self._sockets:
                self._sockets.pop().close()

    @property
    def status(self) -> int | None:
        """Of the response that broke off: with any other status than 200 the body does not matter."""
        return 200 if self.answering else None

    def trace(self, event: str, info: dict) -> None:
        """Told by the library how far it is."""
        if event.endswith("connect_tcp.complete"):
            # A duplicate stays ours when TLS takes the socket over, and cannot be closed and reused under our hands.
            duplicate = info["return_value"].get_extra_info("socket").dup()
            with self._lock:
                self._sockets.append(duplicate)
            if self.expired or self.aborted:
                self._shut()
        elif event.endswith("receive_response_headers.complete"):
            self.answering = True

    def abort(self) -> None:
        """Ends the exchange now."""
        self.aborted = True
        self._shut()

    def _expire(self) -> None:
        self.expired = True
        self._shut()

    def _shut(self) -> None:
        with self._lock:
            for one in self._sockets:
                with contextlib.suppress(OSError):  # the other side was quicker
                    one.shutdown(socket.SHUT_RDWR)


class Wire:
    """Sends bodies to one endpoint; safe for threads.

    Raises:
        ConfigError: the address cannot be used.
    """

    def __init__(self, endpoint: Endpoint, secret: Secret) -> None:
        self._endpoint, self._secret = endpoint, secret
        self._guards: set[Guard] = set()
        limits = httpx2.Timeout(endpoint.timeout, connect=min(CONNECT, endpoint.timeout), pool=None)
        self._log_filter = LogFilter(secret)
        try:
            self._url = httpx2.URL(endpoint.url)
        except httpx2.InvalidURL as error:
            raise ConfigError(f"The endpoint's address is no URL: {secret.hide(str(error))}", "base_url", "Correct it.") from None
        self._client = httpx2.Client(
            auth=secret, follow_redirects=False, trust_env=endpoint.trust_env, timeout=limits,
            limits=httpx2.Limits(max_connections=None, max_keepalive_connections=0),
            headers={"Content-Type": "application/json", "Accept": "application/json", "Accept-Encoding": "identity", "Connection": "close"})
        self._log_filter.put()

    def close(self) -> None:
        """Lets go of the library's resources."""
        self._client.close()
        self._log_filter.remove()

    def abort(self) -> None:
        """Ends every exchange that is under way; they come back as interrupted."""
        for guard in list(self._guards):
            guard.abort()

    def send(self, body: bytes) -> Reply:
        """Sends one request and reads its response.

        Returns:
            A reply, also for everything that the network or the server can do wrong.
        """
        guard = Guard(self._endpoint.timeout)
        self._guards.add(guard)
        try:
            return self._exchange(body, guard)
        except httpx2.TransportError as error:
            reply = self._failure(error, guard)
            if reply is None:
                raise self._bare(error) from None
            return reply
        except BaseException as error:
            raise self._bare(error) from None
        finally:
            self._guards.discard(guard)

    def _exchange(self, body: bytes, guard: Guard) -> Reply:
        with guard, self._client.stream("POST", self._url, content=body, extensions={"trace": guard.trace}) as response:
            headers = {name: self._secret.hide(response.headers[name])
                       for name in ("retry-after", "date", "location", "content-encoding") if name in response.headers}
            if response.status_code != 200:
                return Reply(response.status_code, headers, self._error_text(response, guard))
            content = bytearray()
            for chunk in response.iter_raw():
                content += chunk
                if len(content) > self._endpoint.max_response_bytes:
                    return Reply(200, headers, problem=Kind.TOO_LARGE,
                                 detail=f"the body is longer than max_response_bytes, {self._endpoint.max_response_bytes:,}")
            # Without a length the end of a body is the end of the connection, and it was us who ended it.
            if (guard.expired or guard.aborted) and not {"content-length", "transfer-encoding"} & set(response.headers):
                return self._cut(guard)
            return self._whole(headers, bytes(content))

    def _error_text(self, response: httpx2.Response, guard: Guard) -> str:
        """What there is of an error's body: the status already says what happened, so that nothing here can make it worse."""
        content = bytearray()
        with contextlib.suppress(httpx2.TransportError):
            for chunk in response.iter_raw():
                content += chunk
                if len(content) > ERROR_BYTES:
                    return f"(the body is longer than {ERROR_BYTES:,} bytes)"  # a cut could leave half a key, which hide may not know
            if not guard.expired and not guard.aborted:
                return self._secret.hide(content.decode("utf-8", "replace"))
        return "(the body broke off)"

    def _whole(self, headers: dict, content: bytes) -> Reply:
        if headers.get("content-encoding", "identity") != "identity":
            return Reply(200, headers, problem=Kind.MISDIRECTED, detail="the body is compressed, although asked not to be")
        try:
            return Reply(200, headers, self._secret.hide(content.decode("utf-8")))
        except UnicodeDecodeError as error:
            return Reply(200, headers, problem=Kind.MISDIRECTED, detail=f"byte {error.start} of the body is not UTF-8")

    def _failure(self, error: httpx2.TransportError, guard: Guard) -> Reply | None:
        kind, what = next(((kind, what) for types, kind, what in NETWORK if isinstance(error, types)), (None, ""))
        if kind is None:
            return None
        if guard.aborted or (kind is not Kind.UNREACHABLE and (guard.expired or kind is Kind.TIMED_OUT)):
            return self._cut(guard)
        if guard.answering and isinstance(error, httpx2.RemoteProtocolError):
            kind, what = Kind.TRUNCATED, "the body ends too early"
        return Reply(guard.status, problem=kind, detail=self._secret.hide(f"{what}: {error}"))

    def _cut(self, guard: Guard) -> Reply:
        """What we ended ourselves."""
        if guard.aborted:
            return Reply(guard.status, problem=Kind.INTERRUPTED, detail="given up by us")
        kind, what = (Kind.SLOW, "not whole") if guard.answering else (Kind.TIMED_OUT, "no response")
        return Reply(guard.status, problem=kind, detail=f"{what} after {self._endpoint.timeout:g} s")

    def _bare(self, error: BaseException) -> BaseException:
        """The error without what could tell the key: the library's frames, its causes, its text."""
        error.args = tuple(self._secret.hide_all(list(error.args)))
        error.__cause__ = error.__context__ = None
        return error.with_traceback(None)
