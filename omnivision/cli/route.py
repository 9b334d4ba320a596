"""`omnivision route`: a request is answered by the worker of a graph that a router chooses; several steps where the graph has edges."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from omnivision_cli.call import check_request
from omnivision_cli.terminal import for_terminal

EXAMPLE = 'example: omnivision route --model runs/router/functions/final --graph graph.json "May my landlord keep the deposit?"'


def main(argv: list[str]) -> int:
    """The answer is all that stands on stdout; who was asked stands on stderr."""
    options = _options(argv)

    from omnivision.data.image import open_image
    from omnivision.model.checkpoints import load_checkpoint, model_folder
    from omnivision.routing.asking import Workers
    from omnivision.routing.graph import Graph
    from omnivision.routing.router import Router, router_functions
    from omnivision.routing.walk import walk

    folder = model_folder(options.model)  # every input is judged before anything slow begins
    graph = Graph.read(options.graph)
    functions = router_functions(graph, folder)
    if options.image:
        open_image(options.image)
    with Workers(graph, options.ledgers) as workers:
        router = Router(*load_checkpoint(folder), functions, options.max_new_tokens)
        found = walk(options.request, graph, router, workers, options.image)
    if options.json:
        about = {"model": options.model, "graph": options.graph, "image": options.image, "ledgers": str(options.ledgers)}
        print(json.dumps({**about, **found.to_dict()}, ensure_ascii=False))
    else:
        for number, step in enumerate(found.steps, 1):
            print(for_terminal(_told(number, step)), file=sys.stderr)
        print(for_terminal(found.answer))
    return 0


def _options(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="omnivision route", description="An answer through the worker that a router chooses.", epilog=EXAMPLE)
    parser.add_argument("--model", required=True, metavar="DIR", help="the router: a checkpoint of the stage functions, trained for the graph")
    parser.add_argument("--graph", required=True, metavar="FILE", help="workers, edges, fallbacks: JSON")
    parser.add_argument("--image", metavar="FILE", help="JPEG, PNG or WebP")
    parser.add_argument("--ledgers", type=Path, default=Path("route-ledgers"), metavar="DIR",
                        help="what was asked of each endpoint (default route-ledgers)")
    parser.add_argument("--max-new-tokens", type=int, default=256, metavar="N",
                        help="longest call, and longest answer of the router's own (default 256)")
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    parser.add_argument("request")
    options = parser.parse_args(argv)
    if options.max_new_tokens < 1:
        parser.error(f"--max-new-tokens is {options.max_new_tokens}; at least 1 is needed")
    check_request(parser, options.request)
    return options


def _told(number: int, step) -> str:
    """One line about a step: who was asked what, and what became of it."""
    from omnivision.functions.literals import literal

    asked = ", ".join(f"{one.worker} {one.outcome}{f' ({one.detail})' if one.detail else ''}" for one in step.replies)
    return f"step {number}: {step.worker}({literal(step.query, 'query')})  [{asked}; {step.seconds:.1f} s]".replace("\n", " ")
