"""Routing: a small model chooses which worker answers a request, and rewords the request for it.

graph (workers, and who may follow whom) -> router (one call: the worker and its query) -> asking (the worker, or whoever
stands in for it) -> walk (step by step along the edges).

Source: Octopus v4 (functional tokens that name language models, a graph of workers).
"""

from omnivision.routing.graph import Graph
from omnivision.routing.turns import training_row, turn
from omnivision.routing.worker import Checkpoint, Worker, WorkerEndpoint

__all__ = ["Checkpoint", "Graph", "Worker", "WorkerEndpoint", "training_row", "turn"]
