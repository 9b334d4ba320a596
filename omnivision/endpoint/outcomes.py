"""What a question can end with: one name for each ending, and what follows from it.

`tries` is how often a question that ends so is asked before it is left alone: a number counts over all runs of the ledger,
"attempts" is that setting, and counts anew in each run. A `final` question is never asked again; the others are at the next
start. `billed` says whether the server did the work: "open" ones are listed by `Ledger.possibly_billed()`.

| kind         | when                                                                     | tries    | final | billed |
|--------------|--------------------------------------------------------------------------|----------|-------|--------|
| answered     | 200, a chat completion with text that the caller's schema accepts        | 1        | yes   | yes    |
| refused      | `message.refusal` is set, or finish_reason is content_filter             | 1        | yes   | yes    |
| cut_off      | finish_reason is length: max_tokens was too small                        | 1        | yes   | yes    |
| thoughts     | no text, but thoughts (reasoning_content), or max_tokens before any text | 1        | yes   | yes    |
| empty        | a completion without text; now and then a server's hiccup                | 2        | yes   | yes    |
| wrong_schema | the caller's schema said no, or tokens were counted for no completion    | 1        | yes   | yes    |
| too_large    | more than max_response_bytes                                             | 1        | yes   | open   |
| error_inside | 200 with an `error` in it; gateways so report a busy server behind them  | 2        | no    | open   |
| rejected     | 400, 413, 422 and every other 4xx that stands nowhere else here          | 1        | yes   | no     |
| misdirected  | 2xx without a chat completion; 404, 405, 410 and 3xx (no)                | 1        | no    | open   |
| rate_limited | 429; Retry-After is obeyed up to a minute, and by all threads            | attempts | no    | no     |
| server_error | 408, 500, 503 and every other 5xx; 502 and 504 come from between (open)  | attempts | no    | no     |
| unreachable  | refused, no such host, no connection in time, TLS failed                 | attempts | no    | no     |
| reset        | the connection broke after the request was on its way                    | attempts | no    | open   |
| timed_out    | no answer had begun when `timeout` was over                              | attempts | no    | open   |
| slow         | an answer had begun but was not whole when `timeout` was over            | attempts | no    | open   |
| truncated    | the body or its JSON ends too early                                      | attempts | no    | open   |
| unauthorised | 401, 403: stops everything with a ConfigError                            | 1        | no    | no     |
| no_credit    | 402, or 429 with insufficient_quota: stops everything, ResumableError    | 1        | no    | no     |
| interrupted  | we ourselves gave up while it was under way (second Ctrl-C, our own bug) | 1        | no    | open   |

Answers at temperature 0 do not change by asking again, and each is paid: hence one try for wrong schemas and two for empty ones.
Who is misdirected may find a fixed server at the next start. A redirect is not followed, since the key would travel along.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

ATTEMPTS = 0  # as many tries as the settings allow


class Billed(Enum):
    """Whether the server did the work of a request."""

    YES = "yes"
    NO = "no"
    OPEN = "open"


class Kind(Enum):
    """The name of an ending, with what follows from it (the table above)."""

    ANSWERED = "answered", 1, True, Billed.YES
    REFUSED = "refused", 1, True, Billed.YES
    CUT_OFF = "cut_off", 1, True, Billed.YES
    THOUGHTS = "thoughts", 1, True, Billed.YES
    EMPTY = "empty", 2, True, Billed.YES
    WRONG_SCHEMA = "wrong_schema", 1, True, Billed.YES
    TOO_LARGE = "too_large", 1, True, Billed.OPEN
    ERROR_INSIDE = "error_inside", 2, False, Billed.OPEN
    REJECTED = "rejected", 1, True, Billed.NO
    MISDIRECTED = "misdirected", 1, False, Billed.OPEN
    RATE_LIMITED = "rate_limited", ATTEMPTS, False, Billed.NO
    SERVER_ERROR = "server_error", ATTEMPTS, False, Billed.NO
    UNREACHABLE = "unreachable", ATTEMPTS, False, Billed.NO
    RESET = "reset", ATTEMPTS, False, Billed.OPEN
    TIMED_OUT = "timed_out", ATTEMPTS, False, Billed.OPEN
    SLOW = "slow", ATTEMPTS, False, Billed.OPEN
    TRUNCATED = "truncated", ATTEMPTS, False, Billed.OPEN
    UNAUTHORISED = "unauthorised", 1, False, Billed.NO
    NO_CREDIT = "no_credit", 1, False, Billed.NO
    INTERRUPTED = "interrupted", 1, False, Billed.OPEN

    def __new__(cls, value: str, tries: int, final: bool, billed: Billed) -> Kind:
        kind = object.__new__(cls)
        kind._value_ = value
        kind.tries, kind.final, kind.billed = tries, final, billed
        return kind


@dataclass(frozen=True)
class Usage:
    """Tokens that the server says it counted."""

    prompt_tokens: int
    completion_tokens: int


@dataclass(frozen=True)
class Outcome:
    """What one question ended with.

    Args:
        kind: the ending's name. key: the question's.
        text: the answer; with other kinds what there was of one.
        detail: what the server or the network said. status: of HTTP, None without a response.
        usage: None where the server gave none. model: the name that the server gave itself.
        seconds: from the request to this. attempt: the number of the request, over all runs of the ledger.
        final: never to be asked again. billed: see the table.
        retry_after: seconds the server asked us to wait. recorded: stood in the ledger; nothing was sent now.
    """

    kind: Kind
    key: str = ""
    text: str = ""
    detail: str = ""
    status: int | None = None
    usage: Usage | None = None
    model: str = ""
    seconds: float = 0.0
    attempt: int = 0
    final: bool = False
    billed: Billed | None = None
    retry_after: float | None = None
    recorded: bool = False

    def __post_init__(self) -> None:
        if self.billed is None:
            object.__setattr__(self, "billed", self.kind.billed)
