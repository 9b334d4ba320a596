"""Errors a user can meet: one paragraph each (what, where, what to do) and a documented exit code."""

from __future__ import annotations


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
