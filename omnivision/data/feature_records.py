"""Records of one size by key, which several processes read and add to.

`features.bin` holds the records, a line of `index.jsonl` says where one lies. A line is written only after its record is flushed,
so that a process killed at any moment leaves complete records behind a shorter index. The checksum covers the key too: whatever is
damaged, a record is never taken for another's. A damaged line is passed over, and what it named is made anew.
"""

from __future__ import annotations

import json
import os
import sys
import zlib
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from pathlib import Path

import numpy as np
from filelock import FileLock

from omnivision.data.room import Room
from omnivision.errors import ResumableError


class Records:
    """The records of a folder.

    Args:
        folder: created. size: bytes of a record. room: of the folder that holds this one and others like it.
    """

    def __init__(self, folder: Path, size: int, room: Room) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.size, self._room, self._told = folder, size, room, False
        self.data, self.index = folder / "features.bin", folder / "index.jsonl"
        self._forget_all()
        self.refresh()

    def __contains__(self, key: str) -> bool:
        return key in self._places

    def __len__(self) -> int:
        return len(self._places)

    def used(self) -> int:
        """Bytes of this and its neighbours."""
        return sum(path.stat().st_size for path in self._room.folder.glob(f"*/{self.data.name}"))

    def room(self) -> int:
        """How many more records may be added."""
        return max(0, self._room.left(self.used()) // self.size)

    def refresh(self) -> None:
        """Reads what has been added to the index since, by this process or another."""
        try:
            with self.index.open("rb") as index:
                if os.fstat(index.fileno()).st_size < self._read:
                    self._forget_all()  # it was made anew
                index.seek(self._read)
                new = index.read()
        except FileNotFoundError:
            self._forget_all()
            return
        with (self.data if self.data.is_file() else Path(os.devnull)).open("rb") as data:  # opened: a network file system may tell an old size else
            whole = os.fstat(data.fileno()).st_size // self.size
        for line in new[: new.rfind(b"\n") + 1].split(b"\n")[:-1]:
            self._read += len(line) + 1
            self._take(line, whole)

    def read(self, keys: Sequence[str]) -> list[bytes | None]:
        """The records, checked; None for one that is not there or damaged."""
        if not all(key in self._places for key in keys):
            self.refresh()
        found = []
        with (self.data if self.data.is_file() else Path(os.devnull)).open("rb") as data:
            for key in keys:
                found.append(self._checked(key, data) if key in self._places else None)
        return found

    def add(self, records: Mapping[str, np.ndarray]) -> int:
        """Adds records by key, those that nobody else has added and as many as there is room for; returns how many.

        Raises:
            ResumableError: they could not be written; what was there before is whole.
        """
        try:
            with self._lock():
                self.refresh()
                first = self._cut()
                new = ((key, record) for key, record in records.items() if key not in self._places)
                lines = self._write_records(dict(islice(new, self.room())), first)
                self._write_lines(lines)
        except OSError as error:
            raise ResumableError(f"Features could not be written: {error}", str(self.folder), "Make room, then start the same command again.") from error
        self.refresh()
        return len(lines)

    def _lock(self) -> FileLock:
        """For the moments in which files grow: one limit counts them all. A lock that is kept could not go to a loader's worker that is started anew."""
        return FileLock(self._room.folder / "lock")

    def _write_records(self, records: Mapping[str, np.ndarray], first: int) -> list[dict]:
        lines = []
        with self.data.open("ab") as data:
            for number, (key, record) in enumerate(records.items(), first):
                raw = record.tobytes()
                data.write(raw)
                lines.append({"key": key, "record": number, "crc32": _checksum(key, raw)})
            data.flush()
            os.fsync(data.fileno())
        return lines

    def _write_lines(self, lines: Iterable[dict]) -> None:
        with self.index.open("ab") as index:
            index.write("".join(json.dumps(line) + "\n" for line in lines).encode())

    def _cut(self) -> int:
        """Takes away what killed processes have left half: records without a line, half a line. Returns the next record's number."""
        count = max(self._owners, default=-1) + 1
        for path, size in ((self.data, count * self.size), (self.index, self._read)):
            if path.is_file() and path.stat().st_size > size:
                os.truncate(path, size)
        return count

    def _take(self, line: bytes, whole: int) -> None:
        """One line of the index: the latest about a key, and the latest about a record, is right."""
        try:
            entry = json.loads(line)
            key, number, checksum = entry["key"], entry["record"], entry["crc32"]
            if number is None:
                self._places.pop(key, None)
                return
            if not (isinstance(number, int) and 0 <= number < whole):
                return
            before = self._owners.get(number)
            if before is not None and self._places.get(before, (None,))[0] == number:
                del self._places[before]
            self._owners[number], self._places[key] = key, (number, checksum)
        except (ValueError, KeyError, TypeError):
            return

    def _checked(self, key: str, data) -> bytes | None:
        number, checksum = self._places[key]
        data.seek(number * self.size)
        raw = data.read(self.size)
        if len(raw) == self.size and _checksum(key, raw) == checksum:
            return raw
        self._forget(key, number)
        return None

    def _forget(self, key: str, number: int) -> None:
        """Leaves a damaged record out for good, so that it is made anew."""
        if not self._told:
            print(f"A damaged record is left out and made anew ({self.data}, number {number})", file=sys.stderr)
        self._told = True
        with self._lock():
            self.refresh()
            if self._places.get(key, (None,))[0] == number:
                self._write_lines([{"key": key, "record": None, "crc32": None}])
        self.refresh()

    def _forget_all(self) -> None:
        self._places: dict[str, tuple[int, int]] = {}  # key -> record, checksum
        self._owners: dict[int, str] = {}  # record -> the key that it was last written for
        self._read = 0  # bytes of the index


def _checksum(key: str, raw: bytes) -> int:
    return zlib.crc32(raw, zlib.crc32(key.encode()))
