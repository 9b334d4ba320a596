"""What a ledger's lines add up to: of each question the requests and endings, of all together the tokens."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace

from omnivision.endpoint.lines import Request
from omnivision.endpoint.outcomes import Billed, Kind, Outcome


@dataclass(frozen=True)
class Tokens:
    """What requests used up: as counted by the server, and at most where there is no count (yet)."""

    prompt: int = 0
    completion: int = 0
    open_prompt: int = 0
    open_completion: int = 0


@dataclass
class _Question:
    doubtful: dict[int, Request] = field(default_factory=dict)  # by attempt: without an outcome, or with one that leaves the bill open
    endings: Counter = field(default_factory=Counter)
    final: Outcome | None = None
    last: Request | None = None


class Accounts:
    """The sum of all lines so far; not safe for threads by itself."""

    def __init__(self) -> None:
        self._questions: dict[str, _Question] = {}
        self._tokens: Counter = Counter()
        self.most_prompt = 0  # tokens of the longest prompt that a server has counted

    def final(self, key: str) -> Outcome | None:
        """The outcome after which a question is not asked again."""
        return self._question(key).final

    def last(self, key: str) -> Request | None:
        """The latest request of a question."""
        return self._question(key).last

    def endings(self, key: str, kind: Kind) -> int:
        """How often a question ended so."""
        return self._question(key).endings[kind]

    def doubtful(self) -> list[Request]:
        """Requests of which nobody knows whether the server did the work."""
        return [request for question in self._questions.values() for request in question.doubtful.values()]

    def tokens(self) -> Tokens:
        """What all requests used up."""
        return Tokens(**self._tokens)

    def began(self, request: Request) -> None:
        """Takes a request in.

        Raises:
            ValueError: its number is not higher than that of the question's last.
        """
        last = self._question(request.key).last
        if last and request.attempt <= last.attempt:
            raise ValueError(f"request {request.attempt} of a question comes after its request {last.attempt}")
        question = self._questions.setdefault(request.key, _Question())
        question.doubtful[request.attempt] = question.last = request
        question.final = None  # asked again: whatever was final was so for another body
        self._count("open_", request.bound, 1)

    def ended(self, outcome: Outcome) -> None:
        """Takes an outcome in.

        Raises:
            ValueError: no request waits for it.
        """
        question = self._question(outcome.key)
        request = question.doubtful.get(outcome.attempt)
        if request is None or request.kind is not None:
            raise ValueError("an outcome without its request")
        del question.doubtful[outcome.attempt]
        question.endings[outcome.kind] += 1
        if outcome.billed is Billed.OPEN:
            question.doubtful[outcome.attempt] = replace(request, kind=outcome.kind)
        if outcome.usage or outcome.billed is Billed.NO:  # else it goes on counting as what it can cost at most
            self._count("open_", request.bound, -1)
        if outcome.usage:
            self._count("", (outcome.usage.prompt_tokens, outcome.usage.completion_tokens), 1)
            self.most_prompt = max(self.most_prompt, outcome.usage.prompt_tokens)
        if outcome.final:
            question.final = replace(outcome, recorded=True)

    def _question(self, key: str) -> _Question:
        return self._questions.get(key) or _Question()

    def _count(self, prefix: str, tokens: tuple[int, int], sign: int) -> None:
        self._tokens[prefix + "prompt"] += sign * tokens[0]
        self._tokens[prefix + "completion"] += sign * tokens[1]
