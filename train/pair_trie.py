"""Two answers to one prompt as one row: what they share stands once, then each answer's own branch.

The log-probs of the common prefix cancel in the sigmoid loss, so that only tokens from the first edit on are read. Their hidden
states are those of two separate rows: a branch sees the shared tokens and itself, at the positions that it has alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from difflib import SequenceMatcher
from itertools import takewhile
from typing import Literal, NamedTuple

from omnivision.data.pictures import Packed

CHOSEN, REJECTED = 0, 1
SHARED, PADDING = 0, -1  # branches of a row; the sides' own are 1 + CHOSEN and 1 + REJECTED
Share = Literal["edit", "prompt", "none"]


@dataclass(frozen=True)
class Pair:
    """An encoded preference.

    Args:
        prompt: ids up to the answer, image placeholders among them. chosen, rejected: ids of the answers with their end tokens.
        reference: the reference's log-probs of each side's tokens from the first edit on, where they are known.
    """

    prompt: list[int]
    chosen: list[int]
    rejected: list[int]
    images: tuple[str | Packed, ...] = ()
    id: str = ""
    part: int = 0  # which of the run's files
    reference: tuple[list[float], list[float]] | None = None

    @property
    def sides(self) -> tuple[list[int], list[int]]:
        """Chosen, rejected."""
        return self.chosen, self.rejected

    @property
    def edit(self) -> int:
        """How many tokens of the answers come before their first difference."""
        return common_prefix(self.chosen, self.rejected)


class Row(NamedTuple):
    """A row of the batch: ids, the branch of each, and the position that each has in its own sequence."""

    ids: list[int]
    branches: list[int]
    positions: list[int]


class Token(NamedTuple):
    """A token whose log-prob is read: the row and place whose hidden state predicts it, its id, its side, its weight in the preference."""

    row: int
    place: int
    target: int
    side: int
    weight: float


class Layout(NamedTuple):
    """A pair as rows, and the tokens that are read from them: the chosen answer's, then the rejected one's."""

    rows: list[Row]
    tokens: list[Token]


def lay_out(pair: Pair, share: Share, edit_weight: float = 1.0, whole_chosen: bool = False) -> Layout:
    """Rows of a pair, without the last token of either answer: nothing is read after it.

    Args:
        share: what stands once: prompt and answer up to the edit, the prompt, or nothing (two rows).
        edit_weight: of the tokens inside of the edit; all others weigh 1.
        whole_chosen: the chosen answer is read from its first token, those before the edit with weight 0.
    """
    sequences = [pair.prompt + side for side in pair.sides]
    split = {"edit": len(pair.prompt) + pair.edit, "prompt": len(pair.prompt), "none": 0}[share]
    rows = [_row(sequences, split)] if share != "none" else [_plain(ids) for ids in sequences]
    before = len(sequences[CHOSEN]) - 1 - split if share != "none" else 0  # the chosen branch stands before the rejected one
    weights = edit_weights(pair.chosen, pair.rejected, edit_weight)
    tokens = []
    for side, ids in enumerate(sequences):
        for at in range(0 if whole_chosen and side == CHOSEN else pair.edit, len(pair.sides[side])):
            predicts = len(pair.prompt) + at - 1
            place = predicts + before if side == REJECTED and predicts >= split else predicts
            tokens.append(Token(side if share == "none" else 0, place, ids[predicts + 1], side, weights[side][at] if at >= pair.edit else 0.0))
    return Layout(rows, tokens)


def _row(sequences: list[list[int]], split: int) -> Row:
    ids, branches, positions = sequences[CHOSEN][:split], [SHARED] * split, list(range(split))
    for side, sequence in enumerate(sequences):
        own = sequence[split:-1]
        ids, branches, positions = ids + own, branches + [1 + side] * len(own), positions + list(range(split, split + len(own)))
    return Row(ids, branches, positions)


def _plain(ids: list[int]) -> Row:
    return Row(ids[:-1], [SHARED] * (len(ids) - 1), list(range(len(ids) - 1)))


def common_prefix(one: list[int], other: list[int]) -> int:
    """How many ids two answers begin with alike."""
    return sum(1 for _ in takewhile(lambda both: both[0] == both[1], zip(one, other)))


def edit_weights(chosen: list[int], rejected: list[int], weight: float) -> tuple[list[float], list[float]]:
    """Weights of both answers' tokens: `weight` where their ids differ, 1 elsewhere.

    What they begin and end with alike is no edit, wherever a diff of the whole would align it: the beginning has to weigh
    the same on both sides, or it would not cancel.

    Source: RLHF-V's dense direct preference optimization, without its division by the sum of the weights: weight 1 is plain DPO.
    """
    start = common_prefix(chosen, rejected)
    end = common_prefix(chosen[start:][::-1], rejected[start:][::-1])
    weights = [1.0] * len(chosen), [1.0] * len(rejected)
    middles = chosen[start : len(chosen) - end], rejected[start : len(rejected) - end]
    for kind, *spans in SequenceMatcher(None, *middles, autojunk=False).get_opcodes():
        if kind != "equal":
            for side, (first, last) in enumerate((spans[:2], spans[2:])):
                weights[side][start + first : start + last] = [weight] * (last - first)
    return weights
