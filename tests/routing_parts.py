"""What the tests of routing share: graphs over servers on this machine, a router with tokens, and a model that wants given calls."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from endpoint_server import QUICK
from model_parts import make_model, make_processor

from omnivision.functions import install_tokens, target_ids
from omnivision.functions.function_set import IRRELEVANT
from omnivision.routing.graph import Graph

ABOUT = {"law": "Answers questions of law.", "plain": "Says a text in plain words.", "chat": "Talks about anything."}


def at(server, **more) -> dict:
    """The endpoint of a test's server."""
    return {"base_url": server if isinstance(server, str) else server.url, "model": "m", **QUICK, "attempts": 2, **more}


def worker(name: str, place: dict, **more) -> dict:
    """A worker as a graph's file has it."""
    return {"name": name, "description": ABOUT[name], "checkpoint" if "folder" in place else "endpoint": place, **more}


def write_graph(folder: Path, workers: list[dict], **more) -> Path:
    """A graph's file."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "graph.json").write_text(json.dumps({"workers": workers, **more}))
    return folder / "graph.json"


def router_parts(graph: Graph) -> tuple:
    """A random model and its processor, with the tokens of a graph."""
    model = make_model()
    processor = make_processor(model)
    install_tokens(model, processor.tokenizer, graph.functions())
    return model, processor


def save_router(folder: Path, graph: Graph) -> Path:
    """The same as a checkpoint."""
    model, processor = router_parts(graph)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    graph.functions().save(folder)
    return folder


class Wants:
    """In the place of generate_ids: wants to write one call after another; the grammar has the last word on every id.

    Args:
        calls: (worker, query) pairs, or None for `irrelevant`.
    """

    def __init__(self, tokenizer, functions, calls: list[tuple[str, str] | None]) -> None:
        named = [{"name": IRRELEVANT} if one is None else {"name": one[0], "arguments": {"query": one[1]}} for one in calls]
        self.wanted = [target_ids(call, tokenizer, functions) for call in named]
        self.width = len(tokenizer)
        self.asked: list[tuple[str, object]] = []  # text and picture of each call

    def __call__(self, model, processor, questions, images, max_new_tokens, *, stop_token_ids, constrain):
        self.asked.append((questions[0], images[0]))
        wanted, ids = self.wanted.pop(0), []
        while len(ids) < max_new_tokens and not (ids and ids[-1] in stop_token_ids):
            logits = torch.zeros(1, self.width)
            if len(ids) < len(wanted):
                logits[0, wanted[len(ids)]] = 1
            ids.append(int(constrain(logits, [ids]).argmax()))
        return [ids]
