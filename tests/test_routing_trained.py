"""The whole way of a router: rows from a graph, the stage functions, a checkpoint that goes where it was taught, in two steps."""

from __future__ import annotations

import random

import pytest
import train_world
from endpoint_server import Server
from routing_parts import at, worker, write_graph

from omnivision.model.checkpoints import load_checkpoint
from omnivision.routing import Graph, training_row
from omnivision.routing.asking import Workers
from omnivision.routing.router import Router, router_functions
from omnivision.routing.walk import walk

THINGS = ("cat", "dog", "apple", "kite", "bus", "cup", "boat", "tree")
ASKED = {"law": "May I keep the {}?", "chat": "Do you like the {}?"}


def rows(graph: Graph, seed: int) -> list[dict]:
    """Requests of two kinds; behind an answer of law comes plain, and then the end."""
    dice, found = random.Random(seed), []
    for _ in range(60):
        name, thing = dice.choice(list(ASKED)), dice.choice(THINGS)
        request = ASKED[name].format(thing)
        found.append(training_row(graph, request, name, thing))
        if name == "law":
            law = ("law", f"re: {thing}")
            found += [training_row(graph, request, "plain", thing, [law]), training_row(graph, request, None, answers=[law, ("plain", f"re: {thing}")])]
    return found


@pytest.mark.slow
def test_a_router_learns_its_graph(tmp_path, tmp_path_factory):
    with Server() as server:
        graph = Graph.read(write_graph(tmp_path, [worker(name, at(server)) for name in ("law", "plain", "chat")],
                                       edges={"law": ["plain"], "plain": ["plain"]}, most_steps=4))
        graph.functions().save(tmp_path)
        world = train_world.world(tmp_path_factory)
        data = train_world.write_lines(tmp_path / "rows.jsonl", rows(graph, 0))
        final = train_world.train(train_world.settings(world, tmp_path / "run", "functions", functions=str(tmp_path / "functions.json"),
                                                       data=[str(data)], batch_size=8, max_steps=250, log_steps=50), "functions")
        router = Router(*load_checkpoint(final), router_functions(graph, final), 40)
        with Workers(graph, tmp_path / "ledgers") as workers:
            walks = [walk(ASKED[name].format(thing), graph, router, workers) for name in ASKED for thing in THINGS]
    went = [[step.worker for step in one.steps] for one in walks]
    assert went == [["law", "plain"]] * 8 + [["chat"]] * 8 and {one.ended for one in walks} == {"end", "no edge"}
