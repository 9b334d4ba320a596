"""The router: a checkpoint of the stage functions that names a worker and rewords the request for it, in one call."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from omnivision.errors import ConfigError
from omnivision.functions import FunctionSet, functional_tokens, parse_calls
from omnivision.functions.constraint import CallConstraint
from omnivision.functions.function_set import IRRELEVANT
from omnivision.generation import ImagesInput, generate_ids, generate_whole, stop_ids
from omnivision.routing.graph import Graph
from omnivision.routing.worker import QUERY


class Choice(NamedTuple):
    """What the router decided: a worker (None is none of them) and its query (empty where none was written to its end)."""

    worker: str | None
    query: str


class Router:
    """Chooses workers; may answer by itself.

    Args:
        model, processor: with the tokens of the set. functions: as `Graph.functions` gives them.
        max_new_tokens: of a call, and of an answer of its own.
    """

    def __init__(self, model, processor, functions: FunctionSet, max_new_tokens: int = 256) -> None:
        self.model, self.processor, self.functions, self.max_new_tokens = model, processor, functions, max_new_tokens
        self._tokens = functional_tokens(processor.tokenizer, functions)
        self._constraint = CallConstraint(processor.tokenizer, functions, most_calls=1, stop_token_ids=stop_ids(model) or None)

    def choose(self, text: str, picture: ImagesInput, workers: Collection[str]) -> Choice:
        """One call under the grammar.

        Args:
            text: as `turn` makes it; tokens spelt in it stay letters. workers: those that may be named; none of them is always possible.
        """
        allowed = [self._tokens.functions[self.functions.position(name)] for name in (IRRELEVANT, *workers)]

        def constrain(logits_BV: Tensor, answers: Sequence[Sequence[int]]) -> Tensor:
            logits_BV = self._constraint(logits_BV, answers)
            if answers[0]:
                return logits_BV
            others = torch.ones_like(logits_BV, dtype=torch.bool)
            others[:, allowed] = False
            return logits_BV.masked_fill(others, -torch.inf)

        ids = generate_ids(self.model, self.processor, [text], [picture], self.max_new_tokens,
                           stop_token_ids=[self._tokens.end], constrain=constrain)[0]
        calls = parse_calls(ids, self.processor.tokenizer, self.functions)
        # A call that max_new_tokens cut still names its worker: the first token is the decision.
        name, arguments = (calls[0].name, calls[0].arguments) if calls else (calls.errors[0].name, {})
        return Choice(None if name == IRRELEVANT else name, arguments.get(QUERY, "").strip())

    def answer(self, text: str, picture: ImagesInput) -> str | None:
        """The router's own answer, without calls; None where max_new_tokens cut it."""
        banned = [*self._tokens.functions, self._tokens.end]

        def constrain(logits_BV: Tensor, answers: Sequence[Sequence[int]]) -> Tensor:
            return logits_BV.index_fill(1, torch.tensor(banned, device=logits_BV.device), -torch.inf)

        return generate_whole(self.model, self.processor, [text], [picture], self.max_new_tokens, constrain=constrain)[0]


def router_functions(graph: Graph, folder: Path) -> FunctionSet:
    """The graph's functions, which have to be those that the checkpoint was trained for.

    Raises:
        ConfigError: a checkpoint without functions, a function that has moved, or a worker that the checkpoint has no token for.
    """
    trained = FunctionSet.beside(folder)
    if trained is None:
        raise ConfigError("The model has no functions", str(folder), "Train the stage functions on the graph's function set first.")
    functions = graph.functions().keeping(trained)
    if len(functions) > len(trained):
        new = functions.functions[len(trained)].name
        raise ConfigError(f"The router has no token for the worker {new!r}", f"{graph.source}: workers",
                          "Train the stage functions on the graph's function set again.")
    return functions
