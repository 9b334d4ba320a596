"""The walk: the router names a worker, the worker answers, and along the edges the router is asked again."""

from __future__ import annotations

import time
import uuid
from dataclasses import asdict, dataclass

from omnivision.errors import ConfigError, ResumableError
from omnivision.routing.asking import ANSWERED, Reply, Workers
from omnivision.routing.graph import Graph
from omnivision.routing.router import Router
from omnivision.routing.turns import turn
from omnivision.routing.worker import ROUTER

NO_EDGE, LIMIT, END, NO_WORKER = "no edge", "step limit", "end", "no worker"  # why a walk ended


@dataclass(frozen=True)
class Step:
    """One step.

    Args:
        worker: as the router chose it ("router" where it answered by itself). query: what was asked.
        outcome, answer: of whoever answered. seconds: the router's choice and the answer. replies: who was asked, and what became of it.
    """

    worker: str
    query: str
    outcome: str
    answer: str
    seconds: float
    replies: tuple[Reply, ...]


@dataclass(frozen=True)
class Walk:
    """Where a request went, and what came back.

    Args:
        id: the first part of its keys in the ledgers. request: as given. ended: one of "no edge", "step limit", "end" (the router's word
            behind an answer) and "no worker" (its word at the first step).
    """

    id: str
    request: str
    steps: tuple[Step, ...]
    ended: str

    @property
    def answer(self) -> str:
        """The last step's."""
        return self.steps[-1].answer

    def to_dict(self) -> dict:
        """As JSON has it."""
        return {"id": self.id, "request": self.request, "answer": self.answer, "ended": self.ended, "steps": [asdict(step) for step in self.steps]}


def walk(request: str, graph: Graph, router: Router, workers: Workers, picture: str | None = None) -> Walk:
    """Answers a request.

    Args:
        request: as a person wrote it. graph, router, workers: opened. picture: a file; None where there is none.

    Raises:
        ResumableError: at some step nobody answered. ConfigError: there is nobody to answer but the router, and it does not.
    """
    name = uuid.uuid4().hex[:12]
    steps: list[Step] = []
    allowed = tuple(worker.name for worker in graph.workers)
    while True:
        started = time.perf_counter()
        answers = [(step.worker, step.answer) for step in steps]
        choice = router.choose(turn(request, answers), picture, allowed)
        if choice.worker is None:
            break
        query = choice.query or request
        replies = workers.ask(f"{name}/{len(steps) + 1}", choice.worker, query, answers, picture)
        steps.append(_step(choice.worker, query, replies, started, len(steps) + 1, workers))
        allowed = graph.edges.get(choice.worker, ())
        if not allowed:
            return Walk(name, request, tuple(steps), NO_EDGE)
        if len(steps) == graph.most_steps:
            return Walk(name, request, tuple(steps), LIMIT)
    if steps:
        return Walk(name, request, tuple(steps), END)
    if graph.default is not None:
        replies = workers.ask(f"{name}/1", graph.default, request, picture=picture)
        return Walk(name, request, (_step(graph.default, request, replies, started, 1, workers),), NO_WORKER)
    answer = router.answer(request, picture)
    if not answer:
        raise ConfigError(f"The router chose no worker, and its own answer is {'empty' if answer is not None else 'longer than --max-new-tokens'}", request[:200],
                          "Give the graph a `default` worker." if answer is not None else "Let it be longer, or give the graph a `default` worker.")
    own = Reply(ROUTER, ANSWERED, answer)
    return Walk(name, request, (_step(ROUTER, request, (own,), started, 1, workers),), NO_WORKER)


def _step(worker: str, query: str, replies: tuple[Reply, ...], started: float, number: int, workers: Workers) -> Step:
    last = replies[-1]
    if last.outcome != ANSWERED:
        told = "; ".join(f"{one.worker} {one.outcome}{f' ({one.detail:.200})' if one.detail else ''}" for one in replies)
        raise ResumableError(f"No worker answered at step {number}: {told}", f"ledgers in {workers.ledgers}",
                             "Start again when one of them is up, or give the graph a fallback that is.")
    return Step(worker, query, last.outcome, last.answer, round(time.perf_counter() - started, 3), replies)
