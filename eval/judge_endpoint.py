"""Any OpenAI-compatible endpoint as the judge."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

from omnivision.endpoint import Client, Endpoint, Ledger, Outcome


class EndpointJudge:
    """Asks an endpoint; every question and reply stands in its ledger.

    An endpoint that is dead is not asked to the end: each question costs all its retries, up to `attempts` times `timeout`, and
    the headline is refused long before. What was not asked is asked at the next start.

    Args:
        endpoint: the settings; the temperature is set for each try.
        ledger: open, and nobody else's while this judge lives.
    """

    absent = "not asked"

    def __init__(self, endpoint: Endpoint, ledger: Ledger) -> None:
        self.endpoint, self.ledger = endpoint, ledger
        self.model, self.max_tokens = endpoint.model, endpoint.max_tokens
        self.name = f"{endpoint.model} at {endpoint.base_url}"
        self._dead = False

    def ask(self, questions: Iterable[tuple[str, list]], temperature: float) -> Iterator[Outcome]:
        """Outcomes as they come; none of the questions that are left when too many in a row have failed.

        Raises:
            ConfigError: the endpoint refuses the key. ResumableError: its budget is spent, or there is no credit.
        """
        if self._dead:
            return
        failed = 0
        with Client(replace(self.endpoint, temperature=temperature), self.ledger) as client:
            for outcome in client.ask_all(questions):
                yield outcome
                failed = 0 if outcome.final else failed + 1
                self._dead = failed >= self.endpoint.patience
                if self._dead:
                    return

    def possibly_billed(self) -> int:
        """Requests of which nobody knows whether the endpoint did the work."""
        return len(self.ledger.possibly_billed())
