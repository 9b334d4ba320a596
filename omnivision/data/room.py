"""Folders on disk: how they are made, and how much a cache may grow."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

from omnivision.errors import ConfigError

MOST_GIB = 100.0  # of a cache, unless a setting says otherwise
SPARED = 2**30  # bytes of the disk that no cache takes: checkpoints have to find room


def make_folder(folder: Path, of: str) -> None:
    """Makes a folder that a setting names, and those above it.

    Args:
        of: whose folder it is, for the error.

    Raises:
        ConfigError: something else is there.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError, FileNotFoundError) as error:
        raise ConfigError(f"The {of}'s folder cannot be made: {error.strerror}", str(folder), "Give another one.") from error


class Room:
    """What a cache may still take: up to its limit, and never the disk's last GiB. At the limit it stops adding.

    Nothing is thrown out to make room: a run takes its pictures in turn, and each epoch would throw out what the next one needs.

    Args:
        folder: the cache's (created). most_gib: the limit.
    """

    def __init__(self, folder: Path, most_gib: float) -> None:
        make_folder(folder, "cache")
        self.folder, self.most_gib, self._told = folder, most_gib, False

    def left(self, used: int) -> int:
        """Bytes, where the cache holds `used`."""
        return min(self._limit() - used, self._disk())

    def tell_full(self, used: int, rest: str) -> None:
        """Says on stderr, once, that nothing more is kept; of several processes the first one says it.

        Args:
            rest: what that means, and what can be done.
        """
        from torch.utils.data import get_worker_info

        worker = get_worker_info()
        if not self._told and os.environ.get("RANK", "0") == "0" and (worker is None or worker.id == 0):
            why = f"may hold {gib(self._limit())}" if self._limit() - used <= self._disk() else "the disk has no more room"
            print(f"The cache {self.folder} is full: it holds {gib(used)}, and {why}. {rest}", file=sys.stderr, flush=True)
        self._told = True

    def _limit(self) -> int:
        return int(self.most_gib * 2**30)

    def _disk(self) -> int:
        return shutil.disk_usage(self.folder).free - SPARED


def gib(size: int) -> str:
    """Bytes for people."""
    return f"{size / 2**30:.2f} GiB" if size >= 2**27 else f"{size / 2**20:.2f} MiB"
