"""Functional tokens: a request becomes one token that names the function, then its arguments.

function_set -> tokens (rows of the embedding table) -> grammar -> constraint (what generation may write; imported by
itself, for training needs no llguidance) -> calls (text and ids, there and back).
"""

from omnivision.functions.calls import Action, CallError, Calls, format_call, parse_calls, target_ids
from omnivision.functions.function import Function
from omnivision.functions.function_set import FunctionSet
from omnivision.functions.tokens import FunctionalTokens, Installed, functional_tokens, install_tokens

__all__ = [
    "Action",
    "CallError",
    "Calls",
    "Function",
    "FunctionSet",
    "FunctionalTokens",
    "Installed",
    "format_call",
    "functional_tokens",
    "install_tokens",
    "parse_calls",
    "target_ids",
]
