"""Functional tokens in a tokenizer and in a language model's tables.

V = vocabulary rows, D = language model width, T = tokens of a description
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from tokenizers import AddedToken

from omnivision.errors import ConfigError
from omnivision.functions.function_set import FunctionSet

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class FunctionalTokens:
    """Ids of a function set in one tokenizer."""

    functions: tuple[int, ...]  # in the order of the set
    end: int


@dataclass(frozen=True)
class Installed:
    """What install_tokens did."""

    tokens: FunctionalTokens
    added: int  # tokens that were new to the tokenizer
    spare_rows_used: int  # rows that lay ready beyond the tokenizer's length
    rows_before: int
    rows_after: int  # equal to rows_before unless the spare rows were too few


# Of each tokenizer what was looked up in it, by prefix and number: an id stays while its tokenizer grows. A look-up of 1,000 tokens takes 0.7 ms,
# writing a call 0.05.
_looked_up: WeakKeyDictionary = WeakKeyDictionary()


def functional_tokens(tokenizer, function_set: FunctionSet) -> FunctionalTokens:
    """The ids of a set.

    Raises:
        ConfigError: the tokenizer does not know a token (the set was never installed there).
    """
    known, key = _looked_up.setdefault(tokenizer, {}), (function_set.prefix, len(function_set))
    if key not in known:
        known[key] = _look_up(tokenizer, function_set)
    return known[key]


def _look_up(tokenizer, function_set: FunctionSet) -> FunctionalTokens:
    ids = []
    known = tokenizer.get_added_vocab()
    for token in (*function_set.tokens, function_set.end_token):
        if token not in known:
            raise ConfigError(
                f"the tokenizer does not know {token}",
                "functional tokens",
                "Train the stage 'functions' first, or take the functions.json that lies beside the checkpoint.",
            )
        ids.append(known[token])
    return FunctionalTokens(tuple(ids[:-1]), ids[-1])


def install_tokens(model, tokenizer, function_set: FunctionSet) -> Installed:
    """Give every function its token; may be called again with an extended set.

    Rows that already carry a functional token are left as they are, so that trained functions
    keep what they learnt. New rows lie first in the spare rows of the table (Qwen2.5 has 271: a
    plain resize to len(tokenizer) would shrink it) and enlarge it only past them. They start from
    the words of their descriptions, see `starting_rows`.

    Args:
        model: anything with get_input_embeddings, get_output_embeddings, resize_token_embeddings.
        tokenizer: its tokenizer; the tokens become special, so text never turns into them where
            split_special_tokens is set.
        function_set: the functions.

    Returns:
        Ids and how the table was used.

    Source: Octopus v2 (functional tokens); spare rows: Qwen2.5 config.json, 151,936 rows for 151,665 ids.
    """
    import torch

    about = {token: function.description.strip() or function.name.replace("_", " ") for token, function in zip(function_set.tokens, function_set.functions)}
    about[function_set.end_token] = "The end of the call."
    new = {token: text for token, text in about.items() if token not in tokenizer.get_added_vocab()}
    # Encoded before the tokens exist and with special tokens split: a description is plain text.
    texts = {
        token: tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True)
        for token, text in new.items()
    }
    rows_before = model.get_input_embeddings().weight.shape[0]
    rows_used = min(rows_before, len(tokenizer))
    spare = rows_before - rows_used
    tokenizer.add_tokens([AddedToken(token, special=True, normalized=False) for token in new], special_tokens=True)
    if len(tokenizer) > rows_before:
        model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    ids = tokenizer.get_added_vocab()
    with torch.no_grad():
        for weight_VD in _tables(model):
            if texts:
                rows_ND = starting_rows(weight_VD[:rows_used], list(texts.values()))
                weight_VD[[ids[token] for token in texts]] = rows_ND.to(weight_VD.dtype)
    return Installed(
        tokens=functional_tokens(tokenizer, function_set),
        added=len(new),
        spare_rows_used=min(spare, len(new)),
        rows_before=rows_before,
        rows_after=model.get_input_embeddings().weight.shape[0],
    )


def starting_rows(table_VD: Tensor, texts: list[list[int]]) -> Tensor:
    """Rows for new tokens, in the direction in which their texts differ, as far from the table's middle as its rows are.

    Plain means of descriptions lie close together near the middle of the table: on the embedded world `send_email` was then
    never told from `send_message` in 250 steps.

    Args:
        table_VD: the rows that tokens use. texts: ids of each new token's description.

    Returns:
        Shape (N, D), fp32.
    """
    import torch

    table_VD = table_VD.float()
    middle_D = table_VD.mean(0)
    means_ND = torch.stack([table_VD[text_T].mean(0) for text_T in texts])
    around_D = means_ND.mean(0) if len(texts) > 1 else middle_D
    return middle_D + torch.nn.functional.normalize(means_ND - around_D, dim=-1) * (table_VD - middle_D).norm(dim=-1).mean()


def _tables(model) -> list[Tensor]:
    """The input table and, where it is a table of its own, the output table."""
    tables = [model.get_input_embeddings().weight]
    head = model.get_output_embeddings()
    if head is not None and head.weight is not tables[0]:
        tables.append(head.weight)
    return tables
