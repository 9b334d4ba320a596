"""A program that does what a function says: arguments as JSON on its standard input, the result on its standard output."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import tempfile
import time
from pathlib import Path

from omnivision.errors import DataError
from omnivision.functions.literals import literal

MAX_RESULT_BYTES = 65_536
MAX_COMPLAINT_BYTES = 16 * 2**20  # of standard error, of which nobody reads more than a line
FIRST_LOOK, LOOK = 0.0005, 0.05  # seconds between two looks at whether it is over and how much it has said, which double up to the second


class Failed(Exception):
    """The function did not do it; the text says why."""


class TimedOut(Failed):
    """It took longer than it may; it and what runs in its group are stopped."""


class Program:
    """Started without a shell, in a process group of its own, which ends with it: what is to go on running has to leave the group (setsid).

    Args:
        words: the program and its arguments; nothing of a call is ever put among them.
        folder: where it is started.
    """

    def __init__(self, words: list[str], folder: str | Path = ".") -> None:
        self.words, self.folder = list(words), Path(folder)

    def __call__(self, arguments: dict, seconds: float) -> object:
        """Run it once.

        Args:
            arguments: go to standard input as one JSON object. seconds: time limit.

        Returns:
            Standard output, read as JSON where it is a value that an argument may have, else as text.

        Raises:
            TimedOut: it was stopped. Failed: it cannot be started, ended with another code than 0, or said too much, for which it is stopped too.
        """
        with tempfile.TemporaryFile() as told, tempfile.TemporaryFile() as said, tempfile.TemporaryFile() as complaints:
            told.write(json.dumps(arguments, ensure_ascii=False).encode())
            told.seek(0)
            try:
                process = subprocess.Popen(self.words, cwd=self.folder, stdin=told, stdout=said, stderr=complaints, start_new_session=True)
            except OSError as error:
                raise Failed(f"{self.words[0]} cannot be started: {error.strerror or error}") from error
            try:
                _wait(process, seconds, {said: MAX_RESULT_BYTES, complaints: MAX_COMPLAINT_BYTES})
            finally:
                _stop(process)
            if process.returncode:
                raise Failed(f"it ended with code {process.returncode}: {_text(complaints, 500)}")
            return _result(_text(said, MAX_RESULT_BYTES))


def _wait(process: subprocess.Popen, seconds: float, limits: dict) -> None:
    """Until it has ended: within the seconds, and with no more bytes in any file than its limit."""
    end, pause, running = time.monotonic() + seconds, FIRST_LOOK, True
    while running:
        running = not _has_ended(process)
        for file, most in limits.items():
            if os.fstat(file.fileno()).st_size > most:
                raise Failed(f"it has said more than {most} bytes")
        if running and time.monotonic() >= end:
            raise TimedOut(f"it took more than {seconds:g} s")
        if running:
            time.sleep(max(0.0, min(pause, end - time.monotonic())))
            pause = min(2 * pause, LOOK)


def _has_ended(process: subprocess.Popen) -> bool:
    """Whether it is over; it stays to be waited for, so that nothing else gets its number."""
    try:
        return os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT | os.WNOHANG) is not None
    except ChildProcessError:  # whoever started us ignores SIGCHLD, so that the system waits for it
        return True


def _stop(process: subprocess.Popen) -> None:
    """Ends whatever runs in the program's group, itself included. It has not been waited for, so its number is still its own."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except (PermissionError, ProcessLookupError):  # it runs, or ran, with rights that we have not (sudo); the system has waited for it
        if not _has_ended(process):
            raise
    process.wait()


def _text(file, most: int) -> str:
    file.seek(0)
    return file.read(most).decode("utf-8", "replace").strip()


def _result(text: str) -> object:
    try:
        value = json.loads(text)
        literal(value, "result")  # no NaN, half characters or endless nesting
    except (ValueError, RecursionError, DataError):
        return text
    return value
