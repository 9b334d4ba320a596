"""What stays of the rows that were made: checked ones, none twice, none of the training rows like a held-out one; all else is counted."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable

from rapidfuzz import fuzz, process

from omnivision.requests.checks import Checks
from omnivision.requests.drawing import HELD_OUT
from omnivision.requests.same import normalised

# Of 100, rapidfuzz's ratio of normalised requests for the same functions, from which a training request counts as a held-out one.
# Measured on CLINC150's 3,000 validation requests: 99 % of those with one letter changed are at least so alike, 95 % of those with a word
# put in, 75 % of those with a word taken out; of held-out requests from templates 2 % are so like a training one (English; Chinese 0.2 %).
NEAR = 90
EXAMPLES = 3  # of each reason that the report shows


class Sieve:
    """Takes rows, held-out ones first.

    Args:
        checks: of the function set. near: see NEAR.
    """

    def __init__(self, checks: Checks, near: float = NEAR) -> None:
        self.checks, self.near = checks, near
        self.kept: dict[str, list[dict]] = defaultdict(list)
        self.refused: Counter = Counter()
        self.examples: dict[str, list[dict]] = defaultdict(list)
        self._seen: dict[str, str] = {}  # normalised request -> split
        self._held_out: dict[tuple[str, ...], list[str]] = defaultdict(list)  # names of the calls -> normalised requests

    def take_all(self, rows: Iterable[dict], split: str, kind: str, most: int | None = None) -> int:
        """Keeps rows, or counts why not.

        Args:
            kind: how they were made; written into each. most: how many are kept; what follows is passed over uncounted.

        Returns:
            How many were kept.
        """
        kept, rows = len(self.kept[split]), list(rows)
        for row, fault in zip(rows, self.checks.faults(rows)):
            if most is not None and len(self.kept[split]) - kept >= most:
                break
            reason, message = fault or self._like_another(row, split) or ("", "")
            if reason:
                self.refuse(reason, {"request": row["request"], "message": message})
            else:
                self._keep({**row, "kind": kind}, split)
        return len(self.kept[split]) - kept

    def _keep(self, row: dict, split: str) -> None:
        request = normalised(row["request"])
        self._seen[request] = split
        if split == HELD_OUT:
            self._held_out[_names(row)].append(request)
        self.kept[split].append(row)

    def refuse(self, reason: str, example: dict) -> None:
        """Counts what cannot be a row."""
        self.refused[reason] += 1
        if len(self.examples[reason]) < EXAMPLES:
            self.examples[reason].append(example)

    def _like_another(self, row: dict, split: str) -> tuple[str, str] | None:
        request = normalised(row["request"])
        where = self._seen.get(request)
        if where is not None:
            return ("duplicate" if where == split else "overlap"), f"the same request is there ({where})"
        if split == HELD_OUT:
            return None
        found = process.extractOne(request, self._held_out[_names(row)], scorer=fuzz.ratio, score_cutoff=self.near)
        return found and ("near_duplicate", f"{found[1]:.0f} of 100 like the held-out {found[0]!r}")


def _names(row: dict) -> tuple[str, ...]:
    return tuple(sorted(call["name"] for call in row["calls"]))
