"""Asks a worker, wherever it lives, and whoever stands in for it where it gives no answer."""

from __future__ import annotations

import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from omnivision.endpoint import Client, Kind, Ledger, message
from omnivision.endpoint.secret import Secret
from omnivision.errors import OmniError
from omnivision.generation import generate_whole
from omnivision.model.checkpoints import load_checkpoint, model_folder
from omnivision.pairs.endpoint_teacher import picture_part
from omnivision.routing.graph import Graph
from omnivision.routing.turns import Answers, turn
from omnivision.routing.worker import Worker

ANSWERED = Kind.ANSWERED.value
UNUSABLE = "unusable"  # an error of ours ended it: a refused key, a budget that is spent, weights that are broken


@dataclass(frozen=True)
class Reply:
    """How one worker ended.

    Args:
        worker: its name. outcome: "answered", a kind of the endpoint's outcomes, or "unusable". answer: empty unless answered.
        detail: what the server, the network or the error said. requests: sent to an endpoint. seconds: retries included.
    """

    worker: str
    outcome: str
    answer: str = ""
    detail: str = ""
    requests: int = 0
    seconds: float = 0.0


class Workers:
    """The workers of a graph, opened as they are needed; to be used in a `with`.

    Args:
        graph: as read. ledgers: folder with one ledger for each endpoint that is asked.

    Raises:
        ConfigError: a key that is not set, or a checkpoint that is none.
    """

    def __init__(self, graph: Graph, ledgers: Path) -> None:
        self.graph, self.ledgers = graph, ledgers
        for worker in graph.workers:
            if worker.endpoint:
                Secret(worker.endpoint.key_variable)
            else:
                model_folder(worker.checkpoint.folder)
        self._open = ExitStack()
        self._clients: dict[str, Client] = {}
        self._models: dict[str, tuple] = {}

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, *exc) -> None:
        self._open.close()

    def ask(self, key: str, name: str, query: str, answers: Answers = (), picture: str | None = None) -> tuple[Reply, ...]:
        """Asks a worker; where it gives no answer, the next in its order.

        Args:
            key: of the step; no two of a ledger may be the same. name: the worker. query: its query.
            answers: of earlier steps, for workers with `context`. picture: a file, for workers with `pictures`.

        Returns:
            What became of each that was asked; only the last can be an answer.

        Raises:
            ConfigError: another process has the ledger open.
        """
        replies: list[Reply] = []
        for worker in self.graph.order(name):
            text, shown = turn(query, answers, most=None) if worker.context else query, picture if worker.pictures else None
            client = self._client(worker) if worker.endpoint else None
            started = time.perf_counter()
            try:
                ended = _of_endpoint(client, worker, key, text, shown) if client else self._of_model(worker, text, shown)
            except OmniError as error:
                ended = {"outcome": UNUSABLE, "detail": error.paragraph()}
            replies.append(Reply(worker.name, **ended, seconds=round(time.perf_counter() - started, 3)))
            if replies[-1].outcome == ANSWERED:
                break
        return tuple(replies)

    def _client(self, worker: Worker) -> Client:
        if worker.name not in self._clients:
            ledger = self._open.enter_context(Ledger(self.ledgers / f"{worker.name}.jsonl"))
            self._clients[worker.name] = self._open.enter_context(Client(worker.endpoint, ledger))
        return self._clients[worker.name]

    def _of_model(self, worker: Worker, text: str, picture: str | None) -> dict:
        if worker.name not in self._models:
            self._models[worker.name] = load_checkpoint(worker.checkpoint.folder)
        answer = generate_whole(*self._models[worker.name], [text], [picture], worker.checkpoint.max_new_tokens)[0]
        return {"outcome": outcome_of(answer), "answer": answer or ""}


def outcome_of(answer: str | None) -> str:
    """How a model of ours ended: None is an answer that was cut."""
    return Kind.CUT_OFF.value if answer is None else ANSWERED if answer else Kind.EMPTY.value


def _of_endpoint(client: Client, worker: Worker, key: str, text: str, picture: str | None) -> dict:
    system = [message("system", worker.system)] if worker.system else []
    outcome = client.ask(key, [*system, message("user", text, *([picture_part(picture)] if picture else []))])
    answer = outcome.text if outcome.kind is Kind.ANSWERED else ""
    return {"outcome": outcome.kind.value, "answer": answer, "detail": outcome.detail, "requests": outcome.attempt}
