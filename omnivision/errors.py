"""Errors a user can meet: one paragraph each (what, where, what to do) and a documented exit code."""

from __future__ import annotations

import errno

DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
DISK_FULL_IN_WORDS = ("No space left on device", "Disk quota exceeded", "File too large", "os error 28")  # libraries in Rust and C++ give no errno


class OmniError(Exception):
    """An error that the command line prints as one paragraph.

    Args:
        what: what is wrong, with both offending values where there are two.
        where: the file, key, row or step concerned.
        remedy: what the user can do about it.
    """

    exit_code = 1

    def __init__(self, what: str, where: str = "", remedy: str = "") -> None:
        self.what, self.where, self.remedy = what, where, remedy
        super().__init__(self.paragraph())

    def paragraph(self) -> str:
        """The whole message on one line."""
        place = f" ({self.where})" if self.where else ""
        remedy = f" {self.remedy}" if self.remedy else ""
        return f"{self.what.rstrip('.')}{place}.{remedy}"


class ConfigError(OmniError):
    """A wrong command, key, value, preset or checkpoint hand-over."""

    exit_code = 2


class DataError(OmniError):
    """A missing, broken or dangerous input file or row."""

    exit_code = 3


class PlanError(OmniError):
    """Out of memory, or a plan that cannot fit."""

    exit_code = 4


class DivergedError(OmniError):
    """Training produced non-finite numbers several steps in a row."""

    exit_code = 5


class ResumableError(OmniError):
    """The run failed but can be started again (disk full, killed worker)."""

    exit_code = 6


def one_line(error: Exception) -> str:
    """The beginning of what another library says, or the error's name where it says nothing."""
    return " ".join(str(error).split())[:300] or type(error).__name__


def says_disk_full(error: BaseException) -> bool:
    """Whether this error itself is a disk or a quota that is full, or a file that may not grow."""
    said = str(error)
    fell_short = isinstance(error, OSError) and error.errno is None and " requested and " in said  # numpy, of a write
    return getattr(error, "errno", None) in DISK_FULL or fell_short or any(words in said for words in DISK_FULL_IN_WORDS)


def is_disk_full(error: BaseException | None) -> bool:
    """Whether an error, or what caused it, is a full disk."""
    while error is not None:
        if says_disk_full(error):
            return True
        error = error.__cause__ or error.__context__
    return False
