"""What the router reads, in training and on a walk: one text turn, the request and behind it the answers so far."""

from __future__ import annotations

from collections.abc import Sequence

from omnivision.functions import format_call
from omnivision.functions.function_set import IRRELEVANT
from omnivision.routing.graph import Graph
from omnivision.routing.worker import QUERY

MOST_SHOWN = 1000  # characters of an answer that the router reads

Answers = Sequence[tuple[str, str]]  # the workers that were chosen, and what came back


def turn(text: str, answers: Answers = (), most: int | None = MOST_SHOWN) -> str:
    """The request, then for each answer an empty line and "Answer of NAME: ...".

    Args:
        text: the request. answers: in the order of the steps. most: characters of each answer; what is cut ends in "…". None keeps all.
    """
    shown = [f"Answer of {name}: {answer if most is None or len(answer) <= most else answer[:most] + '…'}" for name, answer in answers]
    return "\n\n".join([text, *shown])


def training_row(graph: Graph, request: str, worker: str | None, query: str = "", answers: Answers = (), images: Sequence[str] = ()) -> dict:
    """One row for `omnivision train functions`.

    Args:
        graph: whose functions the router learns. request: as people write it. worker: who should be asked; None where no worker
            fits, or (behind answers) nothing is left to do. query: the request in the worker's words. answers: of earlier steps.
            images: paths below the image root.

    Raises:
        DataError: no such worker, or an empty query.
    """
    call = {"name": IRRELEVANT, "arguments": {}} if worker is None else {"name": worker, "arguments": {QUERY: query}}
    format_call(call["name"], call["arguments"], graph.functions())
    return {"images": list(images), "request": turn(request, answers), "calls": [call]}
