"""What a model answered: text for lm-eval, with the generated ids and the calls read from them."""

from __future__ import annotations


class Answer(str):
    """Text that remembers the ids it came from (lm-eval passes responses through untouched).

    Functional tokens count only as generated ids: a model that types "<nexa_3>" letter by letter has made no
    call, and the text alone cannot tell the two apart.

    Attributes:
        ids: generated token ids without padding.
        raw: their text with every special token kept.
        calls: `{"name", "arguments"}` per call, in order; None where the model has no functional tokens.
        fault: why the calls could not be read; None where they could.
    """

    ids: tuple[int, ...]
    raw: str
    calls: list[dict] | None
    fault: str | None

    def __new__(cls, text: str, ids=(), raw: str | None = None, calls: list[dict] | None = None,
                fault: str | None = None) -> Answer:
        answer = super().__new__(cls, text)
        answer.ids, answer.raw = tuple(ids), text if raw is None else raw
        answer.calls, answer.fault = calls, fault
        return answer
