"""The audit: JSON lines, only ever appended; a call that runs has a line before and one after."""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime
from pathlib import Path

from omnivision.errors import ResumableError


def _append(handle: int, line: bytes) -> None:
    """The whole line or nothing of it: a full disk takes a part without an error."""
    size, written = os.fstat(handle).st_size, 0
    try:
        while written < len(line):
            written += os.write(handle, line[written:])
        os.fsync(handle)
    except OSError:
        if os.fstat(handle).st_size == size + written:  # nobody else has added a line meanwhile
            os.ftruncate(handle, size)
        raise


class Audit:
    """Writes lines that are on the disk before anything goes on.

    Args:
        file: appended to; made if it is not there.
        about: fields of every line, such as the model and the request.
    """

    def __init__(self, file: str | Path, about: dict) -> None:
        self.file, self.about = Path(file), dict(about)

    def write(self, entry: dict) -> None:
        """Add one line.

        Raises:
            ResumableError: it cannot be written; nothing may run then.
        """
        line = json.dumps({"time": datetime.now(UTC).isoformat(timespec="milliseconds"), **self.about, **entry}, ensure_ascii=True) + "\n"
        try:
            handle = os.open(self.file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
            try:
                _append(handle, line.encode())
            finally:
                os.close(handle)
        except OSError as error:
            what = f"The audit cannot be written: {error.strerror or error}"
            raise ResumableError(what, str(self.file), "Give a file that can be, with --audit.") from error
