"""The settings of one endpoint: plain values, checked once, none of them secret."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass, field, replace
from urllib.parse import urlsplit

from omnivision.endpoint.messages import prompt_bound
from omnivision.errors import ConfigError, DataError

COUNTS = ("concurrency", "attempts", "max_tokens", "max_response_bytes")
ABOVE_ZERO = ("timeout", "requests_per_minute")
NOT_NEGATIVE = ("max_cost", "price_in", "price_out", "backoff")
PATIENCE = 10  # failures in a row, or two for each request under way if that is more
OURS = ("model", "messages", "stream", "n")  # a stream could not be read, and further answers would be paid and dropped
LIMITS = ("max_tokens", "max_completion_tokens")  # names of the longest answer, the older one first
OPTIONAL = ("requests_per_minute", "max_cost", "price_in", "price_out")


@dataclass(frozen=True)
class Endpoint:
    """Where and how to ask.

    Args:
        base_url: such as https://api.openai.com/v1; `/chat/completions` is put behind it.
        model: the name that the server knows it by.
        key_variable: name of the environment variable with the key; None for a server that needs none.
        concurrency: requests under way at once. requests_per_minute: starts of requests, retries included; evenly spaced.
        max_cost: for the whole ledger, earlier runs included, in the currency of the prices.
        price_in, price_out: for a million tokens of prompt and of answer.
        timeout: seconds for one request, from connecting to the last byte, by the clock on the wall.
        attempts: requests for one question in one run. backoff: seconds before the second; doubles each time, up to a minute.
        max_response_bytes: a longer body is cut off.
        max_tokens, temperature, seed: go to the server; a None is left out.
        extra: further fields of the request's body, such as response_format; a None takes a field out.
        trust_env: whether proxies and certificates named in the environment are used.

    Raises:
        ConfigError: a value that cannot be, or that would put a secret into the ledger.
    """

    base_url: str
    model: str
    _: KW_ONLY
    key_variable: str | None = None
    concurrency: int = 4
    requests_per_minute: float | None = None
    max_cost: float | None = None
    price_in: float | None = None
    price_out: float | None = None
    timeout: float = 60.0
    attempts: int = 5
    backoff: float = 1.0
    max_response_bytes: int = 1_000_000
    max_tokens: int = 1024
    temperature: float | None = 0.0
    seed: int | None = 0
    extra: Mapping[str, object] = field(default_factory=dict)
    trust_env: bool = False

    def __post_init__(self) -> None:
        _check_url(self.base_url)
        if not self.model:
            raise ConfigError("The model has no name", "model", "Give the name that the server knows it by.")
        for name in (*COUNTS, *ABOVE_ZERO, *NOT_NEGATIVE):
            _check_number(name, getattr(self, name))
        if taken := sorted(set(OURS) & set(self.extra)):
            raise ConfigError(f"extra may not hold {', '.join(taken)}", "extra", "Take it out.")
        for limit in (self.extra[name] for name in LIMITS if self.extra.get(name) is not None):
            if not isinstance(limit, int) or isinstance(limit, bool) or limit < 1:
                raise ConfigError(f"The longest answer is {limit!r}, and must be a whole number of at least 1", f"extra: {', '.join(LIMITS)}", "Correct the setting.")
        if self.max_cost is not None and not self._limits():
            raise ConfigError("max_cost needs a longest answer, and extra takes max_tokens away", "extra", "Give max_completion_tokens in its place.")
        if self.max_cost is not None and None in (self.price_in, self.price_out):
            raise ConfigError("max_cost needs the prices of a million tokens", "price_in, price_out", "Give both, 0 for what costs nothing.")

    @property
    def url(self) -> str:
        """Where requests go."""
        return self.base_url.rstrip("/") + "/chat/completions"

    def body(self, key: str, messages: list) -> bytes:
        """The request's body.

        Raises:
            DataError: the messages are not plain JSON.
        """
        if not isinstance(messages, list) or not messages or not all(isinstance(one, dict) for one in messages):
            raise DataError("The messages are no list of dicts", key, "Make them with `message`.")
        fields = {"model": self.model, "messages": messages, "max_tokens": self.max_tokens, "temperature": self.temperature,
                  "seed": self.seed, **self.extra}
        try:
            return json.dumps({name: value for name, value in fields.items() if value is not None}, allow_nan=False).encode()
        except (TypeError, ValueError) as error:
            raise DataError(f"The messages cannot be sent: {error}", key, "Give lists, dicts, texts and finite numbers only.") from error

    def bound(self, messages: list) -> tuple[int, int]:
        """Tokens of prompt and of answer that one request can cost at most."""
        return prompt_bound(messages), max(self._limits(), default=self.max_tokens)

    @property
    def patience(self) -> int:
        """Questions that fail in a row after which it counts as dead: the others would each cost all their retries."""
        return max(PATIENCE, 2 * self.concurrency)

    def _limits(self) -> list[int]:
        """The longest answer by every name that is sent: some servers refuse `max_tokens`, others do not know the newer one."""
        sent = {"max_tokens": self.max_tokens, **self.extra}
        return [sent[name] for name in LIMITS if sent.get(name) is not None]

    def with_newer_limit(self) -> Endpoint | None:
        """The same with the newer name of the longest answer; None where `extra` says which."""
        if self.extra.keys() & set(LIMITS):
            return None
        return replace(self, extra={**self.extra, LIMITS[0]: None, LIMITS[1]: self.max_tokens})

    def price(self, prompt_tokens: int, completion_tokens: int) -> float:
        """What so many tokens cost; 0 without prices."""
        return (prompt_tokens * (self.price_in or 0.0) + completion_tokens * (self.price_out or 0.0)) / 1e6


def _check_number(name: str, value: object) -> None:
    if value is None and name in OPTIONAL:
        return
    wanted = "a whole number of at least 1" if name in COUNTS else "above 0" if name in ABOVE_ZERO else "at least 0"
    number = isinstance(value, int if name in COUNTS else (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    if not number or value < 0 or (value == 0 and name not in NOT_NEGATIVE):
        raise ConfigError(f"{name} is {value!r} but must be {wanted}", name, "Correct the setting.")


def _check_url(base_url: str) -> None:
    remedy = "Give one such as https://api.openai.com/v1, and the key in the environment variable named by key_variable."
    try:
        parts = urlsplit(base_url)
        whole = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
        tells = parts.username is not None or parts.password is not None or bool(parts.query) or bool(parts.fragment)
    except ValueError:
        whole, tells = False, False
    # The address is not repeated in the messages: a wrong one may hold a key.
    if not whole:
        raise ConfigError("The endpoint's address is no http or https URL", "base_url", remedy)
    if tells:
        raise ConfigError("The endpoint's address holds a user, a password, a query or a fragment, which would be logged", "base_url", remedy)
