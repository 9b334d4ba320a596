"""The key: read from the environment, sent in one header, and hidden wherever else it might come out."""

from __future__ import annotations

import html
import logging
import os
import re
from collections.abc import Generator

import httpx2

from omnivision.errors import ConfigError

HIDDEN = "[hidden]"
SHORTEST = 8  # hiding "EMPTY", which local servers are given as a key, would eat words out of answers
TELLING = 16  # characters from the start by which a key that somebody cut short is still known
# The libraries' loggers: at DEBUG they write response headers, at INFO the server's reason phrase; both can echo the key.
LOGGERS = ("httpx2", "httpcore2.connection", "httpcore2.http11", "httpcore2.http2", "httpcore2.proxy", "httpcore2.socks")


class Secret(httpx2.Auth):
    """A key that no `repr`, log or traceback shows: where something can be raised, no local variable holds it.

    Args:
        variable: name of the environment variable that holds the key; None sends no key.

    Raises:
        ConfigError: the variable is not set, or holds what cannot be a key.
    """

    __slots__ = ("_pattern", "_value", "variable")

    def __init__(self, variable: str | None) -> None:
        self.variable = variable
        self._value = None if variable is None else os.environ.get(variable, "").strip()
        problem = None if variable is None else _problem(self._value)
        if problem:
            self._value = None
            raise ConfigError(f"The environment variable {variable} {problem}", "key_variable",
                              f"Set {variable} to the endpoint's key; leave key_variable out if the endpoint needs none.")
        self._pattern = None if variable is None else re.compile(_pattern(self._value))

    def __repr__(self) -> str:
        return f"Secret({self.variable!r})"

    def __reduce__(self):
        raise TypeError("a key is not to be copied or pickled")

    def hide(self, text: str) -> str:
        """The text without the key, plain or escaped."""
        return text if self._pattern is None else self._pattern.sub(HIDDEN, text)

    def hide_all(self, value):
        """The same for every text inside lists and dicts."""
        if isinstance(value, str):
            return self.hide(value)
        if isinstance(value, dict):
            return {self.hide_all(name): self.hide_all(one) for name, one in value.items()}
        if isinstance(value, (list, tuple)):
            return [self.hide_all(one) for one in value]
        return value

    def auth_flow(self, request: httpx2.Request) -> Generator[httpx2.Request, httpx2.Response, None]:
        """Puts the header on, inside the library: nowhere else does the key stand in a request."""
        if self._value is not None:
            request.headers["Authorization"] = f"Bearer {self._value}"
        yield request


class LogFilter(logging.Filter):
    """Hides the key in what the HTTP libraries log, from `put` to `remove`."""

    def __init__(self, secret: Secret) -> None:
        super().__init__()
        self._secret = secret

    def filter(self, record: logging.LogRecord) -> bool:
        """Replaces the record's text; lets every record through."""
        record.msg, record.args = self._secret.hide(record.getMessage()), ()
        record.exc_info = None  # its frames hold the headers
        return True

    def put(self) -> None:
        """Starts hiding."""
        for name in LOGGERS:
            logging.getLogger(name).addFilter(self)

    def remove(self) -> None:
        """Stops hiding."""
        for name in LOGGERS:
            logging.getLogger(name).removeFilter(self)


def _problem(value: str) -> str | None:
    if not value:
        return "is not set, or is empty"
    if len(value) < SHORTEST:
        return f"holds fewer than {SHORTEST} characters, which is too little to tell a key from ordinary words"
    if not re.fullmatch(r"[\x21-\x7e]+", value):  # a line break would also start another header
        return "holds blanks, line breaks or letters outside ASCII"
    return None


def _pattern(value: str) -> str:
    """The key as it is, and as JSON, a URL, HTML or Python's repr would write it, escapes of escapes included; also cut short."""
    forms = [one if one.isalnum() else _escapes(one) for one in value]
    head, tail = "".join(forms[:TELLING]), "".join(forms[TELLING:])
    return rf"{head}(?:{tail}|[\w./+=~%\\-]*)" if tail else head


def _escapes(one: str) -> str:
    # At most so many backslashes: without a limit a megabyte of them would take an hour.
    plain = r"\\{1,8}" if one == "\\" else rf"\\{{0,8}}{re.escape(one)}"
    return rf"(?:{plain}|\\{{1,8}}(?i:u{ord(one):04x})|(?i:%{ord(one):02x})|{re.escape(html.escape(one))}|&\#{ord(one)};)"
