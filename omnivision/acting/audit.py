"""The audit: JSON lines, only ever appended; a call that runs has a line before and one after."""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime
from pathlib import Path

from omnivision.errors import ResumableError


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
                os.write(handle, line.encode())
                os.fsync(handle)
            finally:
                os.close(handle)
        except OSError as error:
            what = f"The audit cannot be written: {error.strerror or error}"
            raise ResumableError(what, str(self.file), "Give a file that can be, with --audit.") from error
