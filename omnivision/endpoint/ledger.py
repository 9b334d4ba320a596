"""The ledger: what is asked is on the disk before it is sent, and what came back before it is used. A killed run loses nothing.

JSON lines, only ever appended:
{"event": "request", "key", "attempt", "time", "body_hash", "url", "bound": [tokens of prompt, of answer, at most]}
{"event": "response" (answered) or "failure" (all else), "key", "attempt", "outcome", "final", "billed", "status", "text", "detail",
 "usage": [tokens of prompt, of answer], "model", "seconds", "time"}
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import threading
import time
from collections.abc import Callable
from pathlib import Path

from filelock import FileLock, Timeout

from omnivision.endpoint import lines
from omnivision.endpoint.accounts import Accounts, Tokens
from omnivision.endpoint.lines import Request
from omnivision.endpoint.outcomes import Kind, Outcome
from omnivision.errors import ConfigError, DataError, ResumableError
from omnivision.runs import flush_folder


class Ledger:
    """A file that knows every request and how it ended; safe for threads, open in one process at a time.

    Args:
        path: the file; made if it is not there. Beside it lie `.lock` and, while it is open, `.owner`.

    Raises:
        ConfigError: another process has it open.
        DataError: a line is broken (a half last line is not: a killed run leaves one, and it is cut off).
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path).resolve() if Path(path).is_symlink() else Path(path)  # one lock, by whatever name
        self._accounts = Accounts()
        self._mutex = threading.Lock()
        self._hide: Callable[[dict], dict] = dict
        self._broken = ""  # why nothing can be written any more
        self._own()
        try:
            self._file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
            self._load()
            flush_folder(self.path.parent)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Ledger:
        return self

    def __exit__(self, *exc) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Ledger({str(self.path)!r})"

    def close(self) -> None:
        """Gives the file free for the next process."""
        if getattr(self, "_file", None) is not None:
            os.close(self._file)
        self._file = None
        if self._lock.is_locked:
            self._owner.unlink(missing_ok=True)
            self._lock.release()

    def guard(self, hide: Callable[[dict], dict]) -> None:
        """From now on every record goes through `hide` before it is written."""
        self._hide = hide

    def answered(self, key: str) -> Outcome | None:
        """The final outcome of a question, if it has one: it is not to be asked again."""
        with self._mutex:
            return self._accounts.final(key)

    def last_request(self, key: str) -> Request | None:
        """The latest request of a question."""
        with self._mutex:
            return self._accounts.last(key)

    def endings(self, key: str, kind: Kind) -> int:
        """How often a question ended so, over all runs."""
        with self._mutex:
            return self._accounts.endings(key, kind)

    def possibly_billed(self) -> list[Request]:
        """Requests of which nobody knows whether the server did the work: killed before the outcome, cut off, broken off."""
        with self._mutex:
            return self._accounts.doubtful()

    def tokens(self) -> Tokens:
        """What was used up over all runs."""
        with self._mutex:
            return self._accounts.tokens()

    def most_prompt(self) -> int:
        """Tokens of the longest prompt that the server has counted: what a picture costs there may be more than any bound."""
        with self._mutex:
            return self._accounts.most_prompt

    def request(self, key: str, body_hash: str, url: str, bound: tuple[int, int], admit: Callable[[Tokens], None]) -> Request:
        """Writes down that a question is about to be asked.

        Args:
            key, body_hash, url, bound: see `Request`.
            admit: raises if what was used up forbids another request; nothing else is begun between its look and the writing.

        Raises:
            ResumableError: the disk is full.
        """
        with self._mutex:
            admit(self._accounts.tokens())
            last = self._accounts.last(key)
            request = Request(key, last.attempt + 1 if last else 1, round(time.time(), 3), body_hash, url, bound)
            self._append(lines.request_record(request))
            self._accounts.began(request)
        self._flush()
        return request

    def outcome(self, outcome: Outcome) -> None:
        """Writes down how a request ended.

        Raises:
            ResumableError: the disk is full.
        """
        with self._mutex:
            self._append(lines.outcome_record(outcome, time.time()))
            self._accounts.ended(outcome)
        self._flush()

    def _append(self, record: dict) -> None:
        line = json.dumps(self._hide(record)).encode() + b"\n"  # ASCII: a file name with half a surrogate pair may be a key
        if self._broken or self._file is None:
            raise self._no_more(self._broken or "it was closed")
        size = os.fstat(self._file).st_size
        try:
            while line:
                line = line[os.write(self._file, line):]
        except OSError as error:
            self._broken = error.strerror or "the disk does not take it"
            with contextlib.suppress(OSError):  # else the next opening cuts the half line off
                os.ftruncate(self._file, size)
            raise self._no_more(self._broken) from error

    def _flush(self) -> None:
        """Outside the mutex, so that threads need not wait for each other's disk."""
        try:
            os.fsync(self._file)
        except OSError as error:
            self._broken = error.strerror or "the disk does not take it"  # and what it has is not known any more
            raise self._no_more(self._broken) from error

    def _no_more(self, why: str) -> ResumableError:
        return ResumableError(f"The ledger cannot be written: {why}", str(self.path), "Nothing more is asked. Make room and start again.")

    def _load(self) -> None:
        content = self.path.read_bytes()
        whole, rest = lines.split(content)
        for number, line in enumerate(whole, 1):
            self._take(line, number)
        if not rest:
            return
        try:
            self._take(rest, len(whole) + 1)
        except DataError:
            os.ftruncate(self._file, len(content) - len(rest))
        else:
            os.write(self._file, b"\n")  # only the line break is missing: an answer that was paid
        os.fsync(self._file)

    def _take(self, line: bytes, number: int) -> None:
        try:
            record = lines.parse(line)
            (self._accounts.began if isinstance(record, Request) else self._accounts.ended)(record)
        except ValueError as error:
            raise DataError(f"A line of the ledger is broken: {error}", f"{self.path}:{number}",
                            "Restore the file from a copy; or delete the lines of the question concerned, which is then asked again.") from error

    def _own(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._lock = FileLock(self.path.with_name(self.path.name + ".lock"), timeout=0, thread_local=False)
        self._owner = self.path.with_name(self.path.name + ".owner")
        try:
            self._lock.acquire()
        except Timeout as error:
            who = self._owner.read_text().strip() if self._owner.is_file() else "another process"
            raise ConfigError(f"The ledger is in use by {who}", str(self.path), "Wait for it to end, or give another file.") from error
        self._owner.write_text(f"process {os.getpid()} on {platform.node()}\n")
