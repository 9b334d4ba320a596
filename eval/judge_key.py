"""The name of one try of one grade in a judge's ledger."""

from __future__ import annotations

import hashlib
from typing import NamedTuple
from urllib.parse import quote, unquote


class Key(NamedTuple):
    """Whatever changes what is asked changes the key: other answers, another prompt or another judge are asked anew.

    Args:
        model: the judge's name, as asked for.
        max_tokens: of its reply.
        prompt: the prompt's hash.
        question: its id.
        row: hash of the table's row: question, truth and answer.
        run, trial: from 1.
    """

    model: str
    max_tokens: int
    prompt: str
    question: str
    row: str
    run: int
    trial: int

    def __str__(self) -> str:
        return "/".join(quote(str(part), safe=" :") for part in self)

    @classmethod
    def parse(cls, text: str) -> Key:
        """The key that a ledger holds.

        Raises:
            ValueError: it is none of a judge.
        """
        parts = [unquote(part) for part in text.split("/")]
        if len(parts) != len(cls._fields):
            raise ValueError(f"the key {text!r} is none of a judge")
        return cls(parts[0], int(parts[1]), *parts[2:5], int(parts[5]), int(parts[6]))


def row_hash(row: str) -> str:
    """Stands for a row in a key."""
    return hashlib.sha256(row.encode("utf-8", "surrogatepass")).hexdigest()[:16]
