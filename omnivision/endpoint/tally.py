"""How the questions of a run ended, and when that ends the run."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from omnivision.endpoint.outcomes import Kind, Outcome
from omnivision.errors import ConfigError, ResumableError

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
            raise ResumableError(f"{self._in_a_row} questions in a row have no answer, the last: {self._last}", self.name, f"Mend the teacher. {AGAIN}")

    def check(self) -> None:
        """At the end, before anything is written.

        Raises:
            ResumableError: more than MOST_UNANSWERED of the questions will be asked again. ConfigError: none was answered.
        """
        asked, again = self.endings.total(), sum(count for kind, count in self.endings.items() if not kind.final)
        if again > MOST_UNANSWERED * asked:
            raise ResumableError(f"{again} of {asked} questions have no answer of the teacher, the last: {self._last}; nothing is written", self.name, AGAIN)
        if asked and not self.endings[Kind.ANSWERED]:
            raise ConfigError(f"The teacher has answered none of {asked} questions, the last: {self._last}; nothing is written", self.name,
                              "Correct --teacher, --teacher-model or what they are given; another request is asked anew, the same one only without the ledger.")
