"""A program that does what a function says: arguments as JSON on its standard input, the result on its standard output."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import tempfile
from pathlib import Path

from omnivision.errors import DataError
from omnivision.functions.literals import literal

MAX_RESULT_BYTES = 65_536


class Failed(Exception):
    """The function did not do it; the text says why."""


class TimedOut(Failed):
    """It took longer than it may; it and what it had started are stopped."""


class Program:
    """Started without a shell, in a process group of its own.

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
            TimedOut: it was stopped. Failed: it cannot be started, ended with another code than 0, or said too much.
        """
        with tempfile.TemporaryFile() as said, tempfile.TemporaryFile() as complaints:
            try:
                process = subprocess.Popen(self.words, cwd=self.folder, stdin=subprocess.PIPE, stdout=said, stderr=complaints, start_new_session=True)
            except OSError as error:
                raise Failed(f"{self.words[0]} cannot be started: {error.strerror or error}") from error
            try:
                process.communicate(json.dumps(arguments, ensure_ascii=False).encode(), timeout=seconds)
            except subprocess.TimeoutExpired as error:
                raise TimedOut(f"it took more than {seconds:g} s") from error
            finally:
                if process.returncode is None:
                    _stop(process)
            if process.returncode:
                raise Failed(f"it ended with code {process.returncode}: {_text(complaints, 500)}")
            if said.seek(0, os.SEEK_END) > MAX_RESULT_BYTES:
                raise Failed(f"its result has more than {MAX_RESULT_BYTES} bytes")
            return _result(_text(said, MAX_RESULT_BYTES))


def _stop(process: subprocess.Popen) -> None:
    """Ends the program and whatever it started in its group. It has not been waited for, so its number is still its own."""
    os.killpg(process.pid, signal.SIGKILL)
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
