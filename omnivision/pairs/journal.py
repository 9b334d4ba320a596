"""Work that is done once: records by key, on the disk before they count, under a name that says what they depend on."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

from omnivision.errors import DataError


def digest(*parts: str | bytes) -> str:
    """What a record depends on, in twelve hex digits: texts, a picture's bytes."""
    whole = hashlib.sha256()
    for part in parts:
        data = part.encode("utf-8", "surrogatepass") if isinstance(part, str) else part
        whole.update(len(data).to_bytes(8, "big") + data)
    return whole.hexdigest()[:12]


class Journal:
    """Records of one setting: a killed run goes on behind its last whole line.

    Args:
        folder: made if it is not there. name: of the kind of record. settings: what the records depend on; others are another file.

    Raises:
        DataError: a line in the middle is broken.
    """

    def __init__(self, folder: Path, name: str, settings: dict[str, Any]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / f"{name}-{digest(json.dumps(settings, sort_keys=True, ensure_ascii=False))}.jsonl"
        self.done: dict[str, Any] = {}
        whole = 0
        if self.path.is_file():
            for line in self.path.read_bytes().splitlines(keepends=True):
                if not line.endswith(b"\n"):
                    break
                try:
                    record = json.loads(line)
                except ValueError as error:
                    raise DataError(f"A line of the journal is broken: {error}", str(self.path), "Remove the file: what it holds is asked again.") from error
                if "key" in record:
                    self.done[record["key"]] = record["value"]
                whole += len(line)
        self._file = self.path.open("ab")
        self._file.truncate(whole)
        if not whole:
            self._write([{"settings": settings}])

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *exc) -> None:
        self._file.close()

    def add(self, records: dict[str, Any]) -> None:
        """Records that are to last."""
        self._write([{"key": key, "value": value} for key, value in records.items()])
        self.done |= records

    def _write(self, lines: list[dict]) -> None:
        self._file.write("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines).encode("utf-8", "replace"))
        self._file.flush()
        os.fsync(self._file.fileno())
