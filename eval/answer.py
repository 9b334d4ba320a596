"""What a model answered: text for lm-eval, with the generated ids and the calls read from them; or why there is nothing."""

from __future__ import annotations


class Missing(str):
    """Why there is no answer."""


THINK, THOUGHT = "<think>", "</think>"  # around what a model says to itself, in the form of Qwen3, DeepSeek and others


class Answer(str):
    """Text that remembers the ids it came from (lm-eval passes responses through untouched).

    Functional tokens count only as generated ids: a model that types "<nexa_3>" letter by letter has made no
    call, and the text alone cannot tell the two apart.

    Attributes:
        ids: generated token ids without padding.
        raw: their text with every special token kept.
        calls: `{"name", "arguments"}` per call, in order; None where the model has no functional tokens.
        fault: why the calls could not be read; None where they could.
        cut: whether it ended because it was as long as answers may be.
        margin: where there are calls, how far `irrelevant` lay above the best other function as the answer began.
    """

    ids: tuple[int, ...]
    raw: str
    calls: list[dict] | None
    fault: str | None
    cut: bool
    margin: float | None

    def __new__(cls, text: str, ids=(), raw: str | None = None, calls: list[dict] | None = None,
                fault: str | None = None, cut: bool = False, margin: float | None = None) -> Answer:
        answer = super().__new__(cls, text)
        answer.ids, answer.raw = tuple(ids), text if raw is None else raw
        answer.calls, answer.fault, answer.cut, answer.margin = calls, fault, cut, margin
        return answer

    def record(self) -> dict:
        """Plain values, for a journal."""
        calls = {} if self.calls is None else {"raw": self.raw, "calls": self.calls, "fault": self.fault, "margin": self.margin}
        return {"text": str(self), "ids": list(self.ids), "cut": self.cut, **calls}

    @classmethod
    def from_record(cls, record: dict) -> Answer:
        """The answer that `record` wrote down."""
        return cls(record["text"], record["ids"], record.get("raw"), record.get("calls"), record.get("fault"), record["cut"], record.get("margin"))

    def __reduce__(self) -> tuple:
        """A str's own pickling would lose the attributes on the way between processes."""
        return Answer, (str(self), self.ids, self.raw, self.calls, self.fault, self.cut, self.margin)


def without_thoughts(answer: Answer | Missing) -> Answer | Missing:
    """What follows a model's thoughts; Missing where these have not ended, for then it has not answered."""
    if isinstance(answer, Missing) or not has_thoughts(answer):
        return answer
    if THOUGHT not in answer:
        return Missing(f"thoughts: {THINK} has no end; give the model longer answers, or turn its thinking off")
    return Answer(answer.rpartition(THOUGHT)[2].strip(), answer.ids, answer.raw, answer.calls, answer.fault, answer.cut, answer.margin)


def has_thoughts(text: str) -> bool:
    """Whether a model says something to itself in a text, or in all of it."""
    return THOUGHT in text or text.startswith(THINK)
