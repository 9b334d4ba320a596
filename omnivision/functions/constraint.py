"""Generation that can only write calls: at every step the logits of all other ids are taken away.

V = width of the logits, B = rows of a batch; one bit for each id where `bits` is said
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import llguidance
import llguidance.hf
import numpy as np
import torch
from torch import Tensor
from transformers import LogitsProcessor

from omnivision.errors import ConfigError, DataError
from omnivision.functions.function_set import FunctionSet
from omnivision.functions.grammar import CALLS, call_grammar
from omnivision.functions.tokens import functional_tokens

# Work of llguidance on one grammar and on one step: its defaults serve one schema, not a thousand functions.
_LIMITS = {"max_items_in_row": 1_000_000, "step_max_items": 1_000_000, "initial_lexer_fuel": 100_000_000}


class CallConstraint:
    """Keeps generation to the calls of a function set; made once, used for any number of answers, one thread at a time.

    `generate_ids(..., constrain=constraint)` takes it as it is; `model.generate(..., logits_processor=[constraint.processor()])`
    takes a processor of it.

    Args:
        tokenizer: a fast tokenizer with the set's tokens installed.
        function_set: the functions that may be called.
        mode, most_calls, nested: as in call_grammar.
        stop_token_ids: ids that may end an answer; None is the tokenizer's end of turn.

    Raises:
        ConfigError: the tokens are not installed, the tokenizer is not a fast one, there is no id that ends an answer, or the
            set is too large for one grammar.
    """

    def __init__(self, tokenizer, function_set: FunctionSet, mode: str = CALLS, *, most_calls: int | None = None, nested: bool = False,
                 stop_token_ids: Iterable[int] | None = None) -> None:
        tokens = functional_tokens(tokenizer, function_set)
        stops = [tokenizer.eos_token_id] if stop_token_ids is None else list(stop_token_ids)
        if not stops or None in stops:
            raise ConfigError("no id ends an answer", "grammar of calls", "Give stop_token_ids.")
        readable = _readable(tokenizer, stops)
        self.grammar = call_grammar(function_set, tokens, mode, most_calls=most_calls, nested=nested, lead=_lead(tokenizer, readable))
        self.stops = frozenset(stops)
        self._fresh = llguidance.LLMatcher(readable, self.grammar.text, limits=llguidance.LLParserLimits(**_LIMITS), log_level=0)
        if self._fresh.is_error():
            first = self._fresh.get_error().split("\n", 1)[0]
            what = f"no grammar of {len(function_set)} functions: {first:.300}"
            raise ConfigError(what, "grammar of calls", "Make the set or its schemas smaller.")
        self._rows: list[_Row] = []

    def __call__(self, logits_BV: Tensor, answers: Sequence[Sequence[int]]) -> Tensor:
        """Logits with -inf wherever an id cannot follow.

        Args:
            logits_BV: of the next ids. answers: the new ids of each row so far; rows may change places between calls.

        Raises:
            DataError: an answer that the grammar does not allow (it was not made under this constraint).
        """
        self._rows += [_Row(self._fresh) for _ in range(len(answers) - len(self._rows))]
        width = logits_BV.shape[-1]
        bits = np.zeros((len(answers), (width + 7) // 8), dtype=np.uint8)
        for row, ids, bits_row in zip(self._rows, answers, bits):
            if len(ids) and ids[-1] in self.stops:
                bits_row[:] = 255
            else:
                given = row.bits(list(ids))[: len(bits_row)]  # rows of the table may be more or fewer than a multiple of 8
                bits_row[: len(given)] = given
        allowed_BV = np.unpackbits(bits, axis=1, count=width, bitorder="little").view(bool)
        return logits_BV.masked_fill(~torch.from_numpy(allowed_BV).to(logits_BV.device), -torch.inf)

    def check_all_can_be_called(self) -> None:
        """Refuses a set of which a function can never be called: a model that wants it would have to call another one.

        Raises:
            ConfigError: names these functions.
        """
        if self.grammar.never:
            raise ConfigError("no arguments can be written for a function, so that another would be called in its place", f"functions {', '.join(self.grammar.never)}",
                              "Loosen its schema (a required text's pattern may need a backslash, say), or take it out of the set.")

    def matcher(self) -> llguidance.LLMatcher:
        """llguidance's own view of an answer that has not begun: consume_tokens, is_accepting, compute_bitmask and so on."""
        return self._fresh.deep_copy()

    def processor(self, prompt_length: int | None = None) -> LogitsProcessor:
        """For one call of `model.generate`.

        Args:
            prompt_length: of the padded prompt; None takes the length that the first step sees.
        """
        return _Processor(self, prompt_length)


def _readable(tokenizer, stops: list[int]) -> llguidance.LLTokenizer:
    try:
        return llguidance.hf.from_tokenizer(tokenizer, eos_token=stops)
    except ValueError as error:
        raise ConfigError(f"the tokenizer cannot be used: {error}", "grammar of calls", "Use a fast tokenizer.") from error


def _lead(tokenizer, readable: llguidance.LLTokenizer) -> str:
    """What the tokenizer puts before a text: SentencePiece's a space, byte-level ones nothing."""
    ids = tokenizer.encode("(", add_special_tokens=False, split_special_tokens=True)
    written = readable.decode_bytes(ids).decode("utf-8", "replace")
    if not written.endswith("("):
        what = f"the tokenizer cannot be used: it reads '(' back as {written!r}"
        raise ConfigError(what, "grammar of calls", "Use one that keeps texts as they are.")
    return written[:-1]


class _Row:
    """Where one answer stands in the grammar."""

    def __init__(self, fresh: llguidance.LLMatcher) -> None:
        self.fresh = fresh
        self.matcher, self.ids = fresh.deep_copy(), []

    def bits(self, ids: list[int]) -> np.ndarray:
        """One bit for each id, low bits first."""
        if ids[: len(self.ids)] != self.ids:
            self.matcher, self.ids = self.fresh.deep_copy(), []
        new = ids[len(self.ids) :]
        if new and not self.matcher.consume_tokens(new):
            self._refuse(new)
        self.ids = ids
        bits = np.frombuffer(self.matcher.compute_bitmask(), dtype=np.uint8)
        if self.matcher.is_error():
            self._refuse(new)
        return bits

    def _refuse(self, new: list[int]) -> None:
        first = self.matcher.get_error().split("\n", 1)[0]
        where, self.ids = f"ids {self.ids[-8:]} and then {new[:8]}", [-1]  # begin anew next time
        raise DataError(f"no answer of the grammar: {first:.200}", where, "Give only ids that were generated under this constraint.")


class _Processor(LogitsProcessor):
    def __init__(self, constraint: CallConstraint, prompt_length: int | None) -> None:
        self.constraint, self.prompt_length = constraint, prompt_length

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        if self.prompt_length is None:
            self.prompt_length = input_ids.shape[1]
        return self.constraint(scores, [_until(ids, self.constraint.stops) for ids in input_ids[:, self.prompt_length :].tolist()])


def _until(ids: list[int], stops: frozenset[int]) -> list[int]:
    """An answer without the padding behind its end."""
    end = next((at for at, one in enumerate(ids) if one in stops), len(ids))
    return ids[: end + 1]
