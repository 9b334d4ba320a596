"""How far `irrelevant` lies above the best other function where an answer begins: a score for "none fits" that no threshold has decided yet."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor


class Margins:
    """Looks on while answers are generated: what `generate_ids` takes as `constrain`.

    `generate_ids` hands over the lists that it returns in the end, so that an answer is known by its list.

    Args:
        tokenizer, functions: whose tokens count.
        constrain: what shall choose beside it; None leaves the logits alone.
    """

    def __init__(self, tokenizer: Any, functions: Any, constrain: Callable | None = None) -> None:
        from omnivision.functions.function_set import IRRELEVANT
        from omnivision.functions.tokens import functional_tokens

        ids, none_fits = list(functional_tokens(tokenizer, functions).functions), functions.position(IRRELEVANT)
        self.none_fits, self.others, self.constrain = ids[none_fits], ids[:none_fits] + ids[none_fits + 1:], constrain
        self._found: dict[int, tuple[list[int], float]] = {}  # the list itself is kept, or its id would be given to another

    def __call__(self, logits_BV: Tensor, answers: list[list[int]]) -> Tensor:
        begins = [row for row, ids in enumerate(answers) if not ids]
        if begins and self.others:
            logits = logits_BV[begins].float()
            margins = logits[:, self.none_fits] - logits[:, self.others].amax(1)
            self._found |= {id(answers[row]): (answers[row], margin) for row, margin in zip(begins, margins.tolist(), strict=True)}
        return self.constrain(logits_BV, answers) if self.constrain else logits_BV

    def of(self, answer: list[int]) -> float | None:
        """The margin of an answer, in nats; None where there is no other function."""
        found = self._found.get(id(answer))
        return found and found[1]
