"""How the questions of a run ended, and when that ends the run."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from omnivision.endpoint.outcomes import Kind, Outcome
from omnivision.errors import ConfigError, OmniError, ResumableError

MOST_UNANSWERED = 0.01  # of all questions; with more there is no data set to train on
AGAIN = "Start the same command again: what it has answered is in the ledger."


@dataclass
class Tally:
    """Counts the endings of a teacher's questions.

    Args:
        name: the teacher's, for errors. patience: how many in a row may fail. endings: how many questions ended so.
    """

    name: str
    patience: int
    endings: Counter[Kind] = field(default_factory=Counter)
    _in_a_row: int = 0
    _last: str = ""

    def note(self, outcome: Outcome) -> None:
        """One more.

        Raises:
            ResumableError: as many in a row as patience allows have ended so that the next start asks them again.
        """
        self.endings[outcome.kind] += 1
        self._in_a_row = 0 if outcome.kind.final else self._in_a_row + 1
        self._last = self._last if outcome.kind is Kind.ANSWERED else f"{outcome.kind.value}, {outcome.detail}"
        if self._in_a_row >= self.patience:
            raise ResumableError(f"{self._in_a_row} questions in a row have no answer, the last: {self._last}", self.name, f"Fix the teacher. {AGAIN}")

    def check(self) -> None:
        """At the end, before anything is written.

        Raises:
            ResumableError, ConfigError: as `nothing_answered`.
        """
        if self.endings and not self.endings[Kind.ANSWERED]:
            raise nothing_answered(self.endings.total(), self.left, self._last, self.name)

    @property
    def left(self) -> int:
        """Questions that the next start asks again."""
        return sum(count for kind, count in self.endings.items() if not kind.final)


def nothing_answered(asked: int, left: int, last: str, name: str) -> OmniError:
    """What to raise where a teacher has answered nothing: a later start may find it, unless all of its endings are final."""
    what = f"The teacher has answered none of {asked} questions, the last: {last[:300]}; nothing is written"
    if left:
        return ResumableError(what, name, f"Fix the teacher. {AGAIN}")
    return ConfigError(what, name, "Correct the teacher or what it is asked; what it has rejected is asked again only without the work folder.")
